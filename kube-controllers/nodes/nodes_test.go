package nodes

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"tortie/internal/api"
	"tortie/ipam"
	"tortie/kube-controllers/kubetest"
)

func kubeNode(name string, labels map[string]string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

func ourNode(name, kubernetes string, labels map[string]string) *api.Node {
	n := &api.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	if kubernetes != "" {
		n.Spec.OrchRefs = []api.OrchRef{{Orchestrator: "k8s", NodeName: kubernetes}}
	}
	return n
}

func world(t *testing.T, objects []runtime.Object, test func(w *kubetest.World)) {
	synctest.Test(t, func(t *testing.T) { test(kubetest.New(t, objects...)) })
}

func start(w *kubetest.World, syncLabels bool) {
	w.Helper()
	c, err := New(Config{
		Client: w.Store, Registry: w.Registry, Cache: w.Cache, Nodes: w.Cluster.Nodes(),
		SyncLabels: func() bool { return syncLabels }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.Fatal(err)
	}
	w.Start(c)
}

func nodeKey(name string) api.Key { return api.Key{Kind: api.KindNode, Name: name} }

func TestLabelsComeFromKubernetesAndAnOperatorsStay(t *testing.T) {
	world(t, []runtime.Object{kubeNode("k1", map[string]string{"zone": "a"})}, func(w *kubetest.World) {
		w.Put(ourNode("n1", "k1", map[string]string{"rack": "r1"}))
		start(w, true)
		want := map[string]string{"rack": "r1", "zone": "a"}
		if diff := cmp.Diff(want, w.Get(nodeKey("n1")).GetLabels()); diff != "" {
			t.Error(diff)
		}
		_, _ = w.API.CoreV1().Nodes().Update(t.Context(), kubeNode("k1", map[string]string{"disk": "ssd"}), metav1.UpdateOptions{})
		w.Settle()
		want = map[string]string{"rack": "r1", "disk": "ssd"}
		got := w.Get(nodeKey("n1"))
		if diff := cmp.Diff(want, got.GetLabels()); diff != "" || got.GetAnnotations()["projectcalico.org/kube-labels"] != `{"disk":"ssd"}` {
			t.Errorf("%v %s", got.GetAnnotations(), diff)
		}
		before := w.Store.Revision()
		w.Settle()
		if w.Store.Revision() != before {
			t.Error("something is written again and again")
		}
	})
}

func TestLabelsAreLeftAloneWhenTheyAreNotWanted(t *testing.T) {
	world(t, []runtime.Object{kubeNode("k1", map[string]string{"zone": "a"})}, func(w *kubetest.World) {
		w.Put(ourNode("n1", "k1", nil))
		start(w, false)
		if got := w.Get(nodeKey("n1")).GetLabels(); len(got) > 0 {
			t.Errorf("%v", got)
		}
	})
}

// populate gives a node all that can belong to it, and another node an address in
// one of its blocks.
func populate(w *kubetest.World, node string) {
	w.Helper()
	peer := v3.NewBGPPeer()
	peer.Name, peer.Spec.Node, peer.Spec.PeerIP, peer.Spec.ASNumber = "its-peer", node, "192.0.2.1", 64512
	other := v3.NewBGPPeer()
	other.Name, other.Spec.PeerIP, other.Spec.ASNumber = "everybodys", "192.0.2.2", 64512
	felix, bgp, hep := v3.NewFelixConfiguration(), v3.NewBGPConfiguration(), v3.NewHostEndpoint()
	felix.Name, bgp.Name = "node."+node, "node."+node
	hep.Name, hep.Spec.Node, hep.Spec.InterfaceName = "its-hep", node, "eth0"
	wep := &api.WorkloadEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: node + "-k8s-p-eth0"}}
	wep.Spec = api.WorkloadEndpointSpec{Orchestrator: "k8s", Node: node, Pod: "p", Endpoint: "eth0", IPNetworks: []string{"10.65.0.1/32"}, InterfaceName: "cali1"}
	w.Put(peer, other, felix, bgp, hep, wep)

	w.Assign(node, "net.c1", api.AttributeNamespace, "ns1", api.AttributePod, "p")
	w.Assign(node, ipam.HandleID("vxlan-tunnel-addr-"+node), api.AttributeType, "vxlanTunnelAddress")
	w.Assign(node, "net.c2", api.AttributeNamespace, "ns1", api.AttributePod, "q", api.AttributeNode, "other")
}

func TestNodeThatIsGoneIsCleanedUpCompletely(t *testing.T) {
	world(t, []runtime.Object{kubeNode("k1", nil), kubeNode("k2", nil)}, func(w *kubetest.World) {
		w.Put(ourNode("n1", "k1", nil), ourNode("n2", "k2", nil), ourNode("router", "", nil))
		populate(w, "n1")
		start(w, true)
		_ = w.API.CoreV1().Nodes().Delete(t.Context(), "k1", metav1.DeleteOptions{})
		w.Settle()
		for kind, want := range map[api.Kind][]string{
			api.KindNode: {"n2", "router"}, api.KindBGPPeer: {"everybodys"}, api.KindFelixConfiguration: {}, api.KindBGPConfiguration: {},
			api.KindHostEndpoint: {}, api.KindWorkloadEndpoint: {}, api.KindBlockAffinity: {}, api.KindIPAMHandle: {"net.c2"},
		} {
			if diff := cmp.Diff(want, w.Names(kind)); diff != "" {
				t.Errorf("%s: %s", kind, diff)
			}
		}
		// The block in which another node holds an address stays, without an owner.
		blocks := w.Names(api.KindIPAMBlock)
		if len(blocks) != 2 {
			t.Fatalf("%v", blocks)
		}
		block := w.Get(api.Key{Kind: api.KindIPAMBlock, Name: blocks[0]}).(*api.IPAMBlock)
		if block.Spec.Affinity != nil || len(block.Spec.Attributes) != 1 {
			t.Errorf("%+v", block.Spec)
		}
	})
}

func TestNodeThatWasGoneBeforeTheStartIsCleanedUp(t *testing.T) {
	world(t, []runtime.Object{kubeNode("k2", nil)}, func(w *kubetest.World) {
		w.Put(ourNode("n1", "k1", nil), ourNode("n2", "k2", nil))
		start(w, true)
		if diff := cmp.Diff([]string{"n2"}, w.Names(api.KindNode)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestNodeIsKeptWhileAnythingIsUncertain(t *testing.T) {
	tests := map[string]struct {
		listed  []runtime.Object
		prepare func(w *kubetest.World)
	}{
		"StaleList":  {[]runtime.Object{kubeNode("k2", nil)}, func(w *kubetest.World) { w.OnlyLive("nodes", kubeNode("k1", nil)) }},
		"NoNodeEver": {nil, func(*kubetest.World) {}},
		"APIServerDoesNotAnswer": {[]runtime.Object{kubeNode("k2", nil)}, func(w *kubetest.World) {
			w.Fail("get", "nodes", context.DeadlineExceeded)
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			world(t, tc.listed, func(w *kubetest.World) {
				w.Put(ourNode("n1", "k1", nil))
				populate(w, "n1")
				tc.prepare(w)
				before := strings.Join(w.Store.Paths("/calico/"), "\n")
				start(w, true)
				if diff := cmp.Diff(before, strings.Join(w.Store.Paths("/calico/"), "\n")); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestInterruptedRemovalIsCompleted(t *testing.T) {
	world(t, []runtime.Object{kubeNode("k1", nil), kubeNode("k2", nil)}, func(w *kubetest.World) {
		w.Put(ourNode("n1", "k1", nil))
		populate(w, "n1")
		start(w, true)
		w.Store.LoseReplies(3)
		_ = w.API.CoreV1().Nodes().Delete(t.Context(), "k1", metav1.DeleteOptions{})
		w.Settle()
		if w.Get(nodeKey("n1")) != nil || len(w.Names(api.KindWorkloadEndpoint)) > 0 || len(w.Names(api.KindBlockAffinity)) > 0 {
			t.Error("something is left")
		}
	})
}
