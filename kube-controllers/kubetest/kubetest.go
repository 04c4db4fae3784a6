// Package kubetest is a small world for the tests of controllers: a datastore, an
// API server, and what follows both. Use it in a testing/synctest bubble: Settle
// waits until nothing moves any more.
package kubetest

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
	"tortie/ipam"
	"tortie/kube-controllers/kube"
	"tortie/kube-controllers/state"
)

// World is one test's world. Build controllers on it, then Start it.
type World struct {
	*testing.T
	Store     *memory.Store
	Registry  *api.Registry
	Resources *datastore.Resources
	API       *fake.Clientset
	Cluster   *kube.Cluster
	Cache     *state.Cache
	Syncer    *datastore.Syncer
	// Link is the connection by which the Cache follows the Store.
	Link *memory.Client
}

// New makes a world with what the API server holds.
func New(t *testing.T, objects ...runtime.Object) *World {
	reg := api.NewRegistry()
	store := memory.New(reg)
	link := store.Client()
	client := fake.NewClientset(objects...)
	cache := state.New(state.Indexes())
	log := slog.New(slog.DiscardHandler)
	return &World{
		T: t, Store: store, Registry: reg, Resources: datastore.NewResources(store, reg, time.Now), API: client,
		Cluster: kube.NewCluster(client, log), Cache: cache,
		Syncer: datastore.NewSyncer(datastore.SyncerConfig{Client: link, Ranges: state.Ranges(), Sink: cache, Log: log}),
		Link:   link,
	}
}

// Controller is what a World runs.
type Controller interface {
	Run(ctx context.Context)
	Close()
}

// Start follows datastore and API server, and runs the controllers once both have
// been read. All of it ends with the test.
func (w *World) Start(controllers ...Controller) {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Syncer.Run(ctx) })
	running.Go(func() { w.Cluster.Run(ctx) })
	w.Cleanup(func() { cancel(); running.Wait() })
	<-w.Cache.InSync()
	if !w.Cluster.WaitForSync(ctx) {
		w.Fatal("no sync")
	}
	for _, c := range controllers {
		running.Go(func() { c.Run(ctx); c.Close() })
	}
	w.Settle()
}

// Settle lets retries and batching go by (in simulated time) and waits until
// nothing moves any more.
func (w *World) Settle() {
	<-time.After(5 * time.Second) // simulated
	synctest.Wait()
}

// Put writes objects into the datastore as somebody else would.
func (w *World) Put(objects ...api.Object) {
	w.Helper()
	for _, obj := range objects {
		if _, _, err := w.Resources.Apply(context.Background(), obj); err != nil {
			w.Fatal(err)
		}
	}
}

// Get is what the datastore holds under a key; nil for nothing.
func (w *World) Get(key api.Key) api.Object {
	e, err := w.Store.Get(context.Background(), key)
	if err != nil {
		return nil
	}
	return e.Object
}

// Names lists the names of a kind in the datastore.
func (w *World) Names(kind api.Kind) []string {
	w.Helper()
	snap, err := w.Store.List(context.Background(), datastore.Range{Kind: kind})
	if err != nil {
		w.Fatal(err)
	}
	names := []string{}
	for _, e := range snap.Entries {
		names = append(names, e.Key.Name)
	}
	return names
}

// OnlyLive makes the API server answer a Get with an object that its lists and
// watches don't show: it lags behind itself.
func (w *World) OnlyLive(resource string, obj kube.Object) {
	w.API.PrependReactor("get", resource, func(action k8stesting.Action) (bool, runtime.Object, error) {
		get, ok := action.(k8stesting.GetAction)
		if !ok || get.GetName() != obj.GetName() || get.GetNamespace() != obj.GetNamespace() {
			return false, nil, nil
		}
		return true, obj, nil
	})
}

// Fail makes the API server refuse a verb on a resource.
func (w *World) Fail(verb, resource string, err error) {
	w.API.PrependReactor(verb, resource, func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, err })
}

// Assign gives a handle an IPv4 and an IPv6 address on a node, as felix does, and
// returns them. attrs are pairs.
func (w *World) Assign(node string, handle ipam.HandleID, attrs ...string) []netip.Addr {
	w.Helper()
	req := ipam.Request{Handle: handle, Num4: 1, Num6: 1, Attrs: map[string]string{}}
	for i := 0; i < len(attrs); i += 2 {
		req.Attrs[attrs[i]] = attrs[i+1]
	}
	allocator := ipam.New(ipam.Config{Client: w.Store, Node: node, View: newView(w)})
	defer allocator.Close()
	assigned, err := allocator.AutoAssign(context.Background(), req)
	if err != nil {
		w.Fatal(err)
	}
	var addrs []netip.Addr
	for _, a := range assigned {
		addrs = append(addrs, a.Addr)
	}
	return addrs
}

// view is a node's view of a cluster with one pool of each IP version.
type view struct{ pools []*v3.IPPool }

func newView(w *World) view {
	w.Helper()
	four, six := v3.NewIPPool(), v3.NewIPPool()
	four.Name, four.Spec.CIDR = "four", "10.65.0.0/16"
	six.Name, six.Spec.CIDR = "six", "fd00:65::/64"
	w.Put(four, six)
	return view{[]*v3.IPPool{four, six}}
}

// Pools implements ipam.View.
func (v view) Pools() []*v3.IPPool { return v.pools }

// NodeLabels implements ipam.View.
func (view) NodeLabels() (map[string]string, bool) { return nil, true }

// Config implements ipam.View.
func (view) Config() api.IPAMConfigSpec { return api.IPAMConfigSpec{AutoAllocateBlocks: true} }

// Reservations implements ipam.View.
func (view) Reservations() []*v3.IPReservation { return nil }
