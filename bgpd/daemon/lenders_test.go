package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
)

// following is a store that follows a datastore as bgpd does.
type following struct {
	t      *testing.T
	db     *memory.Store
	told   *blockCounter
	store  *store
	cancel context.CancelFunc
	done   chan struct{}
	last   plan
}

// blockCounter counts the blocks that bgpd hears of.
type blockCounter struct {
	*store
	blocks int
}

func (c *blockCounter) OnUpdates(updates []datastore.SyncUpdate) {
	for _, u := range updates {
		if u.Key.Kind == api.KindIPAMBlock && u.Entry != nil {
			c.blocks++
		}
	}
	c.store.OnUpdates(updates)
}

func follow(t *testing.T, objects ...api.Object) *following {
	f := &following{t: t, db: memory.New(api.NewRegistry()), store: newStore("node1"), done: make(chan struct{})}
	f.put(&v3.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v3.IPPoolSpec{CIDR: "10.65.0.0/16"}})
	f.put(node("node1", "10.1.1.11/24"))
	for _, o := range objects {
		f.put(o)
	}
	f.told = &blockCounter{store: f.store}
	syncer := datastore.NewSyncer(datastore.SyncerConfig{Client: f.db.Client(), Ranges: ranges("node1"), Sink: f.told})
	f.store.lenders.follow = syncer.Follow
	f.store.askLenders()
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(t.Context())
	go func() { defer close(f.done); _ = syncer.Run(ctx) }()
	synctest.Wait()
	return f
}

func (f *following) end() {
	f.cancel()
	<-f.done
}

func (f *following) put(o api.Object) {
	f.t.Helper()
	key, err := api.NewRegistry().KeyOf(o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(datastore.Put(key, o))
}

func (f *following) write(ops ...datastore.Op) {
	f.t.Helper()
	if _, err := f.db.Txn(f.t.Context(), ops...); err != nil {
		f.t.Fatal(err)
	}
}

// lend is what the allocator writes when a node has the first address from a block.
func lend(b *api.IPAMBlock) []datastore.Op {
	block := netip.MustParsePrefix(b.Spec.CIDR)
	return []datastore.Op{datastore.Put(api.LoanKey("node1", block), api.NewLoan("node1", block)), datastore.Put(api.BlockKey(block), b)}
}

func (f *following) announces(when string, want ...string) {
	f.t.Helper()
	synctest.Wait()
	if p, ok := taken(f.store); ok {
		f.last = p
	}
	var got []string
	for _, e := range f.last.Exports {
		got = append(got, e.Prefix.String())
	}
	if !slices.Equal(got, want) {
		f.t.Errorf("%s: announces %q, want %q", when, got, want)
	}
}

func (f *following) hears(when string, blocks int) {
	f.t.Helper()
	synctest.Wait()
	if f.told.blocks != blocks {
		f.t.Errorf("%s: told of %d blocks, want %d", when, f.told.blocks, blocks)
	}
	f.told.blocks = 0
}

func TestOnlyBlocksOfLendersAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, blockWith("10.65.2.0/26", "host:node2", "node2"), blockWith("10.65.3.0/26", "host:node3", "node3"))
		defer f.end()
		f.announces("nothing is borrowed")
		f.hears("at the start, of all", 2)
		f.put(blockWith("10.65.2.0/26", "host:node2", "node3"))
		f.put(blockWith("10.65.4.0/26", "host:node4", "node4"))
		f.hears("pods of others", 0)

		f.write(lend(blockWith("10.65.2.0/26", "host:node2", "node1"))...)
		f.announces("borrowed", "10.65.2.0/32")
		f.hears("borrowed", 1)
		f.put(blockWith("10.65.3.0/26", "host:node3", "node4"))
		f.hears("pods of others beside it", 0)

		// Somebody released it who knows nothing of loans: the block is right.
		f.put(blockWith("10.65.2.0/26", "host:node2", "node2"))
		f.announces("released by a stranger")
		f.put(blockWith("10.65.2.0/26", "host:node2", "node1"))
		f.write(datastore.DeleteAny(api.LoanKey("node1", netip.MustParsePrefix("10.65.2.0/26"))), datastore.Put(api.BlockKey(netip.MustParsePrefix("10.65.2.0/26")), blockWith("10.65.2.0/26", "host:node2", "node2")))
		f.announces("given back")
	})
}

// TestBorrowedAddressesAreAnnouncedBeforeThereAreLoans: they are in no plan ever missing,
// neither while the allocator is an older one nor when it is updated.
func TestBorrowedAddressesAreAnnouncedBeforeThereAreLoans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		borrowed := blockWith("10.65.2.0/26", "host:node2", "node1")
		f := follow(t, borrowed, blockWith("10.65.3.0/26", "host:node3", "node3"))
		defer f.end()
		f.announces("at the start", "10.65.2.0/32")
		f.put(blockWith("10.65.3.0/26", "host:node3", "node1"))
		f.announces("an older allocator goes on", "10.65.2.0/32", "10.65.3.0/32")
		for _, cidr := range []string{"10.65.2.0/26", "10.65.3.0/26"} {
			block := netip.MustParsePrefix(cidr)
			f.write(datastore.Put(api.LoanKey("node1", block), api.NewLoan("node1", block)))
			synctest.Wait()
			if p, ok := taken(f.store); ok {
				t.Errorf("the loan of %s made another plan: %v", cidr, p.Exports)
			}
		}
		f.told.blocks = 0
		f.put(blockWith("10.65.4.0/26", "host:node4", "node4"))
		f.hears("pods of others", 0)
		f.put(blockWith("10.65.3.0/26", "host:node3", "node3"))
		f.announces("one is given back", "10.65.2.0/32")
	})
}

// TestManyLendersAreFollowedWithAllBlocks, and each by itself again when they are fewer.
func TestManyLendersAreFollowedWithAllBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t)
		defer f.end()
		var want []string
		for i := range manyLenders + 1 {
			block := fmt.Sprintf("10.65.%d.0/26", i)
			f.write(lend(blockWith(block, "host:node2", "node1"))...)
			want = append(want, fmt.Sprintf("10.65.%d.0/32", i))
			slices.SortFunc(want, func(a, b string) int { return netip.MustParsePrefix(a).Compare(netip.MustParsePrefix(b)) })
			f.announces(block, want...)
		}
		f.told.blocks = 0
		f.put(blockWith("10.66.4.0/26", "host:node4", "node4"))
		f.hears("pods of others, while there are many", 1)
		last := netip.MustParsePrefix(fmt.Sprintf("10.65.%d.0/26", manyLenders))
		f.write(datastore.DeleteAny(api.LoanKey("node1", last)), datastore.DeleteAny(api.BlockKey(last)))
		f.announces("one less", slices.DeleteFunc(want, func(p string) bool { return last.Contains(netip.MustParsePrefix(p).Addr()) })...)
		f.told.blocks = 0
		f.put(blockWith("10.66.5.0/26", "host:node4", "node4"))
		f.hears("pods of others, while there are few", 0)
	})
}

// TestARestartKnowsWhatIsBorrowedFromTheFirstPlanOn: a plan without it would have peers
// take its routes away.
func TestARestartKnowsWhatIsBorrowedFromTheFirstPlanOn(t *testing.T) {
	block := netip.MustParsePrefix("10.65.2.0/26")
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, blockWith(block.String(), "host:node2", "node1"), api.NewLoan("node1", block))
		defer f.end()
		p, ok := taken(f.store)
		if !ok || len(p.Exports) != 1 {
			t.Errorf("the only plan: %v, %v", p.Exports, ok)
		}
		f.hears("at the start", 1)
		f.put(blockWith("10.65.4.0/26", "host:node4", "node4"))
		f.hears("pods of others", 0)
	})
}
