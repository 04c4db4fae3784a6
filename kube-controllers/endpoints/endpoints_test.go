package endpoints

import (
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"tortie/internal/api"
	"tortie/kube-controllers/kubetest"
)

func pod(node string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "my-pod", Labels: labels},
		Spec:       corev1.PodSpec{NodeName: node, ServiceAccountName: "sa"},
	}
}

// endpoint is one as felix makes it at CNI ADD.
func endpoint(container string) *api.WorkloadEndpoint {
	wep := &api.WorkloadEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "node--a-k8s-my--pod-eth0"}}
	wep.Spec = api.WorkloadEndpointSpec{
		Orchestrator: "k8s", Node: "node-a", Pod: "my-pod", Endpoint: "eth0", ContainerID: container,
		IPNetworks: []string{"10.65.0.1/32"}, Profiles: []string{"kns.ns1"}, InterfaceName: "cali0123456789a",
	}
	return wep
}

func key() api.Key {
	return api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "ns1", Name: "node--a-k8s-my--pod-eth0"}
}

func world(t *testing.T, objects []runtime.Object, test func(w *kubetest.World)) {
	synctest.Test(t, func(t *testing.T) { test(kubetest.New(t, objects...)) })
}

func start(w *kubetest.World) {
	w.Helper()
	c, err := New(Config{Client: w.Store, Registry: w.Registry, Cache: w.Cache, Pods: w.Cluster.Pods(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.Fatal(err)
	}
	w.Start(c)
}

func labels(more ...string) map[string]string {
	m := map[string]string{v3.LabelNamespace: "ns1", v3.LabelOrchestrator: "k8s", v3.LabelServiceAccount: "sa"}
	for i := 0; i < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	return m
}

func check(w *kubetest.World, container string, want map[string]string, profiles ...string) {
	w.Helper()
	got := w.Get(key()).(*api.WorkloadEndpoint)
	if diff := cmp.Diff(want, got.Labels); diff != "" {
		w.Error(diff)
	}
	if diff := cmp.Diff(profiles, got.Spec.Profiles); diff != "" {
		w.Error(diff)
	}
	if got.Spec.ContainerID != container || got.Spec.InterfaceName != "cali0123456789a" || len(got.Spec.IPNetworks) != 1 {
		w.Errorf("what felix owns was changed: %+v", got.Spec)
	}
}

func TestEndpointFollowsThePod(t *testing.T) {
	world(t, []runtime.Object{pod("node-a", map[string]string{"app": "web"})}, func(w *kubetest.World) {
		w.Put(endpoint("c1"))
		start(w)
		check(w, "c1", labels("app", "web"), "kns.ns1", "ksa.ns1.sa")
		_, _ = w.API.CoreV1().Pods("ns1").Update(t.Context(), pod("node-a", map[string]string{"app": "db", "v": "2"}), metav1.UpdateOptions{})
		w.Settle()
		check(w, "c1", labels("app", "db", "v", "2"), "kns.ns1", "ksa.ns1.sa")
		w.Put(endpoint("c2")) // felix writes anew for a new sandbox
		w.Settle()
		check(w, "c2", labels("app", "db", "v", "2"), "kns.ns1", "ksa.ns1.sa")
		before := w.Store.Revision()
		w.Settle()
		if w.Store.Revision() != before {
			t.Error("something is written again and again")
		}
	})
}

func TestEndpointBeforeThePodIsKnown(t *testing.T) {
	world(t, nil, func(w *kubetest.World) {
		w.Put(endpoint("c1"))
		start(w)
		check(w, "c1", map[string]string{v3.LabelNamespace: "ns1", v3.LabelOrchestrator: "k8s"}, "kns.ns1")
		_, _ = w.API.CoreV1().Pods("ns1").Create(t.Context(), pod("node-a", map[string]string{"app": "web"}), metav1.CreateOptions{})
		w.Settle()
		check(w, "c1", labels("app", "web"), "kns.ns1", "ksa.ns1.sa")
		_ = w.API.CoreV1().Pods("ns1").Delete(t.Context(), "my-pod", metav1.DeleteOptions{})
		w.Settle()
		check(w, "c1", labels("app", "web"), "kns.ns1", "ksa.ns1.sa") // it is the node's to delete
	})
}

func TestPodOfThatNameOnAnotherNodeSaysNothing(t *testing.T) {
	world(t, []runtime.Object{pod("node-b", map[string]string{"app": "web"})}, func(w *kubetest.World) {
		w.Put(endpoint("c1"))
		start(w)
		check(w, "c1", map[string]string{v3.LabelNamespace: "ns1", v3.LabelOrchestrator: "k8s"}, "kns.ns1")
	})
}

func TestNodeMayHaveAnotherNameInKubernetes(t *testing.T) {
	world(t, []runtime.Object{pod("node-a.example.org", map[string]string{"app": "web"})}, func(w *kubetest.World) {
		node := &api.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a"}}
		node.Spec.OrchRefs = []api.OrchRef{{Orchestrator: "k8s", NodeName: "node-a.example.org"}}
		w.Put(node, endpoint("c1"))
		start(w)
		check(w, "c1", labels("app", "web"), "kns.ns1", "ksa.ns1.sa")
	})
}
