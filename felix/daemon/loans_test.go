package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/felix/calc"
	"tortie/felix/config"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
)

// hearing is a sink and what it is told of blocks.
type hearing struct {
	*sink
	blocks int
}

func (h *hearing) OnUpdates(updates []datastore.SyncUpdate) {
	for _, u := range updates {
		if u.Key.Kind == api.KindIPAMBlock && u.Entry != nil {
			h.blocks++
		}
	}
	h.sink.OnUpdates(updates)
}

// TestBlocksAreFollowedOnlyWhileAPoolHasAnOverlay, and then before anything is programmed.
func TestBlocksAreFollowedOnlyWhileAPoolHasAnOverlay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(api.NewRegistry())
		put := func(obj api.Object) {
			t.Helper()
			key, err := api.NewRegistry().KeyOf(obj)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := store.Txn(t.Context(), datastore.Put(key, obj)); err != nil {
				t.Fatal(err)
			}
		}
		pool := func(mode v3.VXLANMode) *v3.IPPool {
			return &v3.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v3.IPPoolSpec{CIDR: "10.65.0.0/16", IPIPMode: v3.IPIPModeNever, VXLANMode: mode}}
		}
		// borrowed is a block of node2 of which node3 has an address.
		borrowed := func(sequence uint64) *api.IPAMBlock {
			index, owner := 0, "host:node2"
			return &api.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: "10.65.2.0/26"}, Spec: api.IPAMBlockSpec{
				CIDR: "10.65.2.0/26", Affinity: &owner, Allocations: append(make([]*int, 63), &index), SequenceNumber: sequence,
				Attributes: []api.BlockAttributes{{ActiveOwnerAttrs: map[string]string{api.AttributeNode: "node3"}}},
			}}
		}
		node := func(name, addr, tunnel string) *api.Node {
			return &api.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: api.NodeSpec{BGP: &api.NodeBGPSpec{IPv4Address: addr}, IPv4VXLANTunnelAddr: tunnel}}
		}
		put(node("node1", "192.0.2.1/24", "10.65.1.0"))
		put(node("node3", "192.0.2.3/24", "10.65.3.0"))
		put(pool(v3.VXLANModeAlways))
		put(borrowed(1))

		var remote [][]calc.Remote
		follow := func() (h *hearing, stop func()) {
			running, _ := config.Resolve()
			h = &hearing{sink: &sink{
				graph: calc.New("node1"), config: newConfigFollower("node1", nil, running, slog.New(slog.DiscardHandler)), configure: func(config.Config) {},
				program: func(s calc.State) { remote = append(remote, s.Remote) }, complete: func() {}, onStatus: func(datastore.Status) {},
			}}
			syncer := datastore.NewSyncer(datastore.SyncerConfig{Client: store.Client(), Ranges: h.graph.Ranges(), Sink: h})
			h.more = syncer.Follow
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- syncer.Run(ctx) }()
			synctest.Wait()
			return h, func() { cancel(); <-done }
		}
		h, stop := follow()
		defer stop()
		if len(remote) != 1 || len(remote[0]) != 1 || remote[0][0].Dst.String() != "10.65.2.63/32" {
			t.Errorf("programmed %v; want, once, the borrowed address", remote)
		}
		put(pool(v3.VXLANModeNever))
		synctest.Wait()
		h.blocks = 0
		put(borrowed(2))
		if synctest.Wait(); h.blocks != 0 {
			t.Errorf("told of %d blocks without an overlay", h.blocks)
		}
		put(pool(v3.VXLANModeAlways))
		synctest.Wait()
		if last := remote[len(remote)-1]; len(last) != 1 || h.blocks != 1 {
			t.Errorf("with the overlay back: %v, told of %d blocks", last, h.blocks)
		}
	})
}

// TestLoansAreLookedAtAtTheStartAndWhenABlockIsLost and once in hours, and after a failure.
func TestLoansAreLookedAtAtTheStartAndWhenABlockIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looked []string
		var fails error
		l := newLoans("node1", func(_ context.Context, only ...netip.Prefix) error {
			what := "all"
			if len(only) > 0 {
				what = only[0].String()
			}
			looked = append(looked, what)
			return fails
		}, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.run(ctx) }()
		expect := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(looked, want) {
				t.Errorf("%s: looked at %q, want %q", when, looked, want)
			}
			looked = nil
		}
		claim := func(node, block string, state api.AffinityState) datastore.SyncUpdate {
			key := api.BlockAffinityKey(api.HostAffinity(node), netip.MustParsePrefix(block))
			if state == "" {
				return datastore.SyncUpdate{Key: key}
			}
			return datastore.SyncUpdate{Key: key, Entry: &datastore.Entry{Key: key, Object: &api.BlockAffinity{Spec: api.BlockAffinitySpec{State: state}}}}
		}
		expect("at the start", "all")
		time.Sleep(2 * time.Hour)
		l.Apply([]datastore.SyncUpdate{
			claim("node1", "10.65.1.0/26", api.AffinityPending), claim("node1", "10.65.1.0/26", api.AffinityConfirmed),
			claim("node1", "10.65.1.0/26", api.AffinityPendingDeletion), claim("node2", "10.65.2.0/26", ""),
		})
		expect("claims, and what others lose")
		l.Apply([]datastore.SyncUpdate{claim("node1", "10.65.1.0/26", "")})
		expect("a block is lost", "10.65.1.0/26")
		fails = errors.New("broken")
		l.Apply([]datastore.SyncUpdate{claim("node1", "10.65.1.0/26", "")})
		expect("in vain", "10.65.1.0/26")
		time.Sleep(loanRetry)
		expect("again, all", "all")
		fails = nil
		time.Sleep(loanRetry)
		expect("in order", "all")
		time.Sleep(2*time.Hour + 59*time.Minute)
		expect("hours later")
		time.Sleep(7 * time.Hour)
		if synctest.Wait(); len(looked) == 0 {
			t.Error("not looked at again within hours")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
