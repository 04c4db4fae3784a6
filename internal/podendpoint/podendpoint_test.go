package podendpoint

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

func endpoint(labels map[string]string, profiles ...string) *api.WorkloadEndpoint {
	wep := &api.WorkloadEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "n-k8s-p-eth0", Labels: labels}}
	wep.Spec = api.WorkloadEndpointSpec{Orchestrator: "k8s", Node: "n", Pod: "p", Endpoint: "eth0", ContainerID: "c1", Profiles: profiles, MAC: "ca:fe:00:00:00:01"}
	return wep
}

func pod(account string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "p", Labels: labels}, Spec: corev1.PodSpec{ServiceAccountName: account}}
}

func TestEndpointTakesLabelsAndServiceAccountOfThePod(t *testing.T) {
	fixed := map[string]string{v3.LabelNamespace: "ns1", v3.LabelOrchestrator: "k8s"}
	with := func(more ...string) map[string]string {
		m := map[string]string{v3.LabelNamespace: "ns1", v3.LabelOrchestrator: "k8s"}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	long := strings.Repeat("a", 63)
	tests := map[string]struct {
		wep      *api.WorkloadEndpoint
		pod      *corev1.Pod
		labels   map[string]string
		profiles []string
	}{
		"AsFelixMadeIt":         {endpoint(fixed, "kns.ns1"), pod("sa", map[string]string{"app": "web"}), with("app", "web", v3.LabelServiceAccount, "sa"), []string{"kns.ns1", "ksa.ns1.sa"}},
		"LabelsThatAreGone":     {endpoint(with("app", "web"), "kns.ns1", "ksa.ns1.sa"), pod("sa", nil), with(v3.LabelServiceAccount, "sa"), []string{"kns.ns1", "ksa.ns1.sa"}},
		"AnotherAccount":        {endpoint(fixed, "kns.ns1", "ksa.ns1.old", "extra"), pod("sa", nil), with(v3.LabelServiceAccount, "sa"), []string{"kns.ns1", "ksa.ns1.sa", "extra"}},
		"NoAccount":             {endpoint(with(v3.LabelServiceAccount, "old"), "kns.ns1", "ksa.ns1.old"), pod("", nil), fixed, []string{"kns.ns1"}},
		"NetworkWithoutPolicy":  {endpoint(fixed, "net1"), pod("sa", nil), with(v3.LabelServiceAccount, "sa"), []string{"net1"}},
		"ForgedNamespace":       {endpoint(fixed, "kns.ns1"), pod("", map[string]string{v3.LabelNamespace: "kube-system", v3.LabelServiceAccount: "admin"}), fixed, []string{"kns.ns1"}},
		"NameTooLongForALabel":  {endpoint(fixed, "kns.ns1"), pod(long, nil), fixed, []string{"kns.ns1", "ksa.ns1." + long}},
		"NoProfileNoNewProfile": {endpoint(fixed), pod("sa", nil), with(v3.LabelServiceAccount, "sa"), nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before := tc.wep.DeepCopyObject()
			got, _ := With(tc.wep, tc.pod)
			if diff := cmp.Diff(tc.labels, got.Labels); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tc.profiles, got.Spec.Profiles); diff != "" {
				t.Error(diff)
			}
			if got.Spec.ServiceAccountName != tc.pod.Spec.ServiceAccountName || got.Spec.ContainerID != "c1" || got.Spec.MAC != tc.wep.Spec.MAC {
				t.Errorf("spec %+v", got.Spec)
			}
			if diff := cmp.Diff(before, tc.wep); diff != "" {
				t.Errorf("the argument was changed: %s", diff)
			}
			if again, changed := With(got, tc.pod); changed || again != got {
				t.Error("a second time it changes again")
			}
		})
	}
}

func TestEndpointTakesNamedAndMappedPorts(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	p := pod("", nil)
	p.Spec.InitContainers = []corev1.Container{
		{Name: "once", Ports: []corev1.ContainerPort{{Name: "once", ContainerPort: 1}}},
		{Name: "beside", RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "mesh", ContainerPort: 15001, Protocol: corev1.ProtocolTCP}}},
	}
	p.Spec.Containers = []corev1.Container{
		{Name: "web", Ports: []corev1.ContainerPort{
			{Name: "http", ContainerPort: 8080},
			{ContainerPort: 9090},
			{ContainerPort: 53, HostPort: 5353, HostIP: "127.0.0.1", Protocol: corev1.ProtocolUDP},
			{Name: "odd", ContainerPort: 7, Protocol: "ICMP"},
		}},
		{Name: "sig", Ports: []corev1.ContainerPort{{Name: "sig", ContainerPort: 2905, Protocol: corev1.ProtocolSCTP}}},
	}
	got, changed := With(endpoint(nil, "kns.ns1"), p)
	value, err := api.NewRegistry().Encode(got, api.Unknown{})
	const want = `"ports":[{"name":"mesh","protocol":"TCP","port":15001,"hostPort":0,"hostIP":""},` +
		`{"name":"http","protocol":"TCP","port":8080,"hostPort":0,"hostIP":""},` +
		`{"protocol":"UDP","port":53,"hostPort":5353,"hostIP":"127.0.0.1"},` +
		`{"name":"sig","protocol":"SCTP","port":2905,"hostPort":0,"hostIP":""}]`
	if !changed || err != nil || !strings.Contains(string(value), want) {
		t.Errorf("changed %v, %v\ngot  %s\nwant %s", changed, err, value, want)
	}
	if again, changed := With(got, p); changed || again != got {
		t.Error("a second time it changes again")
	}
	without, _ := With(got, pod("", nil))
	if without.Spec.Ports != nil {
		t.Errorf("ports that are gone stay: %v", without.Spec.Ports)
	}
}

func TestEndpointOfAPodWithTooManyPortsFitsIntoEtcd(t *testing.T) {
	p := pod("", nil)
	ports := make([]corev1.ContainerPort, 20000)
	for i := range ports {
		ports[i] = corev1.ContainerPort{
			Name: fmt.Sprintf("port-%010d", i), ContainerPort: 65535, HostPort: 65535, Protocol: corev1.ProtocolSCTP,
			HostIP: "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255",
		}
	}
	p.Spec.Containers = []corev1.Container{{Name: "web", Ports: ports[:10000]}, {Name: "more", Ports: ports[10000:]}}
	got, _ := With(endpoint(nil, "kns.ns1"), p)
	value, err := api.NewRegistry().Encode(got, api.Unknown{})
	if err != nil || len(value) > 5<<18 { // of 1.5 MiB, a sixth is left to labels
		t.Errorf("%d bytes, %v", len(value), err)
	}
	if kept := len(got.Spec.Ports); kept+PortsLeftOut(p) != len(ports) || got.Spec.Ports[0].Name != ports[0].Name {
		t.Errorf("%d ports, %d are said to be left out", kept, PortsLeftOut(p))
	}
	if again, changed := With(got, p); changed || again != got {
		t.Error("a second time it changes again")
	}
}

func TestTrimmedPodMakesTheSameEndpoint(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	p := pod("sa", map[string]string{"app": "web"})
	p.GenerateName, p.UID = "web-", "u1"
	p.Annotations = map[string]string{"cni.projectcalico.org/ipv4pools": "[]", "kubernetes.io/config.hash": "h1", "other": strings.Repeat("x", 1000)}
	p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubelet"}}
	p.Spec.InitContainers = []corev1.Container{{RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "mesh", ContainerPort: 15001}}}}
	p.Spec.Containers = []corev1.Container{{Image: "web", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}, {Image: "none"}}
	trimmed := Trim(p)
	want, _ := With(endpoint(nil, "kns.ns1"), p)
	got, _ := With(endpoint(nil, "kns.ns1"), trimmed)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(trimmed.Annotations) != 2 || trimmed.ManagedFields != nil || len(trimmed.Spec.Containers) != 1 || trimmed.Spec.Containers[0].Image != "" {
		t.Errorf("more is kept than is read: %+v", trimmed)
	}
	for uid, want := range map[string]bool{"": true, "u1": true, "h1": true, "u2": false} {
		if IsUID(trimmed, uid) != want {
			t.Errorf("UID %q: %v", uid, !want)
		}
	}
}

// TestEndpointTakesLimitsOfThePod: those of Kubernetes where no other plugin sees to
// them; what can't be read changes nothing.
func TestEndpointTakesLimitsOfThePod(t *testing.T) {
	before := &api.QoSControls{EgressBandwidth: 2000, EgressBurst: 4000}
	tests := map[string]struct {
		value  string
		plugin bool
		before *api.QoSControls
		want   *api.QoSControls
	}{
		"new":           {"1M", false, nil, &api.QoSControls{IngressBandwidth: 1e6, IngressBurst: 4 << 30}},
		"another":       {"1M", false, before, &api.QoSControls{IngressBandwidth: 1e6, IngressBurst: 4 << 30}},
		"gone":          {"", false, before, nil},
		"a plugin's":    {"1M", true, nil, nil},
		"can't be read": {"fast", false, before, before},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := pod("", nil)
			if tc.value != "" {
				p.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": tc.value}
			}
			wep := endpoint(nil, "kns.ns1")
			wep.Spec.QoSControls = tc.before
			if tc.plugin {
				wep.Annotations = map[string]string{BandwidthBy: ByPlugin}
			}
			got, _ := With(wep, Trim(p))
			if diff := cmp.Diff(tc.want, got.Spec.QoSControls); diff != "" {
				t.Error(diff)
			}
			if again, changed := With(got, p); changed || again != got {
				t.Error("a second time it changes again")
			}
		})
	}
}
