package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/ipam"
)

func TestAutoAssignSaysWhyEachPoolWasSkipped(t *testing.T) {
	manual := v3.Manual
	for _, tc := range []struct {
		name   string
		pool   *v3.IPPool
		change func(*ipam.Request)
		want   string
	}{
		{"disabled", newPool("p", "10.0.0.0/16", func(p *v3.IPPool) { p.Spec.Disabled = true }), nil, "p (10.0.0.0/16): disabled"},
		{"to be avoided", newPool("p", "10.0.0.0/16"), func(r *ipam.Request) {
			r.Avoid = map[netip.Prefix]string{netip.MustParsePrefix("10.0.0.0/16"): "nothing carries it"}
		}, "p (10.0.0.0/16): nothing carries it"},
		{"node selector", newPool("p", "10.0.0.0/16", func(p *v3.IPPool) { p.Spec.NodeSelector = "rack == 'b'" }), nil, `p (10.0.0.0/16): nodeSelector "rack == 'b'" doesn't match the labels of node n`},
		{"broken selector", newPool("p", "10.0.0.0/16", func(p *v3.IPPool) { p.Spec.NodeSelector = "rack ==" }), nil, `its nodeSelector "rack ==" can't be read`},
		{"allowed uses", newPool("p", "10.0.0.0/16", func(p *v3.IPPool) { p.Spec.AllowedUses = []v3.IPPoolAllowedUse{"Tunnel"} }), nil, "allowedUses is [Tunnel], not Workload"},
		{"manual", newPool("p", "10.0.0.0/16", func(p *v3.IPPool) { p.Spec.AssignmentMode = &manual }), nil, "assignmentMode is Manual and the request doesn't name it"},
		{"not requested", newPool("p", "10.0.0.0/16"), func(r *ipam.Request) { r.Pools4 = []string{"q"} }, "p (10.0.0.0/16): not among the requested pools q; q: requested, but there is no such pool"},
		{"namespace selector", newPool("p", "10.0.0.0/16", func(p *v3.IPPool) { p.Spec.NamespaceSelector = "team == 'a'" }), func(r *ipam.Request) { r.Namespace = "ns1" }, `namespaceSelector "team == 'a'", and the labels of namespace ns1 are not known`},
		{"other family", newPool("p", "fd00::/64"), nil, "There is no IPv4 pool at all"},
		{"block size", newPool("p", "10.0.0.0/16", blockSize(19)), nil, "its blockSize 19 is not within 20 to 32"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, tc.pool, newNode("n", map[string]string{"rack": "a"}))
			req := ipam.Request{Handle: "h", Num4: 1}
			if tc.change != nil {
				tc.change(&req)
			}
			_, err := c.allocator("n").AutoAssign(t.Context(), req)
			if !errors.Is(err, ipam.ErrNoPool) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			c.check()
		})
	}
}

func TestAutoAssignUsesThePoolThatIsAskedFor(t *testing.T) {
	manual := v3.Manual
	c := newCluster(t,
		newPool("a", "10.1.0.0/16"),
		newPool("b", "10.2.0.0/16", func(p *v3.IPPool) { p.Spec.AssignmentMode = &manual }),
		newNode("n", nil))
	a := c.allocator("n")
	for i, tc := range []struct {
		pools []string
		want  string
	}{{nil, "a"}, {[]string{"b"}, "b"}, {[]string{"10.2.0.0/16", "a"}, "b"}, {[]string{"a", "b"}, "a"}} {
		got, err := a.AutoAssign(t.Context(), ipam.Request{Handle: ipam.HandleID(fmt.Sprint("h", i)), Num4: 1, Pools4: tc.pools})
		if err != nil || got[0].Pool != tc.want {
			t.Errorf("%v: got %v, %v; want pool %s", tc.pools, got, err, tc.want)
		}
	}
	c.check()
}

// TestPoolThatIsToBeAvoidedServesNobodyWhileAnotherFits: nor an address of it that is named.
func TestPoolThatIsToBeAvoidedServesNobodyWhileAnotherFits(t *testing.T) {
	c := newCluster(t, newPool("a", "10.1.0.0/16"), newPool("b", "10.2.0.0/16"), newNode("n", nil))
	a := c.allocator("n")
	avoid := map[netip.Prefix]string{netip.MustParsePrefix("10.1.0.0/16"): "nothing carries it"}
	for i, tc := range []struct {
		req  ipam.Request
		want string
	}{
		{ipam.Request{Num4: 1}, "a"},
		{ipam.Request{Num4: 1, Avoid: avoid}, "b"},
		{ipam.Request{Num4: 1, Avoid: avoid, Pools4: []string{"a"}}, ""},
		{ipam.Request{Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.99")}, Avoid: avoid}, ""},
		{ipam.Request{Num4: 1}, "a"},
	} {
		tc.req.Handle = ipam.HandleID(fmt.Sprint("h", i))
		got, err := a.AutoAssign(t.Context(), tc.req)
		switch {
		case tc.want == "":
			if !errors.Is(err, ipam.ErrNoPool) || !strings.Contains(err.Error(), "a (10.1.0.0/16): nothing carries it") {
				t.Errorf("%d: got %v, %v", i, got, err)
			}
		case err != nil || got[0].Pool != tc.want:
			t.Errorf("%d: got %v, %v; want pool %s", i, got, err, tc.want)
		}
	}
	c.check()
}

func TestNamespaceSelectorMatchesTheLabelsOfTheNamespace(t *testing.T) {
	profile := &v3.Profile{
		TypeMeta:   metav1.TypeMeta{Kind: "Profile", APIVersion: api.GroupVersion},
		ObjectMeta: metav1.ObjectMeta{Name: "kns.ns1"},
		Spec:       v3.ProfileSpec{LabelsToApply: map[string]string{"pcns.team": "a"}},
	}
	c := newCluster(t, profile, newNode("n", nil),
		newPool("p", "10.0.0.0/16", func(p *v3.IPPool) { p.Spec.NamespaceSelector = "team == 'a'" }))
	_, err := c.allocator("n").AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1, Namespace: "ns1"})
	if err != nil {
		t.Error(err)
	}
}

func TestAutoAssignNeedsTheNode(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/16"))
	_, err := c.allocator("n").AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1})
	if !errors.Is(err, ipam.ErrNodeUnknown) || !strings.Contains(err.Error(), "calicoctl get nodes") {
		t.Errorf("got %v", err)
	}
}

func TestBlockLimitSaysLimitUseAndFix(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/16", blockSize(31)), newNode("n", nil),
		newConfig(func(s *api.IPAMConfigSpec) { s.MaxBlocksPerHost = 2 }))
	a := c.allocator("n")
	assign(t, a, "h", 4, 0)
	_, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "more", Num4: 1})
	if !errors.Is(err, ipam.ErrBlockLimit) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"owns 2 of at most 2 IPv4 blocks, with 0 addresses free", "--max-blocks-per-host=4"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
	if _, err := a.ReleaseByHandle(t.Context(), "h"); err != nil {
		t.Fatal(err)
	}
	assign(t, a, "more", 1, 0)
	c.check()
}

func TestDefaultBlockLimitIsTwenty(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/16", blockSize(32)), newNode("n", nil))
	a := c.allocator("n")
	assign(t, a, "h", 20, 0)
	if _, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "more", Num4: 1}); !errors.Is(err, ipam.ErrBlockLimit) {
		t.Errorf("got %v", err)
	}
	c.check()
}

func TestFullPoolSaysSo(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/30", blockSize(31)), newNode("n", nil), newNode("m", nil), strict())
	assign(t, c.allocator("m"), "other", 1, 0)
	a := c.allocator("n")
	assign(t, a, "h", 2, 0)
	_, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "more", Num4: 1})
	if !errors.Is(err, ipam.ErrPoolFull) || !strings.Contains(err.Error(), "no other block of the pool is free") {
		t.Errorf("got %v", err)
	}
	if _, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "h5", Num4: 5}); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("got %v", err)
	}
	c.check()
}

// TestRefusalCountsWhatTheAddressesAre: used, by whom, reserved, cooling, and what would
// help.
func TestRefusalCountsWhatTheAddressesAre(t *testing.T) {
	reservation := v3.NewIPReservation()
	reservation.Name, reservation.Spec.ReservedCIDRs = "r", []string{"10.0.0.6/31"}
	c := newCluster(t, newPool("p", "10.0.0.0/29", blockSize(29)), newNode("n", nil), newNode("m", nil), reservation,
		newConfig(func(s *api.IPAMConfigSpec) { s.IPCooldownSeconds = 30 }))
	a := c.allocator("n")
	assign(t, a, "stays", 3, 0)
	assign(t, a, "gone", 1, 0)
	assign(t, c.allocator("m"), "borrower", 2, 0)
	if _, err := a.ReleaseByHandle(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	_, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "more", Num4: 1})
	if !errors.Is(err, ipam.ErrPoolFull) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		"p (10.0.0.0/29): the node has 1 block in it with 0 free, 5 used, 2 of those borrowed by other nodes, 2 reserved, 1 cooling down, and no other block of the pool is free",
		"the node owns 1 of at most 20 IPv4 blocks, with 0 addresses free",
		"Add a pool", "Addresses that cool down serve again in 30 seconds at most",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
	c.check()
}

func TestAutoAllocateBlocksOffClaimsNothing(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/16"), newNode("n", nil),
		newConfig(func(s *api.IPAMConfigSpec) { s.AutoAllocateBlocks = false }))
	_, err := c.allocator("n").AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1})
	if !errors.Is(err, ipam.ErrPoolFull) || !strings.Contains(err.Error(), "auto_allocate_blocks") {
		t.Errorf("got %v", err)
	}
	if got := c.store.Paths("/calico/ipam/v2/host/"); len(got) != 0 {
		t.Errorf("claimed %v", got)
	}
}

func TestReservedAddressesAreNotAssigned(t *testing.T) {
	reservation := v3.NewIPReservation()
	reservation.Name = "r"
	reservation.Spec.ReservedCIDRs = []string{"10.0.0.0/31", "10.0.0.3"}
	c := newCluster(t, reservation, newPool("p", "10.0.0.0/30", blockSize(30)), newNode("n", nil))
	a := c.allocator("n")
	if got := assign(t, a, "h", 1, 0); got[0].String() != "10.0.0.2" {
		t.Errorf("got %v", got)
	}
	_, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "more", Num4: 1})
	if !errors.Is(err, ipam.ErrPoolFull) || !strings.Contains(err.Error(), "3 reserved") {
		t.Errorf("got %v", err)
	}
	c.remove(api.Key{Kind: api.KindIPReservation, Name: "r"})
	if got := assign(t, a, "more", 1, 0); got[0].String() != "10.0.0.0" {
		t.Errorf("got %v, want the oldest free address", got)
	}
	c.check()
}

func TestInvalidRequestsAreRefused(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/16"), newNode("n", nil))
	a := c.allocator("n")
	for _, req := range []ipam.Request{{Num4: 1}, {Handle: "a/b", Num4: 1}, {Handle: "h"}, {Handle: "h", Num4: -1, Num6: 2}} {
		if _, err := a.AutoAssign(t.Context(), req); !errors.Is(err, ipam.ErrInvalid) {
			t.Errorf("%+v: got %v", req, err)
		}
	}
	if _, err := a.ReleaseByHandle(t.Context(), ""); !errors.Is(err, ipam.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	a.Close()
	if _, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1}); !errors.Is(err, ipam.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestPoolsThatOverlapNeverGiveOverlappingBlocks(t *testing.T) {
	c := newCluster(t, newPool("large", "10.0.0.0/24", blockSize(28)), newPool("small", "10.0.0.0/26", blockSize(30)), newNode("n", nil), newNode("m", nil),
		newConfig(func(s *api.IPAMConfigSpec) { s.MaxBlocksPerHost = 100 }))
	n, m := c.allocator("n"), c.allocator("m")
	for i := range 100 {
		for node, a := range map[string]*ipam.Allocator{"n": n, "m": m} {
			_, err := a.AutoAssign(t.Context(), ipam.Request{Handle: ipam.HandleID(fmt.Sprint(node, i)), Num4: 3, Pools4: []string{[]string{"large", "small"}[i%2]}})
			if err != nil && !errors.Is(err, ipam.ErrPoolFull) {
				t.Fatal(err)
			}
		}
	}
	c.check()
}

func TestAFamilyWithoutPoolClaimsNothingForTheOther(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/16"), newNode("n", nil))
	_, err := c.allocator("n").AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1, Num6: 1})
	if !errors.Is(err, ipam.ErrNoPool) {
		t.Errorf("got %v", err)
	}
	if got := c.store.Paths("/calico/ipam/v2/host/"); len(got) != 0 {
		t.Errorf("claimed %v", got)
	}
}
