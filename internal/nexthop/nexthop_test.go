package nexthop_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
	"tortie/internal/nexthop"
)

// fixture is a table on a fake kernel with one segment.
type fixture struct {
	*testing.T
	k    *fakekernel.Kernel
	t    *nexthop.Table
	link int
}

func newFixture(t *testing.T) *fixture {
	k := fakekernel.New()
	link, err := k.CreateVeth(kernel.VethSpec{Host: "eth0", Peer: "wire"})
	fx := &fixture{T: t, k: k, t: nexthop.New(k, kernel.ProtocolBGP), link: link.Index}
	fx.must(err)
	fx.must(k.AddAddress(link.Index, netip.MustParsePrefix("192.0.2.1/24")))
	fx.must(fx.t.Read(t.Context()))
	return fx
}

func (fx *fixture) must(err error) {
	fx.Helper()
	if err != nil {
		fx.Fatal(err)
	}
}

func (fx *fixture) hops(gateways ...string) kernel.NextHops {
	var out []kernel.NextHop
	for _, g := range gateways {
		out = append(out, kernel.NextHop{Link: fx.link, Gateway: netip.MustParseAddr(g)})
	}
	return kernel.NewNextHops(out...)
}

// route refers to a group, and is what the group says.
func (fx *fixture) route(dst string, id int) {
	fx.Helper()
	fx.must(fx.k.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix(dst), Protocol: kernel.ProtocolBGP, NextHopID: id}))
}

func (fx *fixture) via(dst string) kernel.NextHops {
	fx.Helper()
	routes, err := fx.k.Routes(fx.Context(), kernel.RouteFilter{})
	fx.must(err)
	for _, r := range routes {
		if r.Dst == netip.MustParsePrefix(dst) {
			if r.Link != 0 {
				return kernel.NewNextHops(kernel.NextHop{Link: r.Link, Gateway: r.Gateway})
			}
			return r.NextHops
		}
	}
	return kernel.NextHops{}
}

func (fx *fixture) count() int {
	fx.Helper()
	objects, err := fx.k.NextHopObjects(fx.Context(), kernel.ProtocolBGP)
	fx.must(err)
	return len(objects)
}

func TestGroupsChangeUnderTheirRoutes(t *testing.T) {
	fx := newFixture(t)
	id := fx.t.Set("a", fx.hops("192.0.2.2", "192.0.2.3"))
	fx.must(fx.t.Apply(t.Context()))
	fx.route("10.65.0.0/26", id)
	if again := fx.t.Set("a", fx.hops("192.0.2.3", "192.0.2.4")); again != id {
		t.Errorf("the number has become %d, was %d", again, id)
	}
	fx.must(fx.t.Apply(t.Context()))
	if got := fx.via("10.65.0.0/26"); got != fx.hops("192.0.2.3", "192.0.2.4") {
		t.Errorf("next hops %v", got.All())
	}
}

func TestSweepSparesWhatRoutesReferTo(t *testing.T) {
	fx := newFixture(t)
	id := fx.t.Set("a", fx.hops("192.0.2.2", "192.0.2.3"))
	fx.t.Set("b", fx.hops("192.0.2.4"))
	fx.must(fx.t.Apply(t.Context()))
	fx.route("10.65.0.0/26", id)
	fx.t.Remove("a")
	fx.t.Remove("b")
	fx.must(fx.t.Apply(t.Context()))
	fx.must(fx.t.Sweep(func(referred int) bool { return referred == id }))
	if n := fx.count(); n != 3 || fx.via("10.65.0.0/26").Len() != 2 {
		t.Errorf("%d objects, the route by %v; want the group, its two next hops and the route", n, fx.via("10.65.0.0/26").All())
	}
	fx.must(fx.k.DeleteRoute(kernel.Route{Dst: netip.MustParsePrefix("10.65.0.0/26"), Protocol: kernel.ProtocolBGP, NextHopID: id}))
	fx.must(fx.t.Sweep(func(int) bool { return false }))
	if n := fx.count(); n != 0 || fx.t.Idle() {
		t.Errorf("%d objects left", n)
	}
}

// TestNumberThatAnotherProgramTookIsLeftToIt, and another one is used.
func TestNumberThatAnotherProgramTookIsLeftToIt(t *testing.T) {
	fx := newFixture(t)
	id := fx.t.Set("a", fx.hops("192.0.2.2"))
	theirs := kernel.NextHopObject{ID: id, Protocol: kernel.ProtocolStatic, NextHop: fx.hops("192.0.2.9").All()[0]}
	fx.must(errors.Join(fx.k.Apply(kernel.NextHopChange{Op: kernel.Add, Object: theirs})...))
	if err := fx.t.Apply(t.Context()); !errors.Is(err, kernel.ErrExists) {
		t.Errorf("error %v, want one that says that the number is taken", err)
	}
	fx.must(fx.t.Read(t.Context()))
	other := fx.t.Set("a", fx.hops("192.0.2.2"))
	fx.must(fx.t.Apply(t.Context()))
	if other == id {
		t.Errorf("number %d is used although it is another program's", id)
	}
	fx.route("10.65.0.0/26", other)
	fx.t.Remove("a")
	fx.must(fx.t.Apply(t.Context()))
	fx.must(fx.k.DeleteRoute(kernel.Route{Dst: netip.MustParsePrefix("10.65.0.0/26"), Protocol: kernel.ProtocolBGP, NextHopID: other}))
	fx.must(fx.t.Sweep(func(int) bool { return false }))
	left, err := fx.k.NextHopObjects(t.Context(), 0)
	fx.must(err)
	if len(left) != 1 || !left[0].Equal(theirs) {
		t.Errorf("left %v, want the other program's alone", left)
	}
}

func TestWhatFailedIsTriedAgain(t *testing.T) {
	fx := newFixture(t)
	id := fx.t.Set("a", fx.hops("192.0.2.2", "192.0.2.3"))
	fx.k.SetFault(func(op fakekernel.Op) error {
		if strings.HasPrefix(op.Name, "add next-hop object") {
			return kernel.ErrBusy
		}
		return nil
	})
	if err := fx.t.Apply(t.Context()); !errors.Is(err, kernel.ErrBusy) {
		t.Errorf("error %v", err)
	}
	fx.k.SetFault(nil)
	fx.must(fx.t.Apply(t.Context()))
	fx.route("10.65.0.0/26", id)
	if got := fx.via("10.65.0.0/26"); got.Len() != 2 {
		t.Errorf("next hops %v", got.All())
	}
}

// TestKernelWithoutObjectsIsNoError: whoever declares asks before.
func TestKernelWithoutObjectsIsNoError(t *testing.T) {
	fx := newFixture(t)
	fx.k.WithoutNextHopObjects()
	table := nexthop.New(fx.k, kernel.ProtocolBGP)
	fx.must(table.Read(t.Context()))
	fx.must(table.Apply(t.Context()))
	if table.Supported() {
		t.Error("taken for supported")
	}
}
