package dataplane_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"tortie/felix/calc"
	"tortie/felix/ipip"
	"tortie/felix/tunnels"
	"tortie/felix/vxlan"
	"tortie/felix/wireguard"
	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/overlay"
	"tortie/internal/polltest"
)

// withTunnels gives the node eth0 and real Tunnels, as if State had told them.
func (w *world) withTunnels() tunnels.Set {
	w.Helper()
	kerneltest.Require(w, kerneltest.Vxlan)
	l, err := w.kern.CreateVeth(kernel.VethSpec{Host: "eth0", Peer: "wire0"})
	for _, err := range []error{
		err, w.kern.SetUp(l.PeerIndex), w.kern.AddAddress(l.Index, netip.MustParsePrefix("192.0.2.1/24")),
		w.kern.AddAddress(l.Index, netip.MustParsePrefix("2001:db8::1/64")),
	} {
		if err != nil {
			w.Fatal(err)
		}
	}
	set := newTunnels(w.kern)
	w.cfg.Tunnels = set
	return set
}

func newTunnels(k kern) tunnels.Set {
	log := slog.New(slog.DiscardHandler)
	set := tunnels.Set{
		VXLAN: vxlan.New(vxlan.Config{Kernel: k.(vxlan.Kernel), Log: log, MTU: func(bool) int { return 1400 }}),
		IPIP:  ipip.New(ipip.Config{Kernel: k.(ipip.Kernel), Log: log, MTU: func() int { return 1400 }}),
		// Without settings, so without a device.
		WireGuard: wireguard.New(wireguard.Config{Log: log, Wake: func() {}}),
	}
	set.VXLAN.Configure(vxlan.Settings{VNI: 4096, Port: 4789})
	return set
}

// overlaid is the State of a node with VXLAN to another behind a router, and one
// on its segment.
func overlaid() calc.State {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	return calc.State{
		NodeAddrs: []netip.Prefix{p("192.0.2.1/24"), p("2001:db8::1/64")},
		Tunnels: []overlay.Tunnel{
			{
				Here:  overlay.End{Address: p("192.0.2.1/24"), Tunnel: a("10.65.1.1"), MAC: overlay.MAC{0x66, 0, 0, 0, 0, 1}},
				Peers: []overlay.End{{Address: p("198.51.100.3/24"), Tunnel: a("10.65.3.1"), MAC: overlay.MAC{0x66, 0, 0, 0, 0, 3}}},
			},
			{
				Here:  overlay.End{Address: p("2001:db8::1/64"), Tunnel: a("fd65::1:1"), MAC: overlay.MAC{0x66, 0, 0, 0, 0, 1}},
				Peers: []overlay.End{{Address: p("2001:db8:1::3/64"), Tunnel: a("fd65::3:1"), MAC: overlay.MAC{0x66, 0, 0, 0, 0, 3}}},
			},
		},
		Remote: []calc.Remote{
			{Dst: p("10.65.2.0/26"), Via: a("192.0.2.2"), Carrier: overlay.Segment},
			{Dst: p("10.65.3.0/26"), Via: a("10.65.3.1"), Carrier: overlay.VXLAN},
			{Dst: p("fd65::3:0/122"), Via: a("fd65::3:1"), Carrier: overlay.VXLAN},
			{Dst: p("fd65::3:1/128"), Carrier: overlay.VXLAN},
		},
	}
}

func overlaidRoutes(more ...string) []string {
	return append(more, "10.65.2.0/26 eth0", "10.65.3.0/26 vxlan.calico", "fd65::3:0/122 vxlan-v6.calico", "fd65::3:1/128 vxlan-v6.calico")
}

func TestRoutesToOtherNodesAreThereAndComeBack(t *testing.T) {
	onEachKernel(t, func(w *world) {
		set := w.withTunnels()
		set.Desire(overlaid())
		w.startInSync(overlaid())
		w.becomes(overlaidRoutes()...)
		l, err := w.kern.LinkByName(vxlan.Device6)
		if err != nil {
			w.Fatal(err)
		}
		if err := w.kern.DeleteLink(l.Index); err != nil {
			w.Fatal(err)
		}
		w.becomes(overlaidRoutes()...)
		if again, err := w.kern.LinkByName(vxlan.Device6); err != nil || again.Index == l.Index {
			w.Errorf("device %v (%v), want one made anew", again, err)
		}
		eth, err := w.kern.LinkByName("eth0")
		if err != nil {
			w.Fatal(err)
		}
		for _, err := range []error{w.kern.SetDown(eth.Index), w.kern.SetUp(eth.Index)} {
			if err != nil {
				w.Fatal(err)
			}
		}
		w.becomes(overlaidRoutes()...)
		former, _ := set.Link(overlay.VXLAN, false)
		set.VXLAN.Configure(vxlan.Settings{VNI: 7, Port: 4790})
		w.loop.Resync()
		polltest.Until(w, 10*time.Second, "the device is made anew", func() (bool, string) {
			now, up := set.Link(overlay.VXLAN, false)
			return up && now != former, "it is the former one"
		})
		w.becomes(overlaidRoutes()...)
		without := overlaid()
		without.Tunnels, without.Remote = nil, without.Remote[:1]
		set.Desire(without)
		w.loop.SetState(without)
		w.becomes("10.65.2.0/26 eth0")
	})
}

// byIPIP is the State of a node with IPIP to another behind a router.
func byIPIP() calc.State {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	return calc.State{
		NodeAddrs: []netip.Prefix{p("192.0.2.1/24")}, IPIP: a("10.65.1.1"),
		Remote: []calc.Remote{{Dst: p("10.65.3.0/26"), Via: a("198.51.100.3"), Carrier: overlay.IPIP}},
	}
}

// TestRouteByIPIPIsThereAndFollowsTheMode: its next hop is the other node's address,
// though that is on no network of this node, and its source the device's.
func TestRouteByIPIPIsThereAndFollowsTheMode(t *testing.T) {
	test := func(w *world) {
		set := w.withTunnels()
		set.Desire(byIPIP())
		w.startInSync(byIPIP())
		w.becomes("10.65.3.0/26 tunl0")
		routes, err := w.kern.Routes(w.Context(), kernel.RouteFilter{Protocol: kernel.ProtocolFelix})
		if err != nil || len(routes) != 1 || routes[0].Gateway.String() != "198.51.100.3" || !routes[0].OnLink || routes[0].Src.String() != "10.65.1.1" {
			w.Errorf("%+v, %v", routes, err)
		}
		l, err := w.kern.LinkByName("tunl0")
		if err == nil {
			err = w.kern.SetDown(l.Index)
		}
		if err != nil {
			w.Fatal(err)
		}
		w.becomes("10.65.3.0/26 tunl0") // someone had switched it off
		other := overlaid()
		other.Tunnels, other.Remote = other.Tunnels[:1], other.Remote[1:2]
		other.IPIP = byIPIP().IPIP // still there, for who is slow to hear
		set.Desire(other)
		w.loop.SetState(other)
		w.becomes("10.65.3.0/26 vxlan.calico")
		set.Desire(byIPIP())
		w.loop.SetState(byIPIP())
		w.becomes("10.65.3.0/26 tunl0")
	}
	t.Run("fake", func(t *testing.T) { test(newWorld(t, fakekernel.New())) })
	t.Run("real", func(t *testing.T) {
		kerneltest.Require(t, kerneltest.IPIP)
		test(newWorld(t, kerneltest.New(t)))
	})
}

// TestOwnComesBeforeAnotherNodes: a pod here with a borrowed address, and a block that
// two nodes claim.
func TestOwnComesBeforeAnotherNodes(t *testing.T) {
	onEachKernel(t, func(w *world) {
		set := w.withTunnels()
		set.Desire(overlaid())
		s := overlaid()
		s.Remote = append(s.Remote, calc.Remote{Dst: netip.MustParsePrefix("10.65.9.1/32"), Via: netip.MustParseAddr("10.65.3.1"), Carrier: overlay.VXLAN})
		s.Blocks = []netip.Prefix{netip.MustParsePrefix("10.65.2.0/26")}
		w.device(if1)
		w.startInSync(s)
		pod := endpoint("a", "c1", if1, "10.65.9.1")
		w.upsert(pod)
		own := []string{
			"10.65.9.1/32 " + if1, "blackhole 10.65.2.0/26", "10.65.3.0/26 vxlan.calico", "fd65::3:0/122 vxlan-v6.calico", "fd65::3:1/128 vxlan-v6.calico",
		}
		w.becomes(own...)
		w.remove(pod)
		s.Blocks = nil
		w.loop.SetState(s)
		w.becomes(overlaidRoutes("10.65.9.1/32 vxlan.calico")...)
	})
}

// bgpRoute is what bgpd writes to a destination.
func (w *world) bgpRoute(dst string) {
	w.Helper()
	eth, err := w.kern.LinkByName("eth0")
	if err == nil {
		err = w.kern.AddRoute(kernel.Route{
			Dst: netip.MustParsePrefix(dst), Protocol: kernel.ProtocolBGP, Link: eth.Index, Gateway: netip.MustParseAddr("192.0.2.254"),
		})
	}
	if err != nil {
		w.Fatal(err)
	}
}

// TestRouteStaysUntilItsSuccessorIsThere: the mode of a pool is changed to Never.
func TestRouteStaysUntilItsSuccessorIsThere(t *testing.T) {
	inBubble(t, func(w *world, _ *fakekernel.Kernel) {
		set := w.withTunnels()
		set.Desire(overlaid())
		w.startInSync(overlaid())
		after(time.Second)
		w.wantRoutes(overlaidRoutes()...)
		never := overlaid()
		never.Remote = nil
		w.loop.SetState(never)
		after(2 * time.Second)
		w.wantRoutes(overlaidRoutes()...)
		w.bgpRoute("10.65.2.0/26")
		w.bgpRoute("10.65.3.0/26")
		after(100 * time.Millisecond)
		w.wantRoutes("fd65::3:0/122 vxlan-v6.calico", "fd65::3:1/128 vxlan-v6.calico")
		after(9 * time.Second) // nobody takes over the others
		w.wantRoutes()
	})
}

// TestNewWayWaitsForItsFarEndWhereThereIsAnother: what nobody else leads to does not wait.
func TestNewWayWaitsForItsFarEndWhereThereIsAnother(t *testing.T) {
	inBubble(t, func(w *world, _ *fakekernel.Kernel) {
		set := w.withTunnels()
		p := netip.MustParsePrefix
		shy := &shyTunnels{Set: set, unready: map[netip.Prefix]bool{p("10.65.3.0/26"): true, p("fd65::3:0/122"): true}}
		w.cfg.Tunnels = shy
		set.Desire(overlaid())
		w.bgpRoute("10.65.3.0/26")
		w.startInSync(overlaid())
		after(time.Second)
		w.wantRoutes("10.65.2.0/26 eth0", "fd65::3:0/122 vxlan-v6.calico", "fd65::3:1/128 vxlan-v6.calico")
		shy.unready = nil
		w.loop.TunnelsDue()
		after(time.Second)
		w.wantRoutes(overlaidRoutes()...)
	})
}

// shyTunnels are real ones with far ends that have yet to answer.
type shyTunnels struct {
	tunnels.Set
	unready map[netip.Prefix]bool
}

func (s *shyTunnels) Unready() map[netip.Prefix]bool { return s.unready }

func TestRouteThatIsWantedAgainStays(t *testing.T) {
	inBubble(t, func(w *world, _ *fakekernel.Kernel) {
		set := w.withTunnels()
		set.Desire(overlaid())
		w.startInSync(overlaid())
		never := overlaid()
		never.Remote = nil
		w.loop.SetState(never)
		after(5 * time.Second)
		w.loop.SetState(overlaid())
		after(time.Minute)
		w.wantRoutes(overlaidRoutes()...)
	})
}

// TestRestartedLoopThatCannotReadLeavesRoutesAlone: nothing goes before all is known.
func TestRestartedLoopThatCannotReadLeavesRoutesAlone(t *testing.T) {
	for _, broken := range []string{"read addresses of link", "read link", "read vxlan", "read fdb of link"} {
		t.Run(broken, func(t *testing.T) {
			inBubble(t, func(w *world, k *fakekernel.Kernel) {
				set := w.withTunnels()
				set.Desire(overlaid())
				w.startInSync(overlaid())
				after(time.Second)
				w.stop()
				set = newTunnels(k)
				set.Desire(overlaid())
				w.cfg.Tunnels = set
				k.SetFault(func(op fakekernel.Op) error {
					if op.Name == broken {
						return errors.New("out of luck")
					}
					return nil
				})
				w.startInSync(overlaid())
				after(time.Second)
				k.SetFault(nil)
				w.wantRoutes(overlaidRoutes()...)
				after(time.Minute)
				w.wantRoutes(overlaidRoutes()...)
			})
		})
	}
}

// TestTunnelsThatKeepFailingHoldWhatWasFoundForAWhile: not for ever, or what a former
// life left of pods that are gone would stay.
func TestTunnelsThatKeepFailingHoldWhatWasFoundForAWhile(t *testing.T) {
	inBubble(t, func(w *world, k *fakekernel.Kernel) {
		w.withTunnels()
		eth, err := k.LinkByName("eth0")
		if err == nil {
			err = k.AddRoute(kernel.Route{Dst: netip.MustParsePrefix("10.65.9.9/32"), Protocol: kernel.ProtocolFelix, Link: eth.Index, Scope: kernel.ScopeLink})
		}
		if err != nil {
			t.Fatal(err)
		}
		w.cfg.Tunnels = &brokenTunnels{}
		s := overlaid()
		s.Remote = s.Remote[:1]
		w.startInSync(s)
		after(5 * time.Second)
		w.wantRoutes("10.65.9.9/32 eth0", "10.65.2.0/26 eth0")
		after(20 * time.Second)
		w.wantRoutes("10.65.2.0/26 eth0")
	})
}

// TestTunnelsThatFailHoldUpNoPod and are tried again by themselves.
func TestTunnelsThatFailHoldUpNoPod(t *testing.T) {
	onEachKernel(t, func(w *world) {
		tunnels := &brokenTunnels{}
		w.cfg.Tunnels = tunnels
		w.device(if1)
		w.startInSync(overlaid())
		w.upsert(endpoint("a", "c1", if1, "10.65.1.2"))
		w.barrier()
		if err := w.loop.Status().LastError; err == nil {
			w.Error("the failure is not told")
		}
	})
}

type brokenTunnels struct{}

func (*brokenTunnels) Apply(context.Context) error            { return errors.New("out of luck") }
func (*brokenTunnels) Link(overlay.Carrier, bool) (int, bool) { return 0, false }
func (*brokenTunnels) Unready() map[netip.Prefix]bool         { return nil }
func (*brokenTunnels) Owns(kernel.Link) bool                  { return false }
