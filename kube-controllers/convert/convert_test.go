package convert

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

// stored is the spec of an object as etcd holds it.
func stored(t *testing.T, obj api.Object) string {
	t.Helper()
	value, err := api.NewRegistry().Encode(obj, api.Unknown{})
	if err != nil {
		t.Fatal(err)
	}
	_, spec, _ := strings.Cut(string(value), `"spec":`)
	return strings.TrimSuffix(spec, "}")
}

func TestNamespaceProfileIsStoredAsUpstreamDoes(t *testing.T) {
	got := Namespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns1", Labels: map[string]string{"env": "prod"}}})
	const want = `{"ingress":[{"action":"Allow","source":{},"destination":{}}],"egress":[{"action":"Allow","source":{},"destination":{}}],` +
		`"labelsToApply":{"pcns.env":"prod","pcns.projectcalico.org/name":"ns1"}}`
	if diff := cmp.Diff(want, stored(t, got)); got.Name != "kns.ns1" || diff != "" {
		t.Errorf("%s: %s", got.Name, diff)
	}
	if ns, ok := NamespaceOf(NamespaceProfileKey("ns1")); !ok || ns != "ns1" {
		t.Errorf("%q, %v", ns, ok)
	}
}

func TestServiceAccountProfileOnlyGivesLabels(t *testing.T) {
	got := ServiceAccount(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "a.b", Labels: map[string]string{"role": "db"}}})
	const want = `{"labelsToApply":{"pcsa.projectcalico.org/name":"a.b","pcsa.role":"db"}}`
	if diff := cmp.Diff(want, stored(t, got)); got.Name != "ksa.ns1.a.b" || diff != "" {
		t.Errorf("%s: %s", got.Name, diff)
	}
	if ns, name, ok := ServiceAccountOf(ServiceAccountProfileKey("ns1", "a.b")); !ok || ns != "ns1" || name != "a.b" {
		t.Errorf("%q, %q, %v", ns, name, ok)
	}
	if _, _, ok := ServiceAccountOf(api.Key{Kind: api.KindProfile, Name: "ksa.broken"}); ok {
		t.Error("ksa.broken stands for a service account")
	}
}

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
			got, _ := Endpoint(tc.wep, tc.pod)
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
			if again, changed := Endpoint(got, tc.pod); changed || again != got {
				t.Error("a second time it changes again")
			}
		})
	}
}

func TestNodeLabels(t *testing.T) {
	const key = "projectcalico.org/kube-labels"
	tests := map[string]struct {
		labels     map[string]string
		annotation string
		kubernetes map[string]string
		want       map[string]string
	}{
		"FirstTime":            {map[string]string{"rack": "r1"}, "", map[string]string{"zone": "a"}, map[string]string{"rack": "r1", "zone": "a"}},
		"GoneInKubernetes":     {map[string]string{"rack": "r1", "zone": "a"}, `{"zone":"a"}`, map[string]string{}, map[string]string{"rack": "r1"}},
		"ChangedInKubernetes":  {map[string]string{"zone": "a"}, `{"zone":"a"}`, map[string]string{"zone": "b"}, map[string]string{"zone": "b"}},
		"RemovedByAnOperator":  {nil, `{"zone":"a"}`, map[string]string{"zone": "a"}, map[string]string{"zone": "a"}},
		"UnreadableAnnotation": {map[string]string{"old": "1"}, `{`, map[string]string{"zone": "a"}, map[string]string{"old": "1", "zone": "a"}},
		"NullAsUpstreamWrites": {map[string]string{"rack": "r1"}, `null`, nil, map[string]string{"rack": "r1"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			node := &api.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: tc.labels, Annotations: map[string]string{"other": "x"}}}
			if tc.annotation != "" {
				node.Annotations[key] = tc.annotation
			}
			got, changed, err := NodeLabels(node, tc.kubernetes)
			if err != nil || !changed {
				t.Fatalf("changed %v, %v", changed, err)
			}
			if diff := cmp.Diff(tc.want, got.Labels); diff != "" || got.Annotations["other"] != "x" {
				t.Errorf("%v %s", got.Annotations, diff)
			}
			if again, changed, err := NodeLabels(got, tc.kubernetes); err != nil || changed || again != got {
				t.Error("a second time it changes again")
			}
		})
	}
	got, _, _ := NodeLabels(&api.Node{}, map[string]string{"b": "2", "a": "1"})
	if got.Annotations[key] != `{"a":"1","b":"2"}` {
		t.Errorf("annotation %s", got.Annotations[key])
	}
}
