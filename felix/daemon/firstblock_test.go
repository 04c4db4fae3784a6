package daemon

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
	"tortie/ipam"
)

// firstBlockSite is a store, what an allocator is told of it, and ENSURE_BLOCK at work.
type firstBlockSite struct {
	*testing.T
	store   *memory.Store
	tracker *ipam.Tracker
	log     strings.Builder
}

func newFirstBlockSite(t *testing.T) *firstBlockSite {
	s := &firstBlockSite{T: t, store: memory.New(api.NewRegistry()), tracker: ipam.NewTracker("n")}
	log := slog.New(slog.NewTextHandler(&s.log, nil))
	allocator := ipam.New(ipam.Config{Client: s.store, Node: "n", View: s.tracker})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- firstBlocks{allocator, log}.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		allocator.Close()
	})
	return s
}

func (s *firstBlockSite) put(obj api.Object) {
	s.Helper()
	reg := api.NewRegistry()
	reg.Default(obj)
	key, err := reg.KeyOf(obj)
	if err != nil {
		s.Fatal(err)
	}
	rev, err := s.store.Txn(s.Context(), datastore.Put(key, obj))
	if err != nil {
		s.Fatal(err)
	}
	s.tracker.Apply([]datastore.SyncUpdate{{Key: key, Entry: &datastore.Entry{Key: key, Object: obj, Revision: rev}}})
}

func (s *firstBlockSite) pool(name, cidr string) {
	pool := v3.NewIPPool()
	pool.Name, pool.Spec.CIDR = name, cidr
	s.put(pool)
}

func (s *firstBlockSite) node() {
	s.put(&api.Node{TypeMeta: metav1.TypeMeta{Kind: string(api.KindNode), APIVersion: api.GroupVersion}, ObjectMeta: metav1.ObjectMeta{Name: "n"}})
}

// blocks lists the affinities after a while.
func (s *firstBlockSite) blocks() []string {
	s.Helper()
	time.Sleep(time.Minute) // simulated
	synctest.Wait()
	snap, err := s.store.List(s.Context(), datastore.Range{Kind: api.KindBlockAffinity})
	if err != nil {
		s.Fatal(err)
	}
	var names []string
	for _, entry := range snap.Entries {
		names = append(names, entry.Key.Name)
	}
	return names
}

func TestTheNodeOwnsABlockOfEachVersionBeforeItsFirstPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFirstBlockSite(t)
		if got := s.blocks(); len(got) != 0 {
			t.Fatalf("nothing is known, and it has %v", got)
		}
		s.pool("four", "10.0.0.0/16")
		s.node()
		if got := s.blocks(); len(got) != 1 || !strings.HasPrefix(got[0], "host:n/10.0.") {
			t.Fatalf("got %v", got)
		}
		s.pool("six", "fd00::/64")
		s.pool("four2", "10.1.0.0/16")
		if got := s.blocks(); len(got) != 2 || !strings.HasPrefix(got[1], "host:n/fd00:") {
			t.Fatalf("got %v, want one of each version", got)
		}
		if s.log.String() == "" || strings.Contains(s.log.String(), "WARN") {
			t.Errorf("log: %s", &s.log)
		}
	})
}

func TestWhyTheNodeGetsNoFirstBlockIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFirstBlockSite(t)
		s.put(&api.IPAMConfig{
			TypeMeta:   metav1.TypeMeta{Kind: string(api.KindIPAMConfig), APIVersion: api.GroupVersion},
			ObjectMeta: metav1.ObjectMeta{Name: api.IPAMConfigKey().Name},
		})
		s.pool("four", "10.0.0.0/16")
		s.node()
		if got := s.blocks(); len(got) != 0 || strings.Count(s.log.String(), "claiming more is switched off") != 1 {
			t.Fatalf("got %v, log: %s", got, &s.log)
		}
	})
}
