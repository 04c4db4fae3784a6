package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
	"tortie/internal/kubeapi"
	"tortie/internal/kubeapi/apitest"
)

// world is a node with a datastore and an API server.
type world struct {
	*testing.T
	server *apitest.Server
	client *kubeapi.Client
	reg    *api.Registry
	store  *memory.Store
	keeper *Keeper
	pods   *Pods
	node   *Node
	spaces *Namespaces
	moved  int // how often the node's addresses changed
	log    strings.Builder
	run    func(func(ctx context.Context))
}

// inWorld runs a test in simulated time, with all parts at work.
func inWorld(t *testing.T, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		reg := api.NewRegistry()
		w := &world{T: t, server: apitest.New(true), reg: reg, store: memory.New(reg)}
		log := slog.New(slog.NewTextHandler(&w.log, nil))
		var err error
		if w.client, err = kubeapi.New(w.server.Config(), "ClusterRole calico-node"); err != nil {
			t.Fatal(err)
		}
		w.keeper, w.pods = NewKeeper("node-1", w.store.Client(), log)
		w.node, w.spaces = NewNode("worker-1", func() { w.moved++ }), &Namespaces{}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		w.run = func(part func(context.Context)) { running.Go(func() { part(ctx) }) }
		syncer := datastore.NewSyncer(datastore.SyncerConfig{
			Client: w.store.Client(), Ranges: []datastore.Range{{Kind: api.KindWorkloadEndpoint}}, Sink: sink{w.keeper}, Log: log,
		})
		w.run(func(ctx context.Context) { _ = syncer.Run(ctx) })
		w.run(func(ctx context.Context) { _ = w.keeper.Run(ctx) })
		w.run(func(ctx context.Context) { kubeapi.Follow(ctx, w.client, PodsOf("worker-1"), w.pods) })
		w.run(func(ctx context.Context) { kubeapi.Follow(ctx, w.client, NodeNamed("worker-1"), w.node) })
		w.run(func(ctx context.Context) { kubeapi.Follow(ctx, w.client, AllNamespaces(), w.spaces) })
		synctest.Wait()
		test(w)
		cancel()
		running.Wait()
		w.server.Close()
		client, _ := w.client.HTTP()
		client.CloseIdleConnections()
	})
}

type sink struct{ keeper *Keeper }

func (sink) OnStatus(datastore.Status)                  {}
func (s sink) OnUpdates(updates []datastore.SyncUpdate) { s.keeper.Apply(updates) }

func pass(d time.Duration) { time.Sleep(d); synctest.Wait() }

func pod(node, app string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "web-0", UID: "u1", Labels: map[string]string{"app": app}}}
	p.Spec = corev1.PodSpec{NodeName: node, ServiceAccountName: "sa", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}}}
	return p
}

func key() api.Key {
	return api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "ns1", Name: "node--1-k8s-web--0-eth0"}
}

// add writes the endpoint of a container as an ADD does that knows nothing of the pod.
func (w *world) add(container string) {
	w.Helper()
	wep := &api.WorkloadEndpoint{}
	wep.Kind, wep.APIVersion, wep.Namespace, wep.Name = string(api.KindWorkloadEndpoint), api.GroupVersion, "ns1", key().Name
	wep.Spec = api.WorkloadEndpointSpec{
		Orchestrator: "k8s", Node: "node-1", Pod: "web-0", Endpoint: "eth0", ContainerID: container,
		IPNetworks: []string{"10.65.0.1/32"}, Profiles: []string{"kns.ns1"}, InterfaceName: "cali0123456789a",
	}
	w.write(wep)
}

func (w *world) write(wep *api.WorkloadEndpoint) {
	w.Helper()
	w.reg.Default(wep)
	if _, err := w.store.Client().Txn(w.Context(), datastore.Put(key(), wep)); err != nil {
		w.Fatal(err)
	}
}

func (w *world) endpoint() *api.WorkloadEndpoint {
	w.Helper()
	synctest.Wait()
	e, err := w.store.Client().Get(w.Context(), key())
	if err != nil {
		w.Fatal(err)
	}
	return e.Object.(*api.WorkloadEndpoint)
}

// want checks what the endpoint says of its pod; app "" for nothing.
func (w *world) want(container, app string) {
	w.Helper()
	got := w.endpoint()
	labels := map[string]string{v3.LabelNamespace: "ns1", v3.LabelOrchestrator: "k8s"}
	profiles, ports := []string{"kns.ns1"}, 0
	if app != "" {
		labels["app"], labels[v3.LabelServiceAccount] = app, "sa"
		profiles, ports = append(profiles, "ksa.ns1.sa"), 1
	}
	if diff := cmp.Diff(labels, got.Labels); diff != "" {
		w.Errorf("labels: %s", diff)
	}
	if diff := cmp.Diff(profiles, got.Spec.Profiles); diff != "" || len(got.Spec.Ports) != ports {
		w.Errorf("ports %v, profiles: %s", got.Spec.Ports, diff)
	}
	if got.Spec.ContainerID != container || got.Spec.InterfaceName != "cali0123456789a" || len(got.Spec.IPNetworks) != 1 {
		w.Errorf("what the ADD wrote was changed: %+v", got.Spec)
	}
}

func TestEndpointFollowsItsPod(t *testing.T) {
	inWorld(t, func(w *world) {
		w.add("c1")
		w.want("c1", "")
		w.server.Put(pod("worker-1", "web")) // the event comes after the ADD
		w.want("c1", "web")
		w.server.Put(pod("worker-1", "db"))
		w.want("c1", "db")
		w.add("c2") // a new sandbox, whose ADD knew nothing
		w.want("c2", "db")
		before := w.store.Revision()
		pass(time.Hour)
		if w.store.Revision() != before {
			w.Error("something is written again and again")
		}
		w.server.Delete(pod("worker-1", ""))
		w.want("c2", "db") // it is the DEL's
	})
}

func TestPodOfThatNameElsewhereSaysNothing(t *testing.T) {
	for name, spoil := range map[string]func(*corev1.Pod){
		"OnAnotherNode":       func(p *corev1.Pod) { p.Spec.NodeName = "worker-2" },
		"InTheHostsNamespace": func(p *corev1.Pod) { p.Spec.HostNetwork = true },
		"BeingDeleted":        func(p *corev1.Pod) { now := metav1.Now(); p.DeletionTimestamp = &now },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				p := pod("worker-1", "web")
				spoil(p)
				w.server.Put(p)
				w.add("c1")
				w.want("c1", "")
			})
		})
	}
}

// TestOlderViewOfKubeControllersIsNotFought: the two must never write against each
// other, however old the other's view is and for how long.
func TestOlderViewOfKubeControllersIsNotFought(t *testing.T) {
	inWorld(t, func(w *world) {
		w.server.Put(pod("worker-1", "new"))
		w.add("c1")
		w.want("c1", "new")
		old := w.endpoint()
		old.Labels["app"] = "old"
		w.write(old)
		before := w.store.Revision()
		pass(time.Hour)
		if w.store.Revision() != before {
			w.Error("felix writes against kube-controllers")
		}
		w.server.Put(pod("worker-1", "newer"))
		w.want("c1", "newer")
	})
}

func TestDatastoreAwayIsMadeUpFor(t *testing.T) {
	inWorld(t, func(w *world) {
		w.add("c1")
		w.want("c1", "")
		w.store.SetUnavailable(true)
		w.server.Put(pod("worker-1", "web"))
		pass(5 * time.Minute)
		if n := strings.Count(w.log.String(), "can't be written into its endpoint"); n < 1 || n > 20 {
			w.Errorf("%d lines in the log in five minutes", n)
		}
		w.store.SetUnavailable(false)
		pass(time.Minute)
		w.want("c1", "web")
	})
}

// refusing is a datastore that refuses one endpoint's writes, as etcd does what is
// too large for it.
type refusing struct {
	datastore.Client
	key     api.Key
	refused int
}

func (r *refusing) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	if ops[0].Key == r.key {
		r.refused++
		return 0, errors.New("the request is too large for etcd")
	}
	return r.Client.Txn(ctx, ops...)
}

func TestEndpointThatIsRefusedHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(api.NewRegistry())
		bad := api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "ns1", Name: "node--1-k8s-bad-eth0"}
		client := &refusing{Client: store.Client(), key: bad}
		var log strings.Builder
		keeper, pods := NewKeeper("node-1", client, slog.New(slog.NewTextHandler(&log, nil)))
		w := &world{T: t, reg: api.NewRegistry(), store: store, keeper: keeper, pods: pods}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- keeper.Run(ctx) }()

		w.add("c1")
		good, err := store.Client().Get(ctx, key())
		if err != nil {
			t.Fatal(err)
		}
		hostile := datastore.Entry{Key: bad, Object: good.Object.DeepCopyObject().(api.Object), Revision: good.Revision}
		wep := hostile.Object.(*api.WorkloadEndpoint)
		wep.Name, wep.Spec.Pod = bad.Name, "bad"
		keeper.Apply([]datastore.SyncUpdate{{Key: key(), Entry: &good}, {Key: bad, Entry: &hostile}})
		other := pod("worker-1", "web")
		other.Name = "bad"
		pods.Put(other)
		pass(time.Hour)
		if lines := strings.Count(log.String(), "\n"); client.refused < 5 || client.refused > 20 || lines > 20 {
			t.Errorf("%d writes and %d lines in an hour", client.refused, lines)
		}
		pods.Put(pod("worker-1", "web"))
		w.want("c1", "web") // at once
		before := client.refused
		pods.Put(other)
		synctest.Wait()
		if client.refused != before+1 {
			t.Errorf("%d writes when the refused one's pod changed", client.refused-before)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestPortsThatAreLeftOutAreToldOfOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.add("c1")
		for _, app := range []string{"web", "db"} {
			p := pod("worker-1", app)
			for i := range 10000 {
				p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{Name: fmt.Sprint("p", i), ContainerPort: 1})
			}
			w.server.Put(p)
			if got := w.endpoint(); got.Labels["app"] != app || len(got.Spec.Ports) > 9000 {
				w.Errorf("labels %v, %d ports", got.Labels, len(got.Spec.Ports))
			}
		}
		if n := strings.Count(w.log.String(), "a pod has more ports than its endpoint has room for"); n != 1 {
			w.Errorf("said %d times:\n%s", n, &w.log)
		}
	})
}

func TestConflictIsDecidedByWhatIsThere(t *testing.T) {
	inWorld(t, func(w *world) {
		w.add("c1")
		w.want("c1", "")
		w.keeper.mu.Lock()
		stale := w.keeper.endpoints[key()]
		w.keeper.mu.Unlock()
		w.add("c2")
		synctest.Wait()
		w.keeper.mu.Lock()
		w.keeper.endpoints[key()] = stale // the Syncer is behind
		w.keeper.mu.Unlock()
		w.server.Put(pod("worker-1", "web"))
		w.want("c2", "web")
	})
}

func TestPodIsKnownByItsUID(t *testing.T) {
	inWorld(t, func(w *world) {
		static := pod("worker-1", "web")
		static.Annotations = map[string]string{"kubernetes.io/config.hash": "h1"}
		w.server.Put(static)
		synctest.Wait()
		for uid, want := range map[string]bool{"": true, "u1": true, "h1": true, "u0": false} {
			if _, ok := w.pods.Get("ns1", "web-0", uid); ok != want {
				w.Errorf("UID %q: %v", uid, ok)
			}
		}
		w.server.Delete(static)
		synctest.Wait()
		if _, ok := w.pods.Get("ns1", "web-0", ""); ok {
			w.Error("a pod that is gone is known")
		}
	})
}

func node(addrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-1"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24", "fd00:244::/64", "rubbish"}}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "worker-1"}, {Type: corev1.NodeExternalIP, Address: "192.0.2.1"}}
	for _, a := range addrs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

func TestNodesAddressesAreFollowed(t *testing.T) {
	inWorld(t, func(w *world) {
		if _, err := w.node.InternalIPs(w.Context()); err == nil || !strings.Contains(err.Error(), "the Node worker-1 of Kubernetes is not known") {
			w.Errorf("before the Node is there: %v", err)
		}
		go func() { time.Sleep(time.Second); w.server.Put(node("10.10.1.1", "fd10::1")) }()
		got, err := w.node.InternalIPs(w.Context()) // waits for it
		if err != nil || len(got) != 2 || got[0] != netip.MustParseAddr("10.10.1.1") {
			w.Errorf("%v, %v", got, err)
		}
		w.server.Put(node("10.10.1.1", "fd10::1")) // a heartbeat
		synctest.Wait()
		if w.moved != 1 {
			w.Errorf("the addresses changed %d times", w.moved)
		}
		w.server.Put(node("10.10.1.2"))
		synctest.Wait()
		if got, err := w.node.InternalIPs(w.Context()); err != nil || len(got) != 1 || got[0] != netip.MustParseAddr("10.10.1.2") || w.moved != 2 {
			w.Errorf("%v, %v; changed %d times", got, err, w.moved)
		}
		if cidrs := w.node.PodCIDRs(); len(cidrs) != 2 {
			w.Errorf("pod CIDRs %v", cidrs)
		}
		w.server.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-2"}})
		for _, r := range w.server.Requests() {
			if strings.Contains(r, "nodes") && !strings.HasSuffix(r, "metadata.name=worker-1") {
				w.Errorf("asked for more than this Node: %s", r)
			}
		}
	})
}

func TestNodesConditionSaysWhetherPodsCanCome(t *testing.T) {
	inWorld(t, func(w *world) {
		ready := make(chan struct{})
		condition := &Condition{API: w.client, Node: w.node, Log: slog.New(slog.DiscardHandler), Ready: func() error {
			select {
			case <-ready:
				return nil
			default:
				return context.Canceled // not yet
			}
		}}
		w.server.Put(node("10.10.1.1"))
		running, end := context.WithCancel(w.Context())
		defer end()
		w.run(func(context.Context) { _ = condition.Run(running) })
		pass(time.Minute)
		w.condition("")
		w.server.Deny(func(verb, _ string) int {
			if verb == "patch" {
				return http.StatusForbidden
			}
			return 0
		})
		close(ready)
		pass(time.Minute)
		w.condition("")
		w.server.Deny(nil)
		pass(time.Minute)
		w.condition("False CalicoIsUp Calico is running on this node")
		w.server.Requests()
		pass(time.Hour)
		if got := strings.Join(w.server.Requests(), "\n"); strings.Contains(got, "patch") {
			w.Errorf("it is written again and again: %s", got)
		}
		other := w.server.Node("worker-1")
		other.Status.Conditions[0].Status, other.Status.Conditions[0].Reason = corev1.ConditionTrue, "NoRouteCreated"
		w.server.Put(other)
		pass(2 * time.Minute)
		w.condition("False CalicoIsUp Calico is running on this node")
		other.Status.Conditions[0].Status, other.Status.Conditions[0].Reason = corev1.ConditionFalse, "RouteCreated"
		w.server.Put(other)
		pass(2 * time.Minute)
		if c := w.server.Node("worker-1").Status.Conditions[0]; c.Reason != "RouteCreated" {
			w.Errorf("what another says as well is written over: %v", c)
		}
		end() // or it would say at once that the network is there
		pass(time.Second)
		if err := condition.Down(w.Context()); err != nil {
			w.Error(err)
		}
		w.condition("True CalicoIsDown Calico is shutting down on this node")
	})
}

// condition checks the stored one; "" for none.
func (w *world) condition(want string) {
	w.Helper()
	got := ""
	for _, c := range w.server.Node("worker-1").Status.Conditions {
		got = strings.Join([]string{string(c.Status), c.Reason, c.Message}, " ")
	}
	if got != want {
		w.Errorf("condition %q, want %q", got, want)
	}
}

// TestLimitsFollowThePodsAnnotations: a pod that runs gets others, and keeps those it has
// where they can't be read, which is said.
func TestLimitsFollowThePodsAnnotations(t *testing.T) {
	inWorld(t, func(w *world) {
		w.add("c1")
		annotated := func(value string) {
			p := pod("worker-1", "web")
			if value != "" {
				p.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": value}
			}
			w.server.Put(p)
		}
		want := func(rate int64, said string) {
			w.Helper()
			var got int64
			if q := w.endpoint().Spec.QoSControls; q != nil {
				got = q.IngressBandwidth
			}
			if line := w.keeper.Unheeded()[key().String()]; got != rate || (said == "") != (line == "") || !strings.Contains(line, said) {
				w.Errorf("%d bits a second, want %d; said %q", got, rate, line)
			}
		}
		annotated("")
		want(0, "")
		annotated("10M")
		want(1e7, "")
		annotated("20M")
		want(2e7, "")
		annotated("fast")
		want(2e7, `pod ns1/web-0 goes on with the limits it has, for those of its annotations can't be: annotation kubernetes.io/ingress-bandwidth: "fast": want 1k to 1P`)
		annotated("")
		want(0, "")
		annotated("fast")
		want(0, "fast")
		if _, err := w.store.Client().Txn(w.Context(), datastore.Delete(key(), w.revision())); err != nil {
			w.Fatal(err)
		}
		synctest.Wait()
		if lines := w.keeper.Unheeded(); len(lines) > 0 {
			w.Errorf("of a pod that is gone: %v", lines)
		}
	})
}

func (w *world) revision() datastore.Revision {
	w.Helper()
	e, err := w.store.Client().Get(w.Context(), key())
	if err != nil {
		w.Fatal(err)
	}
	return e.Revision
}

// TestNamespacesAreFollowed: of one that asks for nothing, nothing is kept.
func TestNamespacesAreFollowed(t *testing.T) {
	inWorld(t, func(w *world) {
		namespace := func(name string, annotations map[string]string) *corev1.Namespace {
			return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations, Labels: map[string]string{"a": "b"}}}
		}
		const pools = "cni.projectcalico.org/ipv4pools"
		want := func(value string) {
			w.Helper()
			synctest.Wait()
			got, told := w.spaces.Get("gold")
			if !told || got[pools] != value || len(got) > 1 {
				w.Errorf("%v, %v; want %q", got, told, value)
			}
		}
		want("")
		w.server.Put(namespace("plain", map[string]string{"other": "x"}))
		w.server.Put(namespace("gold", map[string]string{pools: `["a"]`, "other": "x"}))
		want(`["a"]`)
		w.server.Put(namespace("gold", map[string]string{pools: `["b"]`}))
		want(`["b"]`)
		w.server.Cut() // the list tells all of it anew
		pass(time.Minute)
		want(`["b"]`)
		w.server.Put(namespace("gold", nil))
		want("")
		w.server.Put(namespace("gold", map[string]string{pools: `["b"]`}))
		w.server.Delete(namespace("gold", nil))
		want("")
		if len(w.spaces.byName) > 0 {
			w.Errorf("remembered are %v", w.spaces.byName)
		}
	})
	if annotations, told := (&Namespaces{}).Get("gold"); told || annotations != nil {
		t.Error("told before anything is known")
	}
}
