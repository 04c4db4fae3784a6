package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

const onlyBlock = "10.0.0.0/30"

// Every state of a claim that upstream's order of writes, ours, or a crash
// between any two of them can leave behind, in a pool of a single block.
func TestClaimsGoOnFromEveryState(t *testing.T) {
	ours, other := block("host:n"), block("host:m")
	for _, tc := range []struct {
		name     string
		affinity string // of node n
		block    string
		wantErr  error
	}{
		{"nothing yet", "", "", nil},
		{"pending", `{"state":"pending","deleted":false}`, "", nil},
		{"pending and our block", `{"state":"pending","deleted":false}`, ours, nil},
		{"pending and a block of another", `{"state":"pending","deleted":false}`, other, ipam.ErrPoolFull},
		{"confirmed and our block", `{"state":"confirmed","deleted":false}`, ours, nil},
		{"confirmed without block", `{"state":"confirmed","deleted":false}`, "", nil},
		{"confirmed and a block of another", `{"state":"confirmed","deleted":false}`, other, ipam.ErrPoolFull},
		{"confirmed and a block without owner", `{"state":"confirmed","deleted":false}`, block(""), ipam.ErrPoolFull},
		{"pendingDeletion and our block", `{"state":"pendingDeletion","deleted":false}`, ours, nil},
		{"pendingDeletion without block", `{"state":"pendingDeletion","deleted":false}`, "", nil},
		{"our block without affinity", "", ours, nil},
		{"affinity with an empty value", "{}", "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, newPool("p", onlyBlock, blockSize(30)), newNode("n", nil), strict())
			if tc.affinity != "" {
				c.store.RawPut("/calico/ipam/v2/host/n/ipv4/block/10.0.0.0-30", []byte(tc.affinity))
			}
			if tc.block != "" {
				c.store.RawPut("/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30", []byte(tc.block))
			}
			if tc.block == other {
				c.store.RawPut("/calico/ipam/v2/host/m/ipv4/block/10.0.0.0-30", []byte(`{"state":"confirmed","deleted":false}`))
			}
			got, err := c.allocator("n").AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1})
			if !errors.Is(err, tc.wantErr) || tc.wantErr == nil && (err != nil || got[0].Addr.String() != "10.0.0.0") {
				t.Fatalf("got %v, %v; want error %v", got, err, tc.wantErr)
			}
			if tc.block != block("") { // a block without an owner stays as it was found
				c.check()
			}
			if _, left := c.store.RawGet("/calico/ipam/v2/host/n/ipv4/block/10.0.0.0-30"); left != (err == nil) {
				t.Errorf("affinity of n present: %v", left)
			}
		})
	}
}

func block(owner string) string {
	affinity := "null"
	if owner != "" {
		affinity = `"` + owner + `"`
	}
	return `{"cidr":"10.0.0.0/30","affinity":` + affinity + `,"affinity_claim_time":"2026-11-22T02:01:00Z","allocations":[null,null,null,null],"unallocated":[0,1,2,3],"attributes":[],"sequenceNumber":7,"sequenceNumberForAllocation":{},"deleted":false}`
}

func TestUnreadableKeysStopNothingElse(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/29", blockSize(30)), newNode("n", nil))
	c.store.RawPut("/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30", []byte("garbage"))
	c.store.RawPut("/calico/ipam/v2/host/n/ipv4/block/10.0.0.0-30", []byte(`{"state":"confirmed","deleted":false}`))
	c.store.RawPut("/calico/ipam/v2/handle/bad", []byte("garbage"))
	a := c.allocator("n")
	if got := assign(t, a, "h", 1, 0); got[0].String() != "10.0.0.4" {
		t.Errorf("got %v", got)
	}
	for name, call := range map[string]func() error{
		"assign":  func() error { _, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "bad", Num4: 1}); return err },
		"release": func() error { _, err := a.ReleaseByHandle(t.Context(), "bad"); return err },
	} {
		if err := call(); !errors.Is(err, datastore.ErrInvalid) || !strings.Contains(err.Error(), "/calico/ipam/v2/handle/bad") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	report, err := ipam.Usage(t.Context(), c.store)
	if err != nil || len(report.Invalid) != 1 {
		t.Errorf("usage: %v, %v", report.Invalid, err)
	}
}

// Nobody can tell whether the node still claims the block: it is left alone, whether there
// is a block of ours or none, and who asks for it is told the key.
func TestAnUnreadableAffinityStopsNothingElse(t *testing.T) {
	const path = "/calico/ipam/v2/host/n/ipv4/block/10.0.0.0-30"
	for name, block := range map[string]string{
		"no block": "",
		"ours":     `{"cidr":"10.0.0.0/30","affinity":"host:n","allocations":[null,null,null,null],"unallocated":[0,1,2,3],"attributes":[],"deleted":false}`,
	} {
		c := newCluster(t, newPool("p", "10.0.0.0/29", blockSize(30)), newNode("n", nil))
		c.store.RawPut(path, []byte("garbage"))
		if block != "" {
			c.store.RawPut("/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30", []byte(block))
		}
		a := c.allocator("n")
		for i := range 4 {
			if got := assign(t, a, fmt.Sprint("h", i), 1, 0); got[0].Compare(netip.MustParseAddr("10.0.0.4")) < 0 {
				t.Errorf("%s: got %v", name, got)
			}
		}
		if _, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "more", Num4: 1}); !errors.Is(err, ipam.ErrPoolFull) {
			t.Errorf("%s: got %v", name, err)
		}
		_, err := a.AssignIP(t.Context(), netip.MustParseAddr("10.0.0.1"), ipam.Request{Handle: "named"})
		if !errors.Is(err, datastore.ErrInvalid) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v", name, err)
		}
		// Once somebody has put it right, it serves.
		c.store.RawPut(path, []byte(`{"state":"pending","deleted":false}`))
		if got := assign(t, a, "later", 1, 0); got[0].Compare(netip.MustParseAddr("10.0.0.4")) >= 0 {
			t.Errorf("%s: got %v", name, got)
		}
		c.check()
	}
}

func TestClaimDependsOnThePool(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/24", blockSize(28)), newNode("n", nil))
	view := c.view("n")
	a := c.allocator("n")
	// The store moves on before the view does.
	pool := newPool("p", "10.0.0.0/24", blockSize(30))
	if _, err := c.store.Txn(t.Context(), datastore.Put(api.Key{Kind: api.KindIPPool, Name: "p"}, pool)); err != nil {
		t.Fatal(err)
	}
	got, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1})
	if err != nil || got[0].Block.Bits() != 30 {
		t.Errorf("got %v, %v; want an address of a /30 block", got, err)
	}
	if _, err := c.store.Txn(t.Context(), datastore.DeleteAny(api.Key{Kind: api.KindIPPool, Name: "p"})); err != nil {
		t.Fatal(err)
	}
	c.feed(view)
	if _, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "h2", Num4: 10}); !errors.Is(err, ipam.ErrNoPool) && !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("got %v", err)
	}
}

func TestSomeAddressesOfAHandleAreReleased(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/24", blockSize(31)), newNode("n", nil))
	a := c.allocator("n")
	assign(t, a, "h", 3, 0) // of two blocks
	assign(t, a, "other", 1, 0)
	all, err := a.ByHandle(t.Context(), "h")
	if err != nil || len(all) != 3 {
		t.Fatal(all, err)
	}
	others, err := a.ByHandle(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	for left := 2; left >= 0; left-- {
		if err := a.Release(t.Context(), "h", slices.Concat(others, all[left:left+1])); err != nil {
			t.Fatal(err)
		}
		c.check()
		if got, err := a.ByHandle(t.Context(), "h"); err != nil || !slices.Equal(got, all[:left]) {
			t.Errorf("left are %v %v, want %v", got, err, all[:left])
		}
	}
	if got, err := a.ByHandle(t.Context(), "other"); err != nil || len(got) != 1 {
		t.Errorf("the other's: %v %v", got, err)
	}
	assign(t, a, "h", 3, 0) // the allocator goes on with what it did not write itself
	c.check()
}

func TestFullBlocksThatSomeoneFreedAreUsedBeforeANewClaim(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/24", blockSize(31)), newNode("n", nil))
	a := c.allocator("n")
	first := assign(t, a, "h1", 1, 0)
	assign(t, a, "h2", 1, 0)
	if _, err := ipam.ReleaseHandle(t.Context(), c.store, "h1"); err != nil {
		t.Fatal(err)
	}
	if got := assign(t, a, "h3", 1, 0); got[0] != first[0] {
		t.Errorf("got %v, want the freed %v", got, first)
	}
	c.check()
}

func TestLastBlockHasOneWinnerAndLosersAreTold(t *testing.T) {
	const nodes = 16
	objects := []api.Object{newPool("p", onlyBlock, blockSize(30)), strict()}
	for i := range nodes {
		objects = append(objects, newNode(string(rune('a'+i)), nil))
	}
	c := newCluster(t, objects...)
	errs := make(chan error, nodes)
	for i := range nodes {
		node := string(rune('a' + i))
		a := c.allocator(node)
		go func() {
			_, err := a.AutoAssign(t.Context(), ipam.Request{Handle: ipam.HandleID(node), Num4: 1})
			errs <- err
		}()
	}
	won := 0
	for range nodes {
		if err := <-errs; err == nil {
			won++
		} else if !errors.Is(err, ipam.ErrPoolFull) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d nodes got an address of the one block", won)
	}
	if left := c.store.Paths("/calico/ipam/v2/host/"); len(left) != 1 {
		t.Errorf("affinities left: %v", left)
	}
	c.check()
}

func TestLastFreeBlockIsFoundInThreeRoundTrips(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/20", blockSize(32)), newNode("n", nil),
		newConfig(func(s *api.IPAMConfigSpec) { s.MaxBlocksPerHost = 5000 }))
	all := netip.MustParsePrefix("10.0.0.0/20")
	for addr := all.Addr(); all.Contains(addr); addr = addr.Next() {
		if addr.String() == "10.0.9.77" {
			continue
		}
		text := strings.NewReplacer("ADDR", addr.String()).Replace(`{"cidr":"ADDR/32","affinity":"host:m","allocations":[null],"unallocated":[0],"attributes":[],"sequenceNumber":7,"sequenceNumberForAllocation":{},"deleted":false}`)
		c.store.RawPut("/calico/ipam/v2/assignment/ipv4/block/"+addr.String()+"-32", []byte(text))
	}
	client := &ipamtest.Faulty{Client: c.store}
	a := c.allocator("n", client)
	if _, err := a.ReleaseByHandle(t.Context(), "warm"); err != nil { // reads the affinities
		t.Fatal(err)
	}
	before := client.Operations()
	if got := assign(t, a, "h", 1, 0); got[0].String() != "10.0.9.77" {
		t.Errorf("got %v", got)
	}
	if got := client.Operations() - before; got != 4 { // list, claim in two steps, and the assignment
		t.Errorf("%d operations, want 4", got)
	}
}

func TestReleaseHostKeepsBlocksInUseWithoutOwner(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/24", blockSize(31)), newNode("n", nil), newNode("m", nil))
	a := c.allocator("n")
	assign(t, a, "stays", 2, 0)
	assign(t, a, "goes", 2, 0)
	assign(t, c.allocator("m"), "other", 1, 0)
	if _, err := a.ReleaseByHandle(t.Context(), "goes"); err != nil {
		t.Fatal(err)
	}
	released, err := ipam.ReleaseHost(t.Context(), c.store, "n")
	if err != nil || len(released) != 2 {
		t.Fatalf("got %v, %v", released, err)
	}
	c.check()
	if got := c.store.Paths("/calico/ipam/v2/assignment/"); len(got) != 2 {
		t.Errorf("blocks left: %v", got)
	}
	if _, err := ipam.ReleaseHandle(t.Context(), c.store, "stays"); err != nil {
		t.Fatal(err)
	}
	if got := c.store.Paths("/calico/ipam/v2/assignment/"); len(got) != 1 {
		t.Errorf("a block without owner outlived its last address: %v", got)
	}
	assign(t, a, "again", 1, 0) // the allocator notices and claims anew
	c.check()
}

func TestLookup(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/24", blockSize(30)), newNode("n", nil))
	got := assign(t, c.allocator("n"), "h", 1, 0)
	for addr, want := range map[netip.Addr]string{
		got[0]:                            got[0].String() + " is in use by handle h",
		got[0].Next():                     got[0].Next().String() + " is not assigned",
		netip.MustParseAddr("10.0.0.255"): "10.0.0.255 is not assigned",
		netip.MustParseAddr("10.9.0.1"):   "10.9.0.1 is in no pool",
	} {
		info, err := ipam.Lookup(t.Context(), c.store, addr)
		if err != nil || info.String() != want {
			t.Errorf("got %s, %v; want %s", info, err, want)
		}
	}
	info, _ := ipam.Lookup(t.Context(), c.store, got[0])
	if info.Affinity != "host:n" || info.Pool != "p" || info.Attrs["node"] != "n" {
		t.Errorf("got %+v", info)
	}
}

func TestUsageCountsPoolsAndBlocks(t *testing.T) {
	c := newCluster(t, newPool("p4", "10.0.0.0/24", blockSize(30)), newPool("p6", "fd00::/64"), newNode("n", nil))
	assign(t, c.allocator("n"), "h", 5, 1)
	report, err := ipam.Usage(t.Context(), c.store)
	if err != nil || len(report.Pools) != 2 {
		t.Fatalf("got %+v, %v", report, err)
	}
	p4, p6 := report.Pools[0], report.Pools[1]
	if p4.InUse != 5 || p4.Free().String() != "251" || len(p4.Blocks) != 2 || p4.Blocks[0].Affinity != "host:n" || p4.Blocks[0].Borrowed != 0 {
		t.Errorf("got %+v", p4)
	}
	if p6.Total.String() != "18446744073709551616" || p6.InUse != 1 || p6.Blocks[0].Total != 64 {
		t.Errorf("got %+v", p6)
	}
}
