package ipamtest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd"
	"tortie/internal/datastore/etcd/etcdtest"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

func TestMain(m *testing.M) {
	if order := os.Getenv(soakVariable); order != "" {
		if err := runSoakNode(order); err != nil {
			fmt.Fprintln(os.Stderr, "soak node:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(etcdtest.Main(m))
}

func connect(t testing.TB, server *etcdtest.Server) datastore.Client {
	t.Helper()
	client, err := etcd.New(context.Background(), etcd.Config{Config: server.Config()}, api.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// populate stores pools and nodes.
func populate(t testing.TB, client datastore.Client, pools map[string]string, blockSizes map[string]int, nodes ...string) {
	t.Helper()
	for name, cidr := range pools {
		pool := v3.NewIPPool()
		pool.Name, pool.Spec.CIDR, pool.Spec.BlockSize = name, cidr, blockSizes[name]
		put(t, client, pool)
	}
	for _, name := range nodes {
		put(t, client, &api.Node{
			TypeMeta:   metav1.TypeMeta{Kind: string(api.KindNode), APIVersion: api.GroupVersion},
			ObjectMeta: metav1.ObjectMeta{Name: name},
		})
	}
}

func put(t testing.TB, client datastore.Client, obj api.Object) {
	t.Helper()
	reg := api.NewRegistry()
	reg.Default(obj)
	key, err := reg.KeyOf(obj)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Txn(context.Background(), datastore.Put(key, obj)); err != nil {
		t.Fatal(err)
	}
}

func start(t testing.TB, client datastore.Client, node string) *ipam.Allocator {
	t.Helper()
	tracker := ipam.NewTracker(node)
	for _, r := range tracker.Ranges() {
		snap, err := client.List(context.Background(), r)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range snap.Entries {
			tracker.Apply([]datastore.SyncUpdate{{Key: entry.Key, Entry: &entry}})
		}
	}
	a := ipam.New(ipam.Config{Client: client, Node: node, View: tracker})
	t.Cleanup(a.Close)
	return a
}

// Several nodes work on a real etcd that is killed and restarted under them.
// What they were told is what the store holds in the end.
func TestAllocatorsOnARealEtcdThatIsKilled(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	admin := connect(t, server)
	nodes := []string{"node1", "node2", "node3"}
	populate(t, admin, map[string]string{"p4": "10.0.0.0/24", "p6": "fd00::/116"}, map[string]int{"p4": 29, "p6": 124}, nodes...)

	shared := &sharedModel{model: ipamtest.NewModel()}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	working := make(chan struct{}, 1000)
	for i, node := range nodes {
		a := start(t, connect(t, server), node)
		for j := range 4 {
			w := &worker{a: a, shared: shared, name: fmt.Sprintf("%s-w%d", node, j), rng: rand.New(rand.NewPCG(uint64(i), uint64(j)))}
			wg.Go(func() {
				if err := w.run(ctx, 40, working); err != nil {
					t.Errorf("%s: %v", w.name, err)
				}
			})
		}
	}
	for range 100 {
		<-working
	}
	server.Kill()
	server.Restart()
	wg.Wait()
	if err := shared.model.Verify(t.Context(), admin); err != nil {
		t.Error(err)
	}
}

type sharedModel struct {
	mu    sync.Mutex
	model *ipamtest.Model
}

func (s *sharedModel) assigned(handle string, got []ipam.Assignment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var addrs []netip.Addr
	for _, at := range got {
		addrs = append(addrs, at.Addr)
	}
	return s.model.Assigned(handle, addrs)
}

func (s *sharedModel) released(handle string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.model.Released(handle)
}

// worker assigns and releases handles of its own.
type worker struct {
	a      *ipam.Allocator
	shared *sharedModel
	name   string
	rng    *rand.Rand
	held   []string
}

func (w *worker) run(ctx context.Context, rounds int, working chan<- struct{}) error {
	for i := range rounds {
		select {
		case working <- struct{}{}:
		default:
		}
		if len(w.held) > 0 && w.rng.IntN(2) == 0 {
			if err := w.release(ctx); err != nil {
				return err
			}
			continue
		}
		if err := w.assign(ctx, fmt.Sprintf("%s-%d", w.name, i)); err != nil {
			return err
		}
	}
	return nil
}

// release takes the handle off the model first: its addresses may be given to
// others before the answer arrives.
func (w *worker) release(ctx context.Context) error {
	handle := w.held[0]
	w.held = w.held[1:]
	w.shared.released(handle)
	for {
		_, err := w.a.ReleaseByHandle(ctx, ipam.HandleID(handle))
		if err == nil || ctx.Err() != nil || !errors.Is(err, datastore.ErrUnavailable) {
			return err
		}
	}
}

func (w *worker) assign(ctx context.Context, handle string) error {
	req := ipam.Request{Handle: ipam.HandleID(handle), Num4: 1 + w.rng.IntN(2), Num6: w.rng.IntN(2)}
	for {
		got, err := w.a.AutoAssign(ctx, req)
		switch {
		case err == nil:
			w.held = append(w.held, handle)
			return w.shared.assigned(handle, got)
		case errors.Is(err, ipam.ErrPoolFull), errors.Is(err, ipam.ErrBlockLimit):
			return nil
		case ctx.Err() != nil || !errors.Is(err, datastore.ErrUnavailable):
			return err
		}
	}
}
