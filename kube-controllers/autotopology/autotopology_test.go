package autotopology

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"tortie/internal/api"
	"tortie/internal/autotopology"
	"tortie/internal/autotopology/carryout"
	"tortie/internal/bgpsummary"
	"tortie/internal/datastore"
	"tortie/kube-controllers/kubetest"
)

const nodes = 4

// world has four nodes that are ready, and a bgpd on each that does as the resources say.
func world(t *testing.T, test func(w *kubetest.World)) {
	synctest.Test(t, func(t *testing.T) {
		var objects []runtime.Object
		for i := range nodes {
			objects = append(objects, kubeNode(i, corev1.ConditionTrue, time.Now()))
		}
		w := kubetest.New(t, objects...)
		for i := range nodes {
			w.Put(&api.Node{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i), Labels: map[string]string{"topology.kubernetes.io/zone": fmt.Sprint("z", i%2)}},
				Spec: api.NodeSpec{
					BGP:      &api.NodeBGPSpec{IPv4Address: fmt.Sprintf("10.0.0.%d/24", i+1)},
					OrchRefs: []api.OrchRef{{Orchestrator: "k8s", NodeName: fmt.Sprint("k", i)}},
				},
			})
		}
		answer(w)
		c, err := New(Config{
			Client: w.Store, Registry: w.Registry, Cache: w.Cache, Nodes: w.Cluster.Nodes(), Now: time.Now, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(c)
		test(w)
	})
}

func kubeNode(i int, ready corev1.ConditionStatus, since time.Time) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("k", i)},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.NewTime(since)},
		}},
	}
}

// answer is the bgpds of all nodes, whose sessions are all up.
func answer(w *kubetest.World) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	w.Cleanup(func() { cancel(); <-done })
	watch, err := w.Store.Watch(ctx, datastore.Range{Kind: api.KindCalicoNodeStatus}, 0)
	if err != nil {
		w.Fatal(err)
	}
	go func() {
		defer close(done)
		defer watch.Stop()
		for events := range watch.Events() {
			for _, ev := range events {
				if ev.Entry != nil {
					fill(ctx, w, *ev.Entry)
				}
			}
		}
	}()
}

func fill(ctx context.Context, w *kubetest.World, e datastore.Entry) {
	o := e.Object.DeepCopyObject().(*v3.CalicoNodeStatus)
	if !o.Status.LastUpdated.IsZero() {
		return
	}
	in, err := carryout.Runner{Client: w.Store, Registry: w.Registry}.Read(ctx)
	if err != nil {
		return
	}
	_, summaries := autotopology.WellOff(in)
	text, _ := bgpsummary.Encode(summaries[o.Spec.Node])
	o.Annotations[bgpsummary.Annotation] = text
	o.Status.LastUpdated = metav1.Now()
	e.Object = o
	_, _ = w.Store.Txn(ctx, datastore.Update(e)) // it may be gone already
}

func set(w *kubetest.World, value string) {
	conf := v3.NewBGPConfiguration()
	if old, ok := w.Get(api.Key{Kind: api.KindBGPConfiguration, Name: "default"}).(*v3.BGPConfiguration); ok {
		conf = old.DeepCopy()
	}
	conf.Name = "default"
	if conf.Annotations == nil {
		conf.Annotations = map[string]string{}
	}
	conf.Annotations[api.AnnotationAutoTopology] = value
	w.Put(conf)
	time.Sleep(2 * time.Minute) // simulated
	synctest.Wait()
}

// now is the reflectors and the mesh.
func now(w *kubetest.World) string {
	var reflectors []string
	for i := range nodes {
		n, ok := w.Get(api.Key{Kind: api.KindNode, Name: fmt.Sprint("n", i)}).(*api.Node)
		if ok && n.Labels[api.LabelRouteReflector] == "true" && n.Spec.BGP.RouteReflectorClusterID != "" {
			reflectors = append(reflectors, n.Name)
		}
	}
	mesh := "on"
	if conf, ok := w.Get(api.Key{Kind: api.KindBGPConfiguration, Name: "default"}).(*v3.BGPConfiguration); ok && conf.Spec.NodeToNodeMeshEnabled != nil && !*conf.Spec.NodeToNodeMeshEnabled {
		mesh = "off"
	}
	return strings.Join(reflectors, " ") + " mesh " + mesh
}

func want(w *kubetest.World, state string) {
	w.Helper()
	if got := now(w); got != state {
		w.Errorf("%q, want %q", got, state)
	}
}

func TestClusterIsKeptAsAutoTopologyIsSet(t *testing.T) {
	world(t, func(w *kubetest.World) {
		want(w, " mesh on") // nobody asked for it
		set(w, "above=3 reflectors=2")
		want(w, "n0 n1 mesh off")
		set(w, "off")
		want(w, " mesh on")
		if names := w.Names(api.KindBGPPeer); len(names) > 0 {
			t.Errorf("BGPPeers are left: %v", names)
		}
		if names := w.Names(api.KindCalicoNodeStatus); len(names) > 0 {
			t.Errorf("questions are left: %v", names)
		}
	})
}

func TestReflectorThatKubernetesHasNotReadyIsReplaced(t *testing.T) {
	world(t, func(w *kubetest.World) {
		set(w, "above=3 reflectors=2")
		want(w, "n0 n1 mesh off")
		unready := kubeNode(1, corev1.ConditionFalse, time.Now())
		if _, err := w.API.CoreV1().Nodes().UpdateStatus(t.Context(), unready, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(unreadyFor - time.Second) // simulated
		synctest.Wait()
		want(w, "n0 n1 mesh off") // it may only be starting anew
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		want(w, "n0 n3 mesh off")
	})
}

func TestNothingIsReplacedWhereNoNodeIsReady(t *testing.T) {
	world(t, func(w *kubetest.World) {
		set(w, "above=3 reflectors=2")
		for i := range nodes {
			if _, err := w.API.CoreV1().Nodes().UpdateStatus(t.Context(), kubeNode(i, corev1.ConditionUnknown, time.Now()), metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		want(w, "n0 n1 mesh off")
	})
}
