package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

func TestAssignIPAssignsTheAddressThatIsNamed(t *testing.T) {
	reservation := v3.NewIPReservation()
	reservation.Name = "r"
	reservation.Spec.ReservedCIDRs = []string{"10.0.0.7"}
	c := newCluster(t, newPool("p4", "10.0.0.0/24", blockSize(29), func(p *v3.IPPool) { p.Spec.NodeSelector = "rack == 'x'" }),
		newPool("p6", "fd00::/112", blockSize(125)), newNode("n", nil), newNode("m", nil), reservation)
	n, m := c.allocator("n"), c.allocator("m")
	for i, tc := range []struct {
		a    *ipam.Allocator
		addr string
		pool string
	}{
		{n, "10.0.0.5", "p4"}, // a block that nobody has
		{n, "10.0.0.6", "p4"}, // our own block
		{n, "10.0.0.7", "p4"}, // reserved, but meant
		{m, "10.0.0.4", "p4"}, // another's block
		{n, "fd00::9", "p6"},
	} {
		handle := ipam.HandleID(fmt.Sprint("h", i))
		got, err := tc.a.AssignIP(t.Context(), netip.MustParseAddr(tc.addr), ipam.Request{Handle: handle, Namespace: "ns1"})
		if err != nil || got.Addr.String() != tc.addr || got.Pool != tc.pool {
			t.Fatalf("%s: got %v, %v", tc.addr, got, err)
		}
		c.check()
	}
	info, err := ipam.Lookup(t.Context(), c.store, netip.MustParseAddr("10.0.0.4"))
	if err != nil || info.Affinity != "host:n" || info.Attrs[api.AttributeNode] != "m" || info.Attrs[api.AttributeNamespace] != "ns1" {
		t.Errorf("got %+v, %v", info, err)
	}
}

func TestAssignIPSaysWhyNot(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/24", blockSize(30)), newNode("n", nil), newNode("m", nil),
		newPool("tunnel", "10.1.0.0/24", func(p *v3.IPPool) { p.Spec.AllowedUses = []v3.IPPoolAllowedUse{"Tunnel"} }),
		newPool("off", "10.2.0.0/24", func(p *v3.IPPool) { p.Spec.Disabled = true }),
		newConfig(func(s *api.IPAMConfigSpec) { s.StrictAffinity, s.MaxBlocksPerHost = true, 1 }))
	n, m := c.allocator("n"), c.allocator("m")
	for _, a := range []struct {
		a    *ipam.Allocator
		addr string
	}{{n, "10.0.0.1"}, {m, "10.0.0.5"}} {
		if _, err := a.a.AssignIP(t.Context(), netip.MustParseAddr(a.addr), ipam.Request{Handle: "first-" + ipam.HandleID(a.addr)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		addr, want string
		class      error
	}{
		{"10.9.0.1", "it lies in no IP pool", ipam.ErrNoPool},
		{"10.1.0.1", "tunnel (10.1.0.0/24): allowedUses is [Tunnel], not Workload", ipam.ErrNoPool},
		{"10.2.0.1", "off (10.2.0.0/24): disabled", ipam.ErrNoPool},
		{"10.0.0.1", "handle first-10.0.0.1 holds it", ipam.ErrInUse},
		{"10.0.0.4", "its block 10.0.0.4/30 belongs to host:m, and strictAffinity forbids to borrow", ipam.ErrNotOurs},
		{"10.0.0.9", "one more than the node may own", ipam.ErrBlockLimit},
	} {
		_, err := n.AssignIP(t.Context(), netip.MustParseAddr(tc.addr), ipam.Request{Handle: "h"})
		if !errors.Is(err, tc.class) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got  %v\nwant %s", tc.addr, err, tc.want)
		}
	}
	c.check()
}

func TestGivenAndAnyAddressesAreAssignedTogetherOrNotAtAll(t *testing.T) {
	c := newCluster(t, newPool("p4", "10.0.0.0/24", blockSize(30)), newPool("p6", "fd00::/124", blockSize(126)), newNode("n", nil))
	a := c.allocator("n")
	req := ipam.Request{Handle: "h", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("10.0.0.13")}, Num6: 1}
	got, err := a.AutoAssign(t.Context(), req)
	if err != nil || len(got) != 3 || got[0].Addr != req.Addrs[0] || got[1].Addr != req.Addrs[1] || !got[2].Addr.Is6() {
		t.Fatalf("got %v, %v", got, err)
	}
	req.Handle, req.Addrs = "other", []netip.Addr{netip.MustParseAddr("10.0.0.9")}
	if _, err := a.AutoAssign(t.Context(), req); !errors.Is(err, ipam.ErrInUse) {
		t.Errorf("got %v", err)
	}
	if held, err := a.ByHandle(t.Context(), "other"); err != nil || len(held) != 0 {
		t.Errorf("held %v, %v", held, err)
	}
	for _, bad := range []ipam.Request{
		{Handle: "h", Addrs: []netip.Addr{{}}},
		{Handle: "h", Addrs: []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1")}},
		{Handle: "h", Addrs: slices.Repeat([]netip.Addr{netip.MustParseAddr("10.0.0.1")}, 2)},
		{Handle: "h", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Num4: 1},
	} {
		if _, err := a.AutoAssign(t.Context(), bad); !errors.Is(err, ipam.ErrInvalid) {
			t.Errorf("%v: got %v", bad.Addrs, err)
		}
	}
	c.check()
}

// What another program did to the address meanwhile is found out before it is refused.
func TestAssignIPLooksAgainBeforeItRefuses(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/24", blockSize(30)), newNode("n", nil))
	a := c.allocator("n")
	addr := netip.MustParseAddr("10.0.0.1")
	if _, err := a.AssignIP(t.Context(), addr, ipam.Request{Handle: "h"}); err != nil {
		t.Fatal(err)
	}
	if _, err := ipam.ReleaseHandle(t.Context(), c.store, "h"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.AssignIP(t.Context(), addr, ipam.Request{Handle: "h2"}); err != nil {
		t.Error(err)
	}
	c.check()
}

func TestEnsureBlockClaimsOnceAndAssignsNothing(t *testing.T) {
	c := newCluster(t, newPool("p4", "10.0.0.0/24"), newPool("q4", "10.1.0.0/24"), newPool("p6", "fd00::/116"), newNode("n", nil))
	a := c.allocator("n")
	for range 2 {
		blocks, err := a.EnsureBlock(t.Context(), ipam.Request{Num4: 1, Num6: 1, Pools4: []string{"q4"}})
		if err != nil || len(blocks) != 2 || !netip.MustParsePrefix("10.1.0.0/24").Overlaps(blocks[0]) || !blocks[1].Addr().Is6() {
			t.Fatalf("got %v, %v", blocks, err)
		}
	}
	if owners, _ := ipamtest.Owners(t.Context(), c.store); len(owners) != 0 || len(c.store.Paths("/calico/ipam/v2/host/n/")) != 2 {
		t.Errorf("owners %v, affinities %v", owners, c.store.Paths("/calico/ipam/v2/host/"))
	}
	c.check()
	c.put(newConfig(func(s *api.IPAMConfigSpec) { s.AutoAllocateBlocks = false }))
	if _, err := a.EnsureBlock(t.Context(), ipam.Request{Num4: 1, Pools4: []string{"p4"}}); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("got %v", err)
	}
}

func TestABlockKeepsAddressesBackForItsHost(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/29", blockSize(29)), newNode("n", nil), strict())
	a := c.allocator("n")
	reserve := &ipam.BlockReserve{First: 3, Last: 1, Note: "windows"}
	got, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 4, Reserve: reserve})
	if err != nil || got[0].Addr.String() != "10.0.0.3" || got[3].Addr.String() != "10.0.0.6" {
		t.Fatalf("got %v, %v", got, err)
	}
	c.check()
	if _, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "h2", Num4: 1}); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("got %v", err)
	}
	if _, err := a.ReleaseByHandle(t.Context(), "h"); err != nil {
		t.Fatal(err)
	}
	if _, err := ipam.ReleaseHost(t.Context(), c.store, "n"); err != nil || len(c.store.Paths("/calico/ipam/")) > 1 {
		t.Errorf("%v; left: %v", err, c.store.Paths("/calico/ipam/"))
	}
}

func TestEveryBlockSizeWorks(t *testing.T) {
	for bits := 20; bits <= 32; bits++ {
		v4, v6 := fmt.Sprintf("10.0.0.0/%d", bits-1), fmt.Sprintf("fd00::/%d", bits+95)
		c := newCluster(t, newPool("p4", v4, blockSize(bits)), newPool("p6", v6, blockSize(bits+96)), newNode("n", nil))
		a := c.allocator("n")
		num := min(1<<(32-bits)+1, 70) // more than a block where that's few
		got := assign(t, a, "h", num, num)
		if distinct := slices.Compact(slices.Sorted(slices.Values(textOf(got)))); len(distinct) != 2*num {
			t.Errorf("/%d: %d addresses, want %d", bits, len(distinct), 2*num)
		}
		c.check()
		if released, err := a.ReleaseByHandle(t.Context(), "h"); err != nil || len(released) != 2*num {
			t.Errorf("/%d: released %d, %v", bits, len(released), err)
		}
		c.check()
	}
}

func textOf(addrs []netip.Addr) (out []string) {
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func cooling(seconds int) *api.IPAMConfig {
	return newConfig(func(s *api.IPAMConfigSpec) { s.IPCooldownSeconds, s.StrictAffinity = seconds, true })
}

func TestAReleasedAddressCoolsDown(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/31", blockSize(31)), newNode("n", nil), cooling(30))
	a := c.allocator("n")
	assign(t, a, "h", 2, 0)
	release := func(handle ipam.HandleID) {
		if _, err := a.ReleaseByHandle(t.Context(), handle); err != nil {
			t.Fatal(err)
		}
	}
	release("h")
	_, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "early", Num4: 1})
	if !errors.Is(err, ipam.ErrPoolFull) || !strings.Contains(err.Error(), "2 cooling down") || !strings.Contains(err.Error(), "30 seconds at most") {
		t.Errorf("got %v", err)
	}
	c.sleep(29 * time.Second)
	if _, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "early", Num4: 1}); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("got %v", err)
	}
	c.sleep(time.Second)
	assign(t, a, "late", 2, 0)
	// What another program releases cools down as well.
	if _, err := ipam.ReleaseHandle(t.Context(), c.store, "late"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "early", Num4: 1}); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("got %v", err)
	}
	c.put(cooling(0))
	assign(t, a, "off", 2, 0)
	c.check()
}

func TestCooldownOutlivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, newPool("p", "10.0.0.0/32", blockSize(32)), newNode("n", nil), cooling(60))
		a, stop := c.recording("n")
		assign(t, a, "h", 1, 0)
		if _, err := a.ReleaseByHandle(t.Context(), "h"); err != nil {
			t.Fatal(err)
		}
		stop()
		time.Sleep(50 * time.Second)
		a, stop = c.recording("n")
		defer stop()
		if _, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "early", Num4: 1}); !errors.Is(err, ipam.ErrPoolFull) {
			t.Errorf("got %v", err)
		}
		time.Sleep(11 * time.Second)
		assign(t, a, "late", 1, 0)
	})
}

func TestAnAddressThatIsNamedNeedNotCoolDown(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/30", blockSize(30)), newNode("n", nil), cooling(60))
	a := c.allocator("n")
	got := assign(t, a, "h", 1, 0)
	if _, err := a.ReleaseByHandle(t.Context(), "h"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.AssignIP(t.Context(), got[0], ipam.Request{Handle: "again"}); err != nil {
		t.Error(err)
	}
}
