package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/polltest"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

const oneBlockPath = "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30"

func TestAutoAssignBorrowsWhenNoBlockIsFree(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*api.IPAMConfigSpec)
	}{
		{"the pool is full", func(*api.IPAMConfigSpec) {}},
		{"the node may own no more blocks", func(s *api.IPAMConfigSpec) { s.MaxBlocksPerHost = 1 }},
		{"claiming is switched off", func(s *api.IPAMConfigSpec) { s.AutoAllocateBlocks = false }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, newPool("p4", "10.0.0.0/29", blockSize(30)), newPool("p6", "fd00::/125", blockSize(126)), newNode("n", nil), newNode("m", nil))
			n, m := c.allocator("n"), c.allocator("m")
			assign(t, m, "lender", 1, 1)
			if tc.name != "claiming is switched off" {
				assign(t, n, "own", 4, 4)
			}
			c.put(newConfig(tc.change))
			got := assign(t, n, "borrower", 2, 1)
			c.check()
			info, err := ipam.Lookup(t.Context(), c.store, got[0])
			if err != nil || info.Affinity != "host:m" || info.Attrs[api.AttributeNode] != "n" {
				t.Errorf("got %+v, %v; want an address of m's block", info, err)
			}
			report, err := ipam.Usage(t.Context(), c.store)
			borrowed := 0
			for _, b := range report.Pools[0].Blocks {
				borrowed += b.Borrowed
			}
			if err != nil || borrowed != 2 {
				t.Errorf("usage: %+v, %v", report.Pools[0], err)
			}
			// What was borrowed goes back, and the lender goes on.
			if released, err := n.ReleaseByHandle(t.Context(), "borrower"); err != nil || len(released) != 3 {
				t.Errorf("released %v, %v", released, err)
			}
			assign(t, m, "lender2", 3, 3)
			c.check()
		})
	}
}

func TestABorrowedAddressCostsOneReadAndOneTransaction(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/29", blockSize(30)), newNode("n", nil), newNode("m", nil))
	m := c.allocator("m")
	assign(t, m, "lender", 1, 0)
	client := &ipamtest.Faulty{Client: c.store}
	n := c.allocator("n", client)
	assign(t, n, "own", 4, 0)
	assign(t, n, "first", 1, 0) // learns who can lend
	before := client.Operations()
	assign(t, n, "second", 1, 0)
	if got := client.Operations() - before; got != 2 {
		t.Errorf("%d operations, want 2", got)
	}
}

func TestStrictAffinityMeansNothingIsBorrowed(t *testing.T) {
	c := newCluster(t, newPool("p", onlyBlock, blockSize(30)), newNode("n", nil), newNode("m", nil), strict())
	assign(t, c.allocator("m"), "lender", 1, 0)
	_, err := c.allocator("n").AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1})
	if !errors.Is(err, ipam.ErrPoolFull) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"other nodes have 1 block with 3 free, but strictAffinity forbids to borrow", "calicoctl ipam configure --strictaffinity=false"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
}

func TestBlocksOfVirtualOwnersAreNotBorrowedFrom(t *testing.T) {
	c := newCluster(t, newPool("p", onlyBlock, blockSize(30)), newNode("n", nil))
	c.store.RawPut(oneBlockPath, []byte(block("virtual:load-balancer")))
	if _, err := c.allocator("n").AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1}); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("got %v", err)
	}
}

func TestAReservedAddressIsNotBorrowed(t *testing.T) {
	reservation := v3.NewIPReservation()
	reservation.Name = "r"
	reservation.Spec.ReservedCIDRs = []string{"10.0.0.0/31", "10.0.0.2"}
	c := newCluster(t, newPool("p", onlyBlock, blockSize(30)), newNode("n", nil), newNode("m", nil), reservation)
	assign(t, c.allocator("m"), "lender", 1, 0)
	if _, err := c.allocator("n").AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1}); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("got %v", err)
	}
	c.check()
}

func TestAReservedBlockIsNotClaimed(t *testing.T) {
	reservation := v3.NewIPReservation()
	reservation.Name = "r"
	reservation.Spec.ReservedCIDRs = []string{"10.0.0.0/25", "10.0.0.128/26"}
	c := newCluster(t, newPool("p", "10.0.0.0/24", blockSize(28)), newNode("n", nil), reservation)
	assign(t, c.allocator("n"), "h", 17, 0)
	if left := c.store.Paths("/calico/ipam/v2/host/n/"); len(left) != 2 {
		t.Errorf("claimed: %v", left)
	}
}

func TestAnEmptyBlockIsReclaimedAfterAMinute(t *testing.T) {
	c := newCluster(t, newPool("p", onlyBlock, blockSize(30)), newNode("n", nil), newNode("m", nil), strict())
	m := c.allocator("m")
	assign(t, m, "h", 1, 0)
	if _, err := m.ReleaseByHandle(t.Context(), "h"); err != nil {
		t.Fatal(err)
	}
	n := c.allocator("n")
	if _, err := n.AutoAssign(t.Context(), ipam.Request{Handle: "early", Num4: 1}); !errors.Is(err, ipam.ErrPoolFull) {
		t.Fatalf("a block claimed this moment: got %v", err)
	}
	c.sleep(time.Minute)
	assign(t, n, "h", 4, 0)
	c.check()
	if left := c.store.Paths("/calico/ipam/v2/host/"); len(left) != 1 || !strings.Contains(left[0], "/host/n/") {
		t.Errorf("affinities: %v", left)
	}
	// The former owner, who believes to have the block still, is told so by the store.
	if _, err := m.AutoAssign(t.Context(), ipam.Request{Handle: "again", Num4: 1}); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("got %v", err)
	}
	c.check()
}

func TestABlockWithAddressesIsNeverReclaimed(t *testing.T) {
	c := newCluster(t, newPool("p", onlyBlock, blockSize(30)), newNode("n", nil), newNode("m", nil), strict())
	assign(t, c.allocator("m"), "h", 1, 0)
	c.sleep(time.Hour)
	if _, err := c.allocator("n").AutoAssign(t.Context(), ipam.Request{Handle: "h2", Num4: 1}); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("got %v", err)
	}
	if value, _ := c.store.RawGet("/calico/ipam/v2/host/m/ipv4/block/10.0.0.0-30"); string(value) != `{"state":"confirmed","deleted":false}` {
		t.Errorf("affinity of m: %s", value)
	}
	c.check()
}

// The owner assigns from the block between any two steps of the one who reclaims it:
// it keeps the block, confirmed.
func TestTheOwnerWinsAgainstAReclaim(t *testing.T) {
	for k := 0; ; k++ {
		c := newCluster(t, newPool("p", onlyBlock, blockSize(30)), newNode("n", nil), newNode("m", nil), strict())
		m := c.allocator("m")
		assign(t, m, "h", 1, 0)
		if _, err := m.ReleaseByHandle(t.Context(), "h"); err != nil {
			t.Fatal(err)
		}
		c.sleep(time.Minute)
		reached := false
		n := c.allocator("n", &ipamtest.Faulty{Client: c.store, Decide: func(op int, _ []datastore.Op) ipamtest.Fault {
			if op == k {
				reached = true
				if _, err := m.AutoAssign(context.Background(), ipam.Request{Handle: "used", Num4: 1}); err != nil && !errors.Is(err, ipam.ErrPoolFull) {
					t.Error(err)
				}
			}
			return ipamtest.Pass
		}})
		_, err := n.AutoAssign(t.Context(), ipam.Request{Handle: "h2", Num4: 1})
		if err := ipamtest.Check(t.Context(), c.store); err != nil {
			t.Fatalf("at operation %d: %v", k, err)
		}
		owners, _ := ipamtest.Owners(t.Context(), c.store)
		if used := len(owners) == 1 && owners[netip.MustParseAddr("10.0.0.1")] == "used" || owners[netip.MustParseAddr("10.0.0.0")] == "used"; reached && used == (err == nil) {
			t.Fatalf("at operation %d: %v, owners %v", k, err, owners)
		}
		if state, _ := c.store.RawGet("/calico/ipam/v2/host/m/ipv4/block/10.0.0.0-30"); err != nil && string(state) != `{"state":"confirmed","deleted":false}` {
			t.Fatalf("at operation %d: m's affinity is %s", k, state)
		}
		if !reached {
			return
		}
	}
}

// A claim whose owner died half-way does not keep the block from others, whatever is
// left of it.
func TestAClaimWhoseOwnerDiedIsTakenOver(t *testing.T) {
	for name, left := range map[string][2]string{
		"affinity pending":                      {`{"state":"pending","deleted":false}`, ""},
		"affinity pending, block made":          {`{"state":"pending","deleted":false}`, block("host:m")},
		"affinity confirmed, block gone":        {`{"state":"confirmed","deleted":false}`, ""},
		"affinity pendingDeletion, block there": {`{"state":"pendingDeletion","deleted":false}`, block("host:m")},
		"affinity gone, block there":            {"", block("host:m")},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, newPool("p", onlyBlock, blockSize(30)), newNode("n", nil), newNode("m", nil), strict())
			if left[0] != "" {
				c.store.RawPut("/calico/ipam/v2/host/m/ipv4/block/10.0.0.0-30", []byte(left[0]))
			}
			if left[1] != "" {
				c.store.RawPut(oneBlockPath, []byte(left[1]))
			}
			c.sleep(time.Minute)
			assign(t, c.allocator("n"), "h", 1, 0)
			// m comes back, and finds that it is another's.
			if _, err := c.allocator("m").AutoAssign(t.Context(), ipam.Request{Handle: "h2", Num4: 1}); !errors.Is(err, ipam.ErrPoolFull) {
				t.Errorf("m: %v", err)
			}
			c.check()
			if affinities := c.store.Paths("/calico/ipam/v2/host/"); len(affinities) != 1 {
				t.Errorf("affinities: %v", affinities)
			}
		})
	}
}

func TestMaxBlocksPerHostIsNeverExceeded(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/26", blockSize(30)), newNode("n", nil),
		newConfig(func(s *api.IPAMConfigSpec) { s.MaxBlocksPerHost, s.StrictAffinity = 3, true }))
	a := c.allocator("n")
	for i := range 20 {
		_, err := a.AutoAssign(t.Context(), ipam.Request{Handle: ipam.HandleID(fmt.Sprint("h", i)), Num4: 1})
		if want := i >= 12; errors.Is(err, ipam.ErrBlockLimit) != want {
			t.Errorf("address %d: %v", i, err)
		}
	}
	if got := c.store.Paths("/calico/ipam/v2/host/n/"); len(got) != 3 {
		t.Errorf("%d blocks", len(got))
	}
}

func TestANodeGivesUpTheEmptyBlocksOfPoolsThatNoLongerSelectIt(t *testing.T) {
	inRack := func(p *v3.IPPool) { p.Spec.NodeSelector = "rack == 'a'" }
	c := newCluster(t, newPool("p", "10.0.0.0/24", blockSize(30), inRack), newPool("q", "10.1.0.0/24"), newNode("n", map[string]string{"rack": "a"}))
	a := c.allocator("n")
	for i := range 5 { // two blocks of p
		if _, err := a.AutoAssign(t.Context(), ipam.Request{Handle: ipam.HandleID(fmt.Sprint("h", i)), Num4: 1, Pools4: []string{"p"}}); err != nil {
			t.Fatal(err)
		}
	}
	c.put(newNode("n", map[string]string{"rack": "b"}))
	for i := range 4 { // one of them becomes empty
		if _, err := a.ReleaseByHandle(t.Context(), ipam.HandleID(fmt.Sprint("h", i))); err != nil {
			t.Fatal(err)
		}
	}
	got := assign(t, a, "new", 1, 0)
	if got[0].As4()[1] != 1 {
		t.Errorf("got %v, want an address of q", got)
	}
	polltest.Until(t, 10*time.Second, "the empty block to be given up, for which no call waits", func() (bool, string) {
		left := c.store.Paths("/calico/ipam/v2/host/n/ipv4/block/10.0.0.")
		return len(left) == 1, fmt.Sprint(left)
	})
	c.check()
}
