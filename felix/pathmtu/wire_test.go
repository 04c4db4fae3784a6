package pathmtu

import (
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/polltest"
)

const (
	here, here6   = "192.0.2.1", "2001:db8:1::1"
	there, there6 = "198.51.100.1", "2001:db8:2::1"
)

// road is two nodes and a router between them.
type road struct {
	*testing.T
	here, router, there *kernel.Netns
	narrow              func(mtu int) // of the router's way to the far node
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newRoad(t *testing.T) road {
	t.Helper()
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6, kerneltest.Nftables)
	r := road{T: t, here: kerneltest.NewNetns(t), router: kerneltest.NewNetns(t), there: kerneltest.NewNetns(t)}
	router := kerneltest.Open(t, r.router)
	check(t, router.SetSysctls([]kernel.Setting{
		{Name: "ipv4/conf/all/forwarding", Value: "1"},
		{Name: "ipv6/conf/all/forwarding", Value: "1"},
		{Name: "ipv6/conf/default/accept_dad", Value: "0"},
	}))
	connect := func(name string, ns *kernel.Netns, own, own6, gw, gw6 string) kernel.Link {
		node := kerneltest.Open(t, ns)
		check(t, node.SetSysctl("ipv6/conf/default/accept_dad", "0"))
		l, err := router.CreateVeth(kernel.VethSpec{Host: name, Peer: "eth0", PeerNetns: ns})
		check(t, err)
		check(t, node.SetUp(l.PeerIndex))
		for _, a := range []struct {
			h      *kernel.Handle
			link   int
			prefix string
		}{{node, l.PeerIndex, own + "/24"}, {node, l.PeerIndex, own6 + "/64"}, {router, l.Index, gw + "/24"}, {router, l.Index, gw6 + "/64"}} {
			check(t, a.h.AddAddress(a.link, netip.MustParsePrefix(a.prefix)))
		}
		for dst, via := range map[string]string{"0.0.0.0/0": gw, "::/0": gw6} {
			check(t, node.AddRoute(kernel.Route{Dst: netip.MustParsePrefix(dst), Protocol: kernel.ProtocolStatic, Link: l.PeerIndex, Gateway: netip.MustParseAddr(via)}))
		}
		return l
	}
	connect("near", r.here, here, here6, "192.0.2.254", "2001:db8:1::fe")
	far := connect("far", r.there, there, there6, "198.51.100.254", "2001:db8:2::fe")
	for _, addr := range []string{there, there6} { // a device takes a while to be ready for IPv6
		polltest.Until(t, 10*time.Second, addr+" answers", func() (bool, string) {
			ok, err := (Wire{Inside: r.here.Do, Wait: 100 * time.Millisecond}).Ask(t.Context(), netip.MustParseAddr(addr), 600)
			check(t, err)
			return ok, "it doesn't"
		})
	}
	r.narrow = func(mtu int) { t.Helper(); check(t, router.SetMTU(far.Index, mtu)) }
	return r
}

// silent has the router tell nobody what it could not send on.
func (r road) silent() {
	r.Helper()
	check(r.T, r.router.Do(func() error {
		return exec.Command("nft", "add table inet filter; add chain inet filter out { type filter hook output priority 0; }; "+
			"add rule inet filter out icmp type destination-unreachable drop; add rule inet filter out icmpv6 type packet-too-big drop").Run()
	}))
}

// TestBlackHoleOfARealRouterIsFound: in each of the ways to ask.
func TestBlackHoleOfARealRouterIsFound(t *testing.T) {
	for name, way := range map[string]way{"ping": ping, "raw": raw, "datagram": datagram} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoad(t)
			// Else it answers once a second, which takes longer than a test likes to wait.
			check(t, kerneltest.Open(t, r.there).SetSysctls([]kernel.Setting{{Name: "ipv4/icmp_ratelimit", Value: "0"}, {Name: "ipv6/icmp/ratelimit", Value: "0"}}))
			if way == ping {
				check(t, kerneltest.Open(t, r.here).SetSysctl("ipv4/ping_group_range", "0 2147483647"))
			}
			targets := []Target{{"node2", netip.MustParseAddr(there), 1500}, {"node2", netip.MustParseAddr(there6), 1500}}
			p := New(Config{
				Echo:    Wire{Inside: r.here.Do, Wait: 100 * time.Millisecond, ways: ways(way)},
				Targets: func() []Target { return targets }, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
			})
			finds := func(what string, want ...Finding) {
				t.Helper()
				for range 2 * len(targets) {
					p.Step(t.Context())
				}
				if got := p.Stats().Findings; !slices.Equal(got, want) {
					t.Errorf("%s: found %v, want %v", what, got, want)
				}
			}
			finds("a road that is wide enough")
			if s := p.Stats(); s.Passed != uint64(2*len(targets)) {
				t.Errorf("%+v", s)
			}
			r.narrow(1400)
			finds("a router that says so", Finding{targets[0], 1400}, Finding{targets[1], 1400})
			r.silent()
			r.narrow(1300)
			finds("a black hole", Finding{targets[0], 1300}, Finding{targets[1], 1300})
			r.narrow(1500)
			finds("mended")
		})
	}
}

func ways(w ...way) []way { return w }

// TestNobodyThereIsNotToldFromSilence: neither an address without a way to it nor one that
// nobody has is a finding, or an error.
func TestNobodyThereIsNotToldFromSilence(t *testing.T) {
	r := newRoad(t)
	e := Wire{Inside: r.here.Do, Wait: 100 * time.Millisecond}
	for _, addr := range []string{"198.51.100.77", "2001:db8:2::77", "127.1.2.3"} {
		if addr == "127.1.2.3" {
			addr = "203.0.113.1" // the router has no way there
		}
		if ok, err := e.Ask(t.Context(), netip.MustParseAddr(addr), 600); ok || err != nil {
			t.Errorf("%s: %v, %v", addr, ok, err)
		}
	}
	alone := kerneltest.NewNetns(t)
	if ok, err := (Wire{Inside: alone.Do, Wait: time.Second}).Ask(t.Context(), netip.MustParseAddr(there), 600); ok || err != nil {
		t.Errorf("a node without a device: %v, %v", ok, err)
	}
}

func TestPacketLargerThanTheDeviceIsNotSent(t *testing.T) {
	r := newRoad(t)
	e := Wire{Inside: r.here.Do, Wait: 100 * time.Millisecond}
	for _, addr := range []string{there, there6} {
		if _, err := e.Ask(t.Context(), netip.MustParseAddr(addr), 1501); err != ErrTooLarge { //nolint:errorlint // just that
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// TestProbesGoPastWireGuard: what else goes to the node is led another way, as felix leads it
// into WireGuard, and is lost there; the probes, by whatever socket, look at the network itself.
func TestProbesGoPastWireGuard(t *testing.T) {
	r := newRoad(t)
	check(t, kerneltest.Open(t, r.there).SetSysctls([]kernel.Setting{{Name: "ipv4/icmp_ratelimit", Value: "0"}, {Name: "ipv6/icmp/ratelimit", Value: "0"}}))
	check(t, kerneltest.Open(t, r.here).SetSysctl("ipv4/ping_group_range", "0 2147483647"))
	kerneltest.LeadAway(t, r.here, netip.MustParseAddr(there), netip.MustParseAddr(there6))
	for _, addr := range []string{there, there6} {
		for name, way := range map[string]way{"ping": ping, "raw": raw, "datagram": datagram} {
			ok, err := Wire{Inside: r.here.Do, Wait: time.Second, ways: ways(way)}.Ask(t.Context(), netip.MustParseAddr(addr), 1400)
			if !ok || err != nil {
				t.Errorf("%s by %s: answered %v, %v", addr, name, ok, err)
			}
		}
	}
}
