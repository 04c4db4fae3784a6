package fib

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tortie/bgpd/filter"
	"tortie/bgpd/speaker"
	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
)

var side = netip.MustParseAddr("10.1.3.13") // on a second segment

// twoLinks is the fixture with eth1, 10.1.3.11/24, beside eth0.
func twoLinks(t *testing.T) (fx *fixture, eth1 int) {
	t.Helper()
	fx = newFixture(t)
	link, err := fx.k.CreateVeth(kernel.VethSpec{Host: "eth1", Peer: "wire1"})
	must(t, err)
	must(t, fx.k.SetUp(link.PeerIndex))
	must(t, fx.k.AddAddress(link.Index, pfx("10.1.3.11/24")))
	must(t, fx.f.Read(t.Context()))
	fx.expect(near, far, side)
	return fx, link.Index
}

// ecmp is a change to paths that are equally good, of peers that are their next hops.
func ecmp(prefix string, from ...netip.Addr) speaker.Changes {
	c := best(prefix, from[0])
	for _, a := range from[1:] {
		p := c.Best[pfx(prefix)]
		p.Equals = append(p.Equals, speaker.Path{Prefix: p.Prefix, NextHop: a, Peer: a})
	}
	return c
}

// ways are the routes of protocol 81 with all their next hops, "10.65.2.0/26: 10.1.1.12 10.1.3.13".
func (fx *fixture) ways(want ...string) {
	fx.t.Helper()
	routes, err := fx.k.Routes(fx.t.Context(), kernel.RouteFilter{Protocol: kernel.ProtocolBGP})
	must(fx.t, err)
	got := []string{}
	for _, r := range routes {
		hops := []string{}
		for _, h := range r.NextHops.All() {
			hops = append(hops, h.Gateway.String())
		}
		if len(hops) == 0 {
			hops = []string{r.Gateway.String()}
		}
		slices.Sort(hops)
		got = append(got, r.Dst.String()+": "+strings.Join(hops, " "))
	}
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" && len(want)+len(got) > 0 {
		fx.t.Errorf("routes (-want +got):\n%s", d)
	}
}

func (fx *fixture) objects() []kernel.NextHopObject {
	fx.t.Helper()
	out, err := fx.k.NextHopObjects(fx.t.Context(), kernel.ProtocolBGP)
	must(fx.t, err)
	return out
}

// writes has everything that is written from now on counted, by the operation.
func (fx *fixture) writes() map[string]int {
	n := map[string]int{}
	fx.k.SetFault(func(op fakekernel.Op) error {
		if !strings.HasPrefix(op.Name, "read") {
			n[op.Name]++
		}
		return nil
	})
	return n
}

func TestSeveralBestPathsAreOneRouteAndShareAGroup(t *testing.T) {
	for _, objects := range []bool{true, false} {
		t.Run(fmt.Sprintf("with next-hop objects %v", objects), func(t *testing.T) {
			fx, _ := twoLinks(t)
			if !objects {
				fx.k.WithoutNextHopObjects()
				fx.f.QueueResync()
				must(t, fx.f.Read(t.Context()))
			}
			fx.f.Update(ecmp("10.65.2.0/26", near, side), start)
			fx.f.Update(ecmp("10.65.3.0/26", side, near), start) // the same set
			fx.f.Update(best("10.65.4.0/26", near), start)
			fx.apply(start)
			fx.ways("10.65.2.0/26: 10.1.1.12 10.1.3.13", "10.65.3.0/26: 10.1.1.12 10.1.3.13", "10.65.4.0/26: 10.1.1.12")
			if objects && len(fx.objects()) != 3 {
				t.Errorf("next-hop objects %v, want two and one group of them", fx.objects())
			}
			if e := fx.entry("10.65.3.0/26"); e.Kernel != "via 10.1.1.12 dev eth0, via 10.1.3.13 dev eth1" {
				t.Errorf("entry %+v", e)
			}
			fx.f.Update(best("10.65.2.0/26", near), start)
			fx.f.Update(gone("10.65.3.0/26"), start)
			fx.apply(start)
			fx.ways("10.65.2.0/26: 10.1.1.12", "10.65.4.0/26: 10.1.1.12")
			if objects && len(fx.objects()) != 0 {
				t.Errorf("left: %v", fx.objects())
			}
		})
	}
}

// TestPathOfTwoReflectorsIsNoECMP: a node of a mesh, or behind reflectors, has plain
// routes.
func TestPathOfTwoReflectorsIsNoECMP(t *testing.T) {
	fx, _ := twoLinks(t)
	c := ecmp("10.65.2.0/26", near, side)
	c.Best[pfx("10.65.2.0/26")].Equals[0].NextHop = near
	fx.f.Update(c, start)
	fx.apply(start)
	fx.ways("10.65.2.0/26: 10.1.1.12")
	if got := fx.objects(); len(got) > 0 {
		t.Errorf("next-hop objects %v", got)
	}
}

func TestPeersDeathMovesAllItsRoutesByOneChange(t *testing.T) {
	const routes = 500
	fx, _ := twoLinks(t)
	var want, after []string
	for i := range routes {
		dst := fmt.Sprintf("10.66.%d.%d/32", i/256, i%256)
		fx.f.Update(ecmp(dst, near, side), start)
		want, after = append(want, dst+": 10.1.1.12 10.1.3.13"), append(after, dst+": 10.1.3.13")
	}
	slices.Sort(want)
	slices.Sort(after)
	fx.apply(start)
	fx.ways(want...)
	n := fx.writes()
	fx.f.Update(speaker.Changes{Lost: map[netip.Addr]bool{near: true}}, start) // before any withdrawal is told
	fx.apply(start)
	fx.ways(after...)
	fx.f.Update(session(near, speaker.Session{}), start)
	fx.apply(start)
	if d := cmp.Diff(map[string]int{"replace next-hop object": 1, "delete next-hop object": 1}, n); d != "" {
		t.Errorf("written: want -, got +\n%s", d)
	}
	fx.f.Update(session(near, up), start)
	fx.apply(start)
	fx.ways(want...)
}

func TestDeathOfAPeerIsNotThatOfANextHopAnotherTold(t *testing.T) {
	fx, _ := twoLinks(t)
	c := ecmp("10.65.2.0/26", near, side)
	p := c.Best[pfx("10.65.2.0/26")]
	p.Equals = append(p.Equals, speaker.Path{Prefix: p.Prefix, NextHop: near, Peer: far}) // a reflector's
	fx.f.Update(c, start)
	fx.f.Update(session(near, speaker.Session{}), start)
	fx.apply(start)
	fx.ways("10.65.2.0/26: 10.1.1.12 10.1.3.13")
	fx.f.Update(session(far, speaker.Session{}), start)
	fx.apply(start)
	fx.ways("10.65.2.0/26: 10.1.3.13")
	// When all are dead nothing is better than what there was: the speaker withdraws it.
	fx.f.Update(session(side, speaker.Session{}), start)
	fx.apply(start)
	fx.ways("10.65.2.0/26: 10.1.1.12 10.1.3.13")
}

func TestNextHopsOfAGroupAreResolvedAgainWhenLinksChange(t *testing.T) {
	fx, eth1 := twoLinks(t)
	fx.f.Update(ecmp("10.65.2.0/26", near, side), start)
	fx.apply(start)
	change := func(f func(int) error) {
		must(t, f(eth1))
		fx.f.LinkChanged(eth1)
		must(t, fx.f.Read(t.Context()))
		fx.apply(start)
	}
	change(fx.k.SetDown)
	// The default route would lead there, but both next hops are on the same router then.
	fx.ways("10.65.2.0/26: 10.1.1.12 10.1.1.254")
	change(fx.k.SetUp)
	must(t, fx.k.DeleteRoute(kernel.Route{Dst: pfx("0.0.0.0/0"), Protocol: kernel.ProtocolBoot, Link: fx.eth0, Gateway: router}))
	must(t, fx.k.AddAddress(eth1, pfx("10.1.3.11/24")))
	must(t, fx.f.Read(t.Context()))
	fx.apply(start)
	fx.ways("10.65.2.0/26: 10.1.1.12 10.1.3.13")
	change(fx.k.SetDown)
	fx.ways("10.65.2.0/26: 10.1.1.12")
	e := fx.entry("10.65.2.0/26")
	if e.Kernel != "via 10.1.1.12 dev eth0" || e.Lacking != "next hop 10.1.3.13 is unreachable: no route to it" {
		t.Errorf("entry %+v", e)
	}
	must(t, fx.k.SetDown(fx.eth0))
	change(fx.k.SetDown)
	fx.ways()
	if e := fx.entry("10.65.2.0/26"); e.Kernel != "" || !strings.Contains(e.Problem, "10.1.1.12 is unreachable") || !strings.Contains(e.Problem, "10.1.3.13 is unreachable") {
		t.Errorf("entry %+v", e)
	}
}

// TestWhatARestartingPeerToldIsKeptOfSeveral: the others' next hops go.
func TestWhatARestartingPeerToldIsKeptOfSeveral(t *testing.T) {
	fx, _ := twoLinks(t)
	fx.f.Update(ecmp("10.65.2.0/26", near, side), start)
	fx.apply(start)
	c := gone("10.65.2.0/26")
	c.Peers = map[netip.Addr]speaker.Session{near: {}, side: lost}
	fx.f.Update(c, start)
	fx.apply(start)
	fx.ways("10.65.2.0/26: 10.1.3.13")
	fx.f.Update(session(side, eor), start)
	fx.apply(start)
	fx.ways()
}

// TestOwnRouteOfSeveralNextHopsCarriesALearnedNextHop, which then has them all.
func TestOwnRouteOfSeveralNextHopsCarriesALearnedNextHop(t *testing.T) {
	fx, eth1 := twoLinks(t)
	must(t, fx.k.ReplaceRoute(kernel.Route{Dst: pfx("10.1.2.0/24"), Protocol: kernel.ProtocolStatic, NextHops: kernel.NewNextHops(
		kernel.NextHop{Link: fx.eth0, Gateway: router}, kernel.NextHop{Link: eth1, Gateway: netip.MustParseAddr("10.1.3.254"), Weight: 2})}))
	must(t, fx.f.Read(t.Context()))
	fx.f.Update(best("10.65.3.0/26", far), start)
	fx.apply(start)
	fx.ways("10.65.3.0/26: 10.1.1.254 10.1.3.254")
	if e := fx.entry("10.65.3.0/26"); e.Kernel != "via 10.1.1.254 dev eth0, via 10.1.3.254 dev eth1 weight 2" {
		t.Errorf("entry %+v", e)
	}
}

// TestRestartTakesOverWhatIsRight: nothing is written when what was learned again is in
// the kernel, and what nobody announces again goes, its group after it.
func TestRestartTakesOverWhatIsRight(t *testing.T) {
	fx, _ := twoLinks(t)
	fx.f.Update(ecmp("10.65.2.0/26", near, side), start)
	fx.f.Update(ecmp("10.65.3.0/26", near, far), start)
	fx.apply(start)
	both := []string{"10.65.2.0/26: 10.1.1.12 10.1.3.13", "10.65.3.0/26: 10.1.1.12 10.1.1.254"}
	fx.ways(both...)

	fx.f = New(fx.k, slog.New(slog.DiscardHandler))
	n := fx.writes()
	must(t, fx.f.Read(t.Context()))
	fx.expect(near, side)
	fx.apply(start)
	fx.f.Update(ecmp("10.65.2.0/26", near, side), start)
	fx.apply(start)
	fx.ways(both...)
	if len(n) > 0 {
		t.Errorf("written: %v, want nothing", n)
	}
	fx.f.Update(session(near, eor), start)
	fx.f.Update(session(side, eor), start)
	fx.apply(start)
	fx.ways(both[0])
	if got := fx.objects(); len(got) != 3 {
		t.Errorf("next-hop objects %v, want two and their group", got)
	}
}

func TestRefusedOneOfSeveralPathsIsLeftOut(t *testing.T) {
	fx, _ := twoLinks(t)
	fx.f.Expect(nil, filter.Scope{Addresses: []netip.Addr{near}}, start) // as if it were ours
	fx.f.Update(ecmp("10.65.2.0/26", near, side), start)
	fx.apply(start)
	fx.ways("10.65.2.0/26: 10.1.3.13")
	if e := fx.entry("10.65.2.0/26"); e.Lacking != "that of 10.1.1.12: its next hop is this node itself" {
		t.Errorf("entry %+v", e)
	}
}
