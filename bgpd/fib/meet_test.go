package fib

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tortie/bgpd/filter"
	"tortie/bgpd/speaker"
	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
)

// TestPlanAfterAFailureTakesNoRouteAway: what could not be written has the kernel looked
// at again, but until then next hops are resolved by what was read.
func TestPlanAfterAFailureTakesNoRouteAway(t *testing.T) {
	fx, _ := twoLinks(t)
	fx.k.SetFault(func(op fakekernel.Op) error {
		if op.Name == "add route" && strings.HasPrefix(op.Object, "10.65.9.0/26") {
			return syscall.ENOMEM
		}
		return nil
	})
	fx.f.Update(ecmp("10.65.2.0/26", near, side), start)
	fx.f.Update(best("10.65.9.0/26", near), start)
	if err := fx.f.Apply(t.Context(), start); err == nil {
		t.Fatal("no error for a route that could not be written")
	}
	fx.f.Expect([]speaker.Peer{{Address: near}, {Address: side}}, filter.Scope{}, start)
	_ = fx.f.Apply(t.Context(), start)
	fx.ways("10.65.2.0/26: 10.1.1.12 10.1.3.13")
}

// TestLostPeersNextHopIsUsedWhenNoOtherIsReached: the route stays with its group.
func TestLostPeersNextHopIsUsedWhenNoOtherIsReached(t *testing.T) {
	fx, _ := twoLinks(t)
	fx.f.Update(ecmp("10.65.2.0/26", near, side), start)
	fx.apply(start)
	fx.f.SetDead(map[netip.Addr]string{near: "BFD"})
	fx.f.Update(speaker.Changes{Lost: map[netip.Addr]bool{side: true}}, start)
	fx.apply(start)
	fx.ways("10.65.2.0/26: 10.1.3.13")
	if e, _ := fx.f.Entry(pfx("10.65.2.0/26")); e.Kernel != "via 10.1.3.13 dev eth1" || e.Problem != "" {
		t.Errorf("entry %+v", e)
	}
}

// TestHistoryHasTheMovesOfAGroup, which no decision about a prefix makes, once each.
func TestHistoryHasTheMovesOfAGroup(t *testing.T) {
	fx, _ := twoLinks(t)
	dst := pfx("10.65.2.0/26")
	now := start
	h := NewHistory(func() time.Time { now = now.Add(time.Second); return now })
	fx.f.Record(h)
	fx.f.Update(ecmp("10.65.2.0/26", near, side), start)
	fx.apply(start)
	fx.f.Update(speaker.Changes{Lost: map[netip.Addr]bool{near: true}}, start)
	fx.apply(start)
	fx.f.Update(best("10.65.2.0/26", side), start)
	fx.apply(start)
	fx.f.Update(ecmp("10.65.2.0/26", side, near), start)
	fx.f.Update(session(near, up), start)
	fx.apply(start)
	fx.f.SetDead(map[netip.Addr]string{near: "BFD"})
	fx.apply(start)
	var got []string
	for _, c := range h.Of(dst) {
		got = append(got, c.Text)
	}
	const both, one = "via 10.1.1.12 dev eth0, via 10.1.3.13 dev eth1", "via 10.1.3.13 dev eth1"
	want := []string{
		both + ", from peer 10.1.1.12", one + ", from peer 10.1.1.12", one + ", from peer 10.1.3.13",
		both + ", from peer 10.1.3.13", one + ", from peer 10.1.3.13",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("history (-want +got):\n%s", d)
	}
}

// TestWhatOneOfTwoRestartingPeersNoLongerTellsIsKeptForTheOther, whose next hop alone it
// then has.
func TestWhatOneOfTwoRestartingPeersNoLongerTellsIsKeptForTheOther(t *testing.T) {
	for _, back := range []netip.Addr{near, side} {
		t.Run(back.String(), func(t *testing.T) {
			other := side
			if back == side {
				other = near
			}
			fx, _ := twoLinks(t)
			fx.f.Update(ecmp("10.65.2.0/26", near, side), start)
			c := gone("10.65.2.0/26")
			c.Peers = map[netip.Addr]speaker.Session{near: lost, side: lost}
			fx.f.Update(c, start)
			fx.apply(start)
			fx.ways("10.65.2.0/26: 10.1.1.12 10.1.3.13")
			fx.f.Update(session(back, eor), start)
			fx.apply(start)
			fx.ways("10.65.2.0/26: " + other.String())
			if e, _ := fx.f.Entry(pfx("10.65.2.0/26")); e.Path.Peer != other || !e.Path.Best || !e.Path.Stale {
				t.Errorf("entry %+v", e)
			}
			fx.apply(start.Add(121 * time.Second))
			fx.ways()
		})
	}
}

// TestPathToAPeerWithAGatewayHasItsRoute: it is installed by another name.
func TestPathToAPeerWithAGatewayHasItsRoute(t *testing.T) {
	fx := newFixture(t)
	peer := at("10.9.9.9")
	fx.f.Reach(map[netip.Addr]netip.Addr{peer: near})
	fx.expect(peer)
	fx.f.Update(best("10.9.9.9/32", peer), start)
	fx.apply(start)
	if e, _ := fx.f.Entry(pfx("10.9.9.9/32")); e.Kernel != "via 10.1.1.12 dev eth0" || e.Problem != "" {
		t.Errorf("entry %+v", e)
	}
}

// TestTakenPlaceOfTheWayToAPeerIsNoPath: the problems say so, and no list of paths has one
// without a prefix.
func TestTakenPlaceOfTheWayToAPeerIsNoPath(t *testing.T) {
	fx := newFixture(t)
	must(t, fx.k.AddRoute(kernel.Route{Dst: pfx("10.9.9.9/32"), Protocol: kernel.ProtocolStatic, Link: fx.eth0, Gateway: router}))
	fx.f.Reach(map[netip.Addr]netip.Addr{at("10.9.9.9"): near})
	fx.expect(at("10.9.9.9"))
	fx.apply(start)
	if got := fx.f.Problems(); len(got) != 1 || !strings.HasPrefix(got[0], "10.9.9.9/32 is not installed: another program's route holds its place: via 10.1.1.254 dev eth0 proto 4 (static)") {
		t.Errorf("problems %q: want the place that is taken", got)
	}
	if got := fx.f.Prefixes(); len(got) > 0 {
		t.Errorf("prefixes %v", got)
	}
}

// TestPeerThatWasUpAndIsLostIsLost, though both are told at once.
func TestPeerThatWasUpAndIsLostIsLost(t *testing.T) {
	fx, _ := twoLinks(t)
	fx.f.Update(ecmp("10.65.2.0/26", near, side), start)
	fx.apply(start)
	c := session(near, eor)
	c.Lost = map[netip.Addr]bool{near: true}
	fx.f.Update(c, start)
	fx.apply(start)
	fx.ways("10.65.2.0/26: 10.1.3.13")
	fx.f.Update(session(near, up), start)
	fx.apply(start)
	fx.ways("10.65.2.0/26: 10.1.1.12 10.1.3.13")
}
