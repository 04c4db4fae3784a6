package fib

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"tortie/bgpd/filter"
	"tortie/bgpd/speaker"
	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
	"tortie/internal/overlay"
)

var (
	near    = netip.MustParseAddr("10.1.1.12")  // on the segment
	far     = netip.MustParseAddr("10.1.2.13")  // behind the router
	router  = netip.MustParseAddr("10.1.1.254") // the default gateway
	nearSix = netip.MustParseAddr("fd01::12")
	start   = time.Unix(1_000_000, 0)
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// fixture is a FIB on a fake kernel with one segment and a default route.
type fixture struct {
	t    *testing.T
	k    *fakekernel.Kernel
	f    *FIB
	eth0 int
}

func newFixture(t *testing.T, leftovers ...string) *fixture {
	t.Helper()
	k := fakekernel.New()
	link, err := k.CreateVeth(kernel.VethSpec{Host: "eth0", Peer: "wire"})
	must(t, err)
	must(t, k.SetUp(link.PeerIndex))
	must(t, k.AddAddress(link.Index, pfx("10.1.1.11/24")))
	must(t, k.AddAddress(link.Index, pfx("fd01::11/64")))
	must(t, k.AddRoute(kernel.Route{Dst: pfx("0.0.0.0/0"), Protocol: kernel.ProtocolBoot, Link: link.Index, Gateway: router}))
	for _, dst := range leftovers {
		must(t, k.AddRoute(kernel.Route{Dst: pfx(dst), Protocol: kernel.ProtocolBGP, Link: link.Index, Gateway: near}))
	}
	fx := &fixture{t: t, k: k, eth0: link.Index, f: New(k, slog.New(slog.DiscardHandler))}
	must(t, fx.f.Read(t.Context()))
	return fx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (fx *fixture) expect(peers ...netip.Addr) {
	var list []speaker.Peer
	for _, a := range peers {
		list = append(list, speaker.Peer{Address: a, RestartTime: 120 * time.Second})
	}
	fx.f.Expect(list, filter.Scope{}, start)
}

func (fx *fixture) apply(now time.Time) {
	fx.t.Helper()
	must(fx.t, fx.f.Apply(fx.t.Context(), now))
}

// installed are the routes of protocol 81, "10.65.2.0/26 via 10.1.1.12".
func (fx *fixture) installed() []string {
	fx.t.Helper()
	routes, err := fx.k.Routes(fx.t.Context(), kernel.RouteFilter{Protocol: kernel.ProtocolBGP})
	must(fx.t, err)
	out := []string{}
	for _, r := range routes {
		out = append(out, r.Dst.String()+" via "+r.Gateway.String())
	}
	slices.Sort(out)
	return out
}

func (fx *fixture) want(routes ...string) {
	fx.t.Helper()
	if d := cmp.Diff(routes, fx.installed(), cmpopts.EquateEmpty()); d != "" {
		fx.t.Errorf("routes (-want +got):\n%s", d)
	}
}

// entry is what has become of a prefix.
func (fx *fixture) entry(prefix string) Entry {
	e, _ := fx.f.Entry(pfx(prefix))
	return e
}

func best(prefix string, from netip.Addr) speaker.Changes {
	p := speaker.Path{Prefix: pfx(prefix), NextHop: from, Peer: from, Best: true}
	return speaker.Changes{Best: map[netip.Prefix]*speaker.Path{p.Prefix: &p}}
}

func gone(prefix string) speaker.Changes {
	return speaker.Changes{Best: map[netip.Prefix]*speaker.Path{pfx(prefix): nil}}
}

func session(addr netip.Addr, s speaker.Session) speaker.Changes {
	return speaker.Changes{Peers: map[netip.Addr]speaker.Session{addr: s}}
}

var (
	up   = speaker.Session{Established: true, Graceful: true}
	eor  = speaker.Session{Established: true, Graceful: true, EndOfRIB: true}
	lost = speaker.Session{Restarting: true, RestartTime: 120 * time.Second}
)

func TestNextHopsAreReachedDirectlyOrByTheRouter(t *testing.T) {
	fx := newFixture(t)
	fx.expect(near, far)
	fx.f.Update(best("10.65.2.0/26", near), start)
	fx.f.Update(best("10.65.3.0/26", far), start)
	fx.f.Update(best("fd65:2::/122", nearSix), start)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.12", "10.65.3.0/26 via 10.1.1.254", "fd65:2::/122 via fd01::12")
	e := fx.entry("10.65.3.0/26")
	if e.Gateway != router || e.Kernel != "via 10.1.1.254 dev eth0" {
		t.Errorf("entry %+v", e)
	}
	fx.f.Update(gone("10.65.2.0/26"), start)
	fx.apply(start)
	fx.want("10.65.3.0/26 via 10.1.1.254", "fd65:2::/122 via fd01::12")
}

func TestUnreachableNextHopIsShownAndInstalledWhenItIsReached(t *testing.T) {
	fx := newFixture(t)
	fx.expect(nearSix)
	fx.f.Update(best("fd65:3::/122", netip.MustParseAddr("fd02::13")), start)
	fx.apply(start)
	fx.want()
	if e := fx.entry("fd65:3::/122"); e.Kernel != "" || !strings.Contains(e.Problem, "next hop fd02::13 is unreachable: no route") {
		t.Errorf("entry %+v", e)
	}
	must(t, fx.k.AddRoute(kernel.Route{Dst: pfx("::/0"), Protocol: kernel.ProtocolBoot, Link: fx.eth0, Gateway: netip.MustParseAddr("fd01::fe")}))
	must(t, fx.f.Read(t.Context()))
	fx.apply(start)
	fx.want("fd65:3::/122 via fd01::fe")
	must(t, fx.k.SetDown(fx.eth0))
	must(t, fx.f.Read(t.Context()))
	fx.f.LinkChanged(fx.eth0)
	fx.apply(start)
	fx.want()
}

func TestRoutesOfAnEarlierRunAreHeldUntilEveryPeerOfTheFamilyIsHeard(t *testing.T) {
	fx := newFixture(t, "10.65.2.0/26", "10.65.9.0/26")
	fx.expect(near, far, nearSix)
	fx.apply(start)
	fx.f.Update(best("10.65.2.0/26", near), start)
	fx.f.Update(session(near, eor), start)
	fx.f.Update(session(far, up), start)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.12", "10.65.9.0/26 via 10.1.1.12")
	if !fx.f.Holding() {
		t.Error("not holding though a peer has not been heard")
	}
	// The IPv6 peer says nothing about IPv4 routes.
	fx.f.Update(session(far, eor), start)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.12")
}

func TestHeldRoutesGoWhenTheRestartTimeIsOver(t *testing.T) {
	fx := newFixture(t, "10.65.9.0/26")
	fx.expect(near)
	fx.apply(start.Add(119 * time.Second))
	fx.want("10.65.9.0/26 via 10.1.1.12")
	fx.apply(start.Add(120 * time.Second))
	fx.want()
}

func TestPeerThatSendsNoEndOfRIBIsGivenTimeToSettle(t *testing.T) {
	fx := newFixture(t, "10.65.9.0/26")
	fx.expect(near)
	fx.f.Update(session(near, speaker.Session{Established: true}), start)
	fx.apply(start.Add(settleTime - time.Millisecond))
	fx.want("10.65.9.0/26 via 10.1.1.12")
	fx.apply(start.Add(settleTime))
	fx.want()
}

func TestNothingIsDecidedBeforeTheScopeIsKnown(t *testing.T) {
	fx := newFixture(t, "10.65.2.0/26")
	fx.f.Update(best("10.65.2.0/26", near), start) // a peer is faster than the datastore
	fx.f.Update(gone("10.65.2.0/26"), start)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.12")
}

func TestRoutesOfARestartingPeerOutliveTheirWithdrawal(t *testing.T) {
	fx := newFixture(t)
	fx.expect(near, far)
	fx.f.Update(best("10.65.2.0/26", near), start)
	fx.f.Update(best("10.65.4.0/26", near), start)
	fx.f.Update(session(near, lost), start)
	fx.f.Update(gone("10.65.2.0/26"), start) // GoBGP's helper gives up
	fx.f.Update(gone("10.65.4.0/26"), start)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.12", "10.65.4.0/26 via 10.1.1.12")
	if !fx.entry("10.65.2.0/26").Path.Stale {
		t.Error("a kept path is not shown as stale")
	}
	back := up
	back.Restarting, back.RestartTime = true, 120*time.Second
	fx.f.Update(session(near, back), start)
	fx.f.Update(best("10.65.2.0/26", near), start)
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.12", "10.65.4.0/26 via 10.1.1.12")
	fx.f.Update(session(near, eor), start) // the second is not announced again
	fx.apply(start)
	fx.want("10.65.2.0/26 via 10.1.1.12")
	fx.f.Update(gone("10.65.2.0/26"), start)
	fx.apply(start)
	fx.want()
}

func TestRoutesOfAPeerThatStaysAwayGoAfterItsRestartTime(t *testing.T) {
	fx := newFixture(t)
	fx.expect(near)
	fx.f.Update(best("10.65.2.0/26", near), start)
	c := session(near, lost)
	c.Best = gone("10.65.2.0/26").Best // both at once
	fx.f.Update(c, start)
	fx.apply(start.Add(119 * time.Second))
	fx.want("10.65.2.0/26 via 10.1.1.12")
	fx.apply(start.Add(120 * time.Second))
	fx.want()
}

func TestRoutesOfAPeerThatIsGoneForGoodGoAtOnce(t *testing.T) {
	for name, s := range map[string]speaker.Session{"NOTIFICATION": {}, "removed": {Removed: true}} {
		t.Run(name, func(t *testing.T) {
			fx := newFixture(t)
			fx.expect(near)
			fx.f.Update(best("10.65.2.0/26", near), start)
			fx.f.Update(session(near, lost), start)
			fx.f.Update(gone("10.65.2.0/26"), start)
			fx.f.Update(session(near, s), start)
			fx.apply(start)
			fx.want()
		})
	}
}

// TestFIBConvergesWhateverTheOrder: after any sequence of changes the kernel has
// exactly the routes of the last state.
func TestFIBConvergesWhateverTheOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fx := newFixture(t, "10.65.9.0/26")
		fx.expect()
		last := map[string]string{}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			prefix := rapid.SampledFrom([]string{"10.65.1.0/26", "10.65.2.0/26", "10.65.9.0/26"}).Draw(rt, "prefix")
			switch hop := rapid.SampledFrom([]netip.Addr{near, far, {}}).Draw(rt, "next-hop"); hop {
			case netip.Addr{}:
				fx.f.Update(gone(prefix), start)
				delete(last, prefix)
			default:
				fx.f.Update(best(prefix, hop), start)
				last[prefix] = map[netip.Addr]string{near: "10.1.1.12", far: "10.1.1.254"}[hop]
			}
			if rapid.Bool().Draw(rt, "apply") {
				fx.apply(start)
			}
		}
		fx.apply(start)
		want := []string{}
		for p, via := range last {
			want = append(want, p+" via "+via)
		}
		slices.Sort(want)
		if d := cmp.Diff(want, fx.installed()); d != "" {
			rt.Fatalf("routes (-want +got):\n%s", d)
		}
	})
}

func TestResolverTakesTheLongestMatchOfTheLeastMetricThatIsUp(t *testing.T) {
	links := []kernel.Link{{Index: 1, Name: "eth0", Up: true}, {Index: 2, Name: "eth1", Up: true}, {Index: 3, Name: "eth2"}}
	unicast := kernel.Route{Type: kernel.RouteUnicast, Protocol: kernel.ProtocolBoot}
	route := func(dst string, link int, gateway string, metric int) kernel.Route {
		r := unicast
		r.Dst, r.Link, r.Priority = pfx(dst), link, metric
		if gateway != "" {
			r.Gateway = netip.MustParseAddr(gateway)
		}
		return r
	}
	learned := route("10.2.2.0/24", 1, "10.9.9.9", 0)
	learned.Protocol = kernel.ProtocolBGP
	blackhole := kernel.Route{Dst: pfx("10.66.0.0/16"), Type: kernel.RouteBlackhole, Protocol: kernel.ProtocolFelix}
	several := unicast
	several.Dst = pfx("10.5.0.0/16")
	several.NextHops = kernel.NewNextHops(
		kernel.NextHop{Link: 2, Gateway: netip.MustParseAddr("10.1.2.1"), Weight: 2},
		kernel.NextHop{Link: 1, Gateway: netip.MustParseAddr("10.1.1.1")}, kernel.NextHop{Link: 3, Gateway: netip.MustParseAddr("10.1.3.1")})
	dark := unicast
	dark.Dst = pfx("10.6.0.0/16")
	dark.NextHops = kernel.NewNextHops(
		kernel.NextHop{Link: 3, Gateway: netip.MustParseAddr("10.1.3.1")}, kernel.NextHop{Link: 3, Gateway: netip.MustParseAddr("10.1.3.2")})
	r := NewResolver([]kernel.Route{
		several, dark,
		route("0.0.0.0/0", 2, "10.1.2.1", 200), route("0.0.0.0/0", 1, "10.1.1.1", 100), route("10.1.1.0/24", 1, "", 0),
		route("10.3.0.0/16", 3, "10.1.3.1", 0), route("10.4.0.0/16", 0, "", 0), learned, blackhole,
	}, links, []netip.Addr{netip.MustParseAddr("10.1.1.11")})
	for nextHop, want := range map[string]string{
		"10.1.1.12": "via 10.1.1.12 dev eth0",
		"192.0.2.1": "via 10.1.1.1 dev eth0", // least metric
		"10.2.2.2":  "via 10.1.1.1 dev eth0", // not by a learned route
		"10.3.0.1":  "via 10.1.1.1 dev eth0", // eth2 is down
		"10.4.0.1":  "next hop 10.4.0.1 is unreachable: the route to it",
		"10.5.0.1":  "via 10.1.1.1 dev eth0, via 10.1.2.1 dev eth1 weight 2",     // eth2 is down
		"10.6.0.1":  "via 10.1.1.1 dev eth0",                                     // the longest match's are all down
		"10.66.1.1": "next hop 10.66.1.1 is unreachable: the way to it is black", // blackhole
		"10.1.1.11": "next hop 10.1.1.11 is an address of this node",
		"fd01::1":   "next hop fd01::1 is unreachable: no route to it",
		"fe80::1":   "next hop fe80::1 is unreachable: it is link-local",
	} {
		w := r.resolve(netip.MustParseAddr(nextHop))
		got := w.unreachable
		if got == "" {
			got = strings.Join(w.words, ", ")
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", nextHop, got, want)
		}
	}
	if w := r.resolve(netip.MustParseAddr("fe80::1%eth1")); w.unreachable != "" || w.hops[0].Link != 2 || w.hops[0].Gateway.Zone() != "" {
		t.Errorf("link-local next hop: %+v", w)
	}
}

// vxlanScope has the mesh's far block carried as the pool's mode says; both nodes have
// a tunnel.
func vxlanScope(mode overlay.Mode) filter.Scope {
	node := func(address, tunnel string) overlay.Node {
		return overlay.Node{V4: overlay.End{Address: pfx(address), Tunnel: netip.MustParseAddr(tunnel), MAC: overlay.DefaultMAC(tunnel, false)}}
	}
	return filter.Scope{
		Owners: map[netip.Prefix]string{pfx("10.65.2.0/26"): "near", pfx("10.65.3.0/26"): "far"},
		Overlay: overlay.NewView("self", map[string]overlay.Node{
			"self": node("10.1.1.11/24", "10.65.1.1"), "near": node("10.1.1.12/24", "10.65.2.1"), "far": node("10.1.2.13/24", "10.65.3.1"),
		}, []overlay.Pool{{Prefix: pfx("10.65.0.0/16"), Mode: mode}}),
	}
}

// felixRoute is one that felix writes, behind bgpd's.
func (fx *fixture) felixRoute(dst, via string) kernel.Route {
	return kernel.Route{Dst: pfx(dst), Protocol: kernel.ProtocolFelix, Link: fx.eth0, Gateway: netip.MustParseAddr(via), OnLink: true, Priority: 2048}
}

// TestWayIsMadeForFelixOnceItsRouteIsThere, and taken over again when the pool's mode is
// Never: at no time is a destination without a route.
func TestWayIsMadeForFelixOnceItsRouteIsThere(t *testing.T) {
	fx := newFixture(t)
	paths := map[netip.Prefix]*speaker.Path{
		pfx("10.65.2.0/26"): {Prefix: pfx("10.65.2.0/26"), NextHop: near, Peer: near},
		pfx("10.65.3.0/26"): {Prefix: pfx("10.65.3.0/26"), NextHop: far, Peer: far},
		pfx("10.65.2.9/32"): {Prefix: pfx("10.65.2.9/32"), NextHop: far, Peer: far}, // borrowed
	}
	look := func(mode overlay.Mode) {
		t.Helper()
		must(t, fx.f.Read(t.Context()))
		fx.f.Expect(nil, vxlanScope(mode), start)
		fx.f.Update(speaker.Changes{Best: paths}, start)
		fx.apply(start)
	}
	all := []string{"10.65.2.0/26 via 10.1.1.12", "10.65.2.9/32 via 10.1.1.254", "10.65.3.0/26 via 10.1.1.254"}
	look(overlay.Never)
	fx.want(all...)
	look(overlay.CrossSubnet)
	fx.want(all...) // felix is not there yet
	if e := fx.entry("10.65.3.0/26"); e.Carried != "by VXLAN to far" || e.Problem == "" || e.Kernel != "" {
		t.Errorf("entry %+v, want one that waits for felix", e)
	}
	must(t, fx.k.AddRoute(fx.felixRoute("10.65.3.0/26", "10.65.3.1")))
	look(overlay.CrossSubnet)
	fx.want("10.65.2.0/26 via 10.1.1.12", "10.65.2.9/32 via 10.1.1.254")
	must(t, fx.k.AddRoute(fx.felixRoute("10.65.2.0/26", "10.1.1.12")))
	must(t, fx.k.AddRoute(fx.felixRoute("10.65.2.9/32", "10.65.3.1")))
	look(overlay.CrossSubnet)
	fx.want()
	if e := fx.entry("10.65.2.0/26"); e.Carried != "by felix's route along the segment to near" || e.Problem != "" || e.Kernel != "via 10.1.1.12 dev eth0" {
		t.Errorf("entry %+v, want felix's", e)
	}
	if fx.f.Installed(pfx("10.65.2.0/26")) {
		t.Error("felix's route counts as bgpd's")
	}
	look(overlay.Never)
	fx.want(all...)
}

// TestNextHopsAreNamedAsTheKernelHasThem: a device without neighbours, WireGuard's, has no gateway.
func TestNextHopsAreNamedAsTheKernelHasThem(t *testing.T) {
	r := NewResolver(nil, []kernel.Link{{Index: 7, Name: "wireguard.cali"}}, nil)
	for want, h := range map[string]kernel.NextHop{
		"dev wireguard.cali":                        {Link: 7},
		"via 10.1.1.12 dev wireguard.cali":          {Link: 7, Gateway: near},
		"via 10.1.1.12 dev wireguard.cali weight 2": {Link: 7, Gateway: near, Weight: 2},
	} {
		if got := r.describe(h); got != want {
			t.Errorf("next hop %+v reads %q, want %q", h, got, want)
		}
	}
}

// TestATunnelsOwnAddressIsNotWaitedFor: felix's IPv6 routes through a tunnel can't be made
// while bgpd's route to its next hop, which the other node has borrowed, leads elsewhere.
func TestATunnelsOwnAddressIsNotWaitedFor(t *testing.T) {
	fx := newFixture(t)
	look := func(mode overlay.Mode) {
		fx.f.Expect(nil, vxlanScope(mode), start)
		fx.f.Update(speaker.Changes{Best: map[netip.Prefix]*speaker.Path{
			pfx("10.65.3.1/32"): {Prefix: pfx("10.65.3.1/32"), NextHop: far, Peer: far},
			pfx("10.65.2.9/32"): {Prefix: pfx("10.65.2.9/32"), NextHop: far, Peer: far},
		}}, start)
		fx.apply(start)
	}
	look(overlay.Never)
	fx.want("10.65.2.9/32 via 10.1.1.254", "10.65.3.1/32 via 10.1.1.254")
	look(overlay.Always)
	fx.want("10.65.2.9/32 via 10.1.1.254")
}

// TestRestartedBGPDDoesNotInstallWhatIsFelixs, though it finds no route of felix's yet.
func TestRestartedBGPDDoesNotInstallWhatIsFelixs(t *testing.T) {
	fx := newFixture(t)
	fx.f.Expect(nil, vxlanScope(overlay.Always), start)
	fx.f.Update(speaker.Changes{Best: map[netip.Prefix]*speaker.Path{
		pfx("10.65.3.0/26"): {Prefix: pfx("10.65.3.0/26"), NextHop: far, Peer: far},
	}}, start)
	fx.apply(start)
	fx.want()
}

// TestWhatARestartingPeerToldIsKeptInReserve while another peer tells of the prefix: a
// reflector may withdraw it in the next moment, as the same peer restarts for it, too.
func TestWhatARestartingPeerToldIsKeptInReserve(t *testing.T) {
	for _, tt := range []struct {
		name string
		then speaker.Changes
		want []string
	}{
		{"it goes on", speaker.Changes{}, []string{"10.65.2.0/26 via 10.1.1.12"}},
		{"it has sent everything", session(near, eor), nil},
		{"it is gone for good", session(near, speaker.Session{}), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fx := newFixture(t)
			fx.expect(near, far)
			fx.f.Update(best("10.65.2.0/26", near), start)
			fx.f.Update(session(near, lost), start)
			fx.f.Update(gone("10.65.2.0/26"), start)
			reflected := best("10.65.2.0/26", near)
			reflected.Best[pfx("10.65.2.0/26")].Peer = far
			fx.f.Update(reflected, start)
			if e := fx.entry("10.65.2.0/26"); e.Path.Peer != far || e.Path.Stale {
				t.Errorf("entry %+v", e)
			}
			fx.f.Update(tt.then, start)
			if e := fx.entry("10.65.2.0/26"); e.Path.Peer != far {
				t.Errorf("what another peer tells is taken away: %+v", e)
			}
			fx.f.Update(gone("10.65.2.0/26"), start)
			fx.apply(start)
			fx.want(tt.want...)
		})
	}
}
