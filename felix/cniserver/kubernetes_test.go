package cniserver

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/control/cniwire"
)

// kubernetesPod is what Kubernetes tells of pod web-0.
func kubernetesPod(uid, account string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "web-0", GenerateName: "web-", Labels: map[string]string{"app": "web"}}}
	p.UID = "u1"
	if uid != "" {
		p.Annotations = map[string]string{"kubernetes.io/config.hash": uid}
	}
	p.Spec.ServiceAccountName = account
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}}
	return p
}

func kubernetesRequest(command, container, uid string) cniwire.Request {
	r := podRequest(command, container, "web-0")
	r.Args += ";K8S_POD_UID=" + uid
	r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"}}`)
	return r
}

// wantPod checks what the endpoint of web-0 says of the pod.
func (w *world) wantPod(container string, profiles ...string) {
	w.t.Helper()
	wep := w.endpoint("ns1", "node1-k8s-web--0-eth0")
	if diff := cmp.Diff(profiles, wep.Spec.Profiles); diff != "" || wep.Spec.ContainerID != container || len(wep.Spec.IPNetworks) != 1 {
		w.t.Errorf("%+v: profiles %s", wep.Spec, diff)
	}
	if known := len(profiles) > 1; known != (wep.Labels["app"] == "web") || known != (wep.Labels[v3.LabelServiceAccount] == "sa") ||
		known != (len(wep.Spec.Ports) == 1) || known != (wep.GenerateName == "web-") {
		w.t.Errorf("labels %v, ports %v, generateName %q", wep.Labels, wep.Spec.Ports, wep.GenerateName)
	}
}

func TestAddWritesWhatKubernetesHasToldOfThePod(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.pods = map[string]*corev1.Pod{"ns1/web-0": kubernetesPod("", "sa")}
		w.ok(kubernetesRequest("ADD", "c1", "u1"))
		w.wantPod("c1", "kns.ns1", "ksa.ns1.sa")
		w.ok(kubernetesRequest("ADD", "c2", "u1")) // a new sandbox loses nothing
		w.wantPod("c2", "kns.ns1", "ksa.ns1.sa")
		w.ok(kubernetesRequest("DEL", "c1", "u1"))
		w.ok(kubernetesRequest("DEL", "c2", "u1"))
		w.wantNothing()
	})(t)
}

func TestTheAddressSaysWhosePodHasIt(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(kubernetesRequest("ADD", "c1", "u1"))
		want := map[string]string{api.AttributeNamespace: "ns1", api.AttributePod: "web-0", api.AttributePodUID: "u1"}
		if diff := cmp.Diff(want, w.asked.Attrs); diff != "" { // ipam adds node and timestamp
			t.Error(diff)
		}
	})(t)
}

func TestAddOfAPodThatIsNotKnownYetGoesOn(t *testing.T) {
	inWorld(func(_ *testing.T, w *world) {
		w.ok(kubernetesRequest("ADD", "c1", "u1"))
		w.wantPod("c1", "kns.ns1")
	})(t)
}

// TestEarlierPodOfTheNameGivesItsRightsToNobody: what is known may be of the pod that
// had the name before.
func TestEarlierPodOfTheNameGivesItsRightsToNobody(t *testing.T) {
	inWorld(func(_ *testing.T, w *world) {
		w.pods = map[string]*corev1.Pod{"ns1/web-0": kubernetesPod("", "sa")}
		w.ok(kubernetesRequest("ADD", "c1", "u2"))
		w.wantPod("c1", "kns.ns1")
	})(t)
}

func TestStaticPodIsKnownByTheKubeletsUID(t *testing.T) {
	inWorld(func(_ *testing.T, w *world) {
		w.pods = map[string]*corev1.Pod{"ns1/web-0": kubernetesPod("h1", "sa")}
		w.ok(kubernetesRequest("ADD", "c1", "h1"))
		w.wantPod("c1", "kns.ns1", "ksa.ns1.sa")
	})(t)
}
