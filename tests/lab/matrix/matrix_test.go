package matrix

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"tortie/tests/lab/agentwire"
)

func TestCheckFailsOnNATAndOnTheWrongReceiver(t *testing.T) {
	own, node := netip.MustParseAddr("10.65.0.1"), netip.MustParseAddr("10.10.1.1")
	cases := []struct {
		name   string
		result agentwire.Result
		ok     bool
	}{
		{"own address seen", agentwire.Result{Seen: own, By: "q.0"}, true},
		{"node's address seen", agentwire.Result{Seen: node, By: "q.0"}, false},
		{"someone else answered", agentwire.Result{Seen: own, By: "r.0"}, false},
		{"no answer", agentwire.Result{Err: "timeout"}, false},
	}
	for _, c := range cases {
		check := Check{To: "q.0", Want: own, Result: c.result}
		if failure := check.Judge(); (failure == "") != c.ok {
			t.Errorf("%s: failure %q", c.name, failure)
		}
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// setup is two nodes on one segment and one behind a router, with a pod on each
// and a second one on the first.
func setup() Setup {
	nodes := []Host{
		{"a", addr("10.1.0.1"), addr("fd01::1")}, {"b", addr("10.1.0.2"), addr("fd01::2")}, {"c", addr("10.2.0.1"), addr("fd02::1")},
	}
	pod := func(n int, node string) Pod {
		name := fmt.Sprintf("p%d", n)
		return Pod{
			Host:   Host{name, addr(fmt.Sprintf("10.65.0.%d", n)), addr(fmt.Sprintf("fd65::%d", n))},
			Node:   node,
			Agents: []string{name + ".0", name + ".1"},
		}
	}
	return Setup{
		Nodes: nodes, Outside: Host{"outside", addr("192.0.2.1"), addr("2001:db8::1")},
		Pods: []Pod{pod(1, "a"), pod(2, "a"), pod(3, "b"), pod(4, "c")},
		Hop: func(from, to Host, v6 bool) netip.Addr {
			if (from.Name == "c") == (to.Name == "c") {
				return to.Addr(v6)
			}
			return addr(map[bool]string{false: "10.1.0.254", true: "fd01::fe"}[v6])
		},
		Pools: []Pool{{CIDR: netip.MustParsePrefix("10.65.0.0/16"), NATOutgoing: true}, {CIDR: netip.MustParsePrefix("fd65::/48")}},
	}
}

func TestEveryPathIsPlannedInBothFamiliesAndProtocols(t *testing.T) {
	counts := map[string]int{}
	for _, c := range Plan(setup()) {
		counts[c.Path+" "+c.Family()+" "+c.Probe.Network]++
	}
	for path, want := range map[string]int{
		PathLocalhost: 8, PathSameNode: 2, PathSameSegment: 4, PathRouted: 6, PathNodeToPod: 12, PathPodToNode: 12, PathOutside: 4,
	} {
		for _, family := range []string{"IPv4", "IPv6"} {
			for _, network := range []string{"tcp", "udp"} {
				if got := counts[path+" "+family+" "+network]; got != want {
					t.Errorf("%s, %s, %s: %d checks, want %d", path, family, network, got, want)
				}
			}
		}
	}
}

// expectation is what a check must ask for; no via means that any will do.
type expectation struct{ path, from, to, want, via string }

func demand(t *testing.T, s Setup, wanted ...expectation) {
	t.Helper()
	for _, w := range wanted {
		if !slices.ContainsFunc(Plan(s), func(c Check) bool {
			via := ""
			if c.Via.IsValid() {
				via = c.Via.String()
			}
			return w == expectation{c.Path, c.From, c.To, c.Want.String(), via}
		}) {
			t.Errorf("no check %v", w)
		}
	}
}

func TestWhatTheReceiverMustSeeAndTheNextHop(t *testing.T) {
	demand(
		t, setup(),
		expectation{PathSameNode, "p1.0", "p2.0", "10.65.0.1", ""},
		expectation{PathSameSegment, "p1.0", "p3.0", "10.65.0.1", "10.1.0.2"},
		expectation{PathRouted, "p1.0", "p4.0", "10.65.0.1", "10.1.0.254"},
		expectation{PathOutside, "p1.0", "outside", "10.1.0.1", ""}, // masqueraded
		expectation{PathOutside, "p1.0", "outside", "fd65::1", ""},
		expectation{PathNodeToPod, "b", "p1.0", "10.1.0.2", ""},
		expectation{PathPodToNode, "p1.0", "b", "10.65.0.1", ""},
	)
}

// oneHop is a lab in which every probe is answered as it should be and every node
// sends everything to one next hop.
type oneHop struct {
	checks []Check
	hop    netip.Addr
}

func (l oneHop) Ask(_ context.Context, agent string, req agentwire.Request) (agentwire.Response, error) {
	var resp agentwire.Response
	for _, p := range req.Probes {
		i := slices.IndexFunc(l.checks, func(c Check) bool { return c.From == agent && c.Probe == p })
		resp.Results = append(resp.Results, agentwire.Result{By: l.checks[i].To, Seen: l.checks[i].Want})
	}
	return resp, nil
}

func (l oneHop) NextHop(context.Context, string, netip.Addr) (netip.Addr, error) { return l.hop, nil }

// TestAWrongNextHopFailsThoughTheProbeWentWell: a router that carries everything
// must not hide that BGP has taught the node nothing.
func TestAWrongNextHopFailsThoughTheProbeWentWell(t *testing.T) {
	checks := Plan(setup())
	if err := Run(t.Context(), oneHop{checks, addr("10.1.0.254")}, checks); err != nil {
		t.Fatal(err)
	}
	for _, c := range checks {
		wrong := c.Via.IsValid() && c.Via != addr("10.1.0.254")
		if failed := strings.Contains(c.Failure, "instead of"); failed != wrong {
			t.Errorf("%s, via %s: failure %q", c.Path, c.Via, c.Failure)
		}
	}
	if err := Print(t.Output(), checks, 0); err == nil {
		t.Error("the matrix with failures was printed without an error")
	}
}

// tunneledSetup is setup with a vxlanMode in both pools; node c has no IPv6 tunnel.
func tunneledSetup(mode string) Setup {
	s := setup()
	for i := range s.Pools {
		s.Pools[i].VXLANMode = mode
	}
	s.Tunnels = map[string]Tunnel{
		"a": {V4: addr("10.65.1.1"), V6: addr("fd65::1:1")}, "b": {V4: addr("10.65.1.2"), V6: addr("fd65::1:2")}, "c": {V4: addr("10.65.1.3")},
	}
	return s
}

func TestVXLANAlwaysLeadsThroughATunnelToEveryOtherNode(t *testing.T) {
	demand(
		t, tunneledSetup("Always"),
		expectation{PathSameNode, "p1.0", "p2.0", "10.65.0.1", ""},
		expectation{PathSameSegment, "p1.0", "p3.0", "10.65.0.1", "10.65.1.2"},
		expectation{PathSameSegment, "p1.0", "p3.0", "fd65::1", "fd65::1:2"},
		expectation{PathRouted, "p1.0", "p4.0", "10.65.0.1", "10.65.1.3"},
		expectation{PathNodeToPod, "a", "p1.0", "10.1.0.1", ""}, // its own node
		expectation{PathNodeToPod, "b", "p1.0", "10.65.1.2", ""},
		expectation{PathPodToNode, "p1.0", "a", "10.65.0.1", ""},
		expectation{PathPodToNode, "p1.0", "b", "10.1.0.1", ""}, // masqueraded
		expectation{PathPodToNode, "p1.0", "b", "fd65::1", ""},
	)
}

func TestVXLANCrossSubnetTunnelsBehindTheRouterOnly(t *testing.T) {
	demand(
		t, tunneledSetup("CrossSubnet"),
		expectation{PathSameSegment, "p1.0", "p3.0", "10.65.0.1", "10.1.0.2"},
		expectation{PathRouted, "p1.0", "p4.0", "10.65.0.1", "10.65.1.3"},
		expectation{PathNodeToPod, "b", "p1.0", "10.1.0.2", ""},
		expectation{PathNodeToPod, "c", "p1.0", "10.65.1.3", ""},
		expectation{PathPodToNode, "p1.0", "b", "10.65.0.1", ""},
		expectation{PathPodToNode, "p1.0", "c", "10.1.0.1", ""}, // masqueraded
	)
}

func TestVXLANNeverUsesNoTunnelThatIsThere(t *testing.T) {
	if with, without := Plan(tunneledSetup("Never")), Plan(setup()); !slices.Equal(with, without) {
		t.Errorf("with tunnels the checks are\n%v\nwithout\n%v", with, without)
	}
}

// TestIPIPLeadsToTheOtherNodeItself, from the address of this node's device.
func TestIPIPLeadsToTheOtherNodeItself(t *testing.T) {
	s := setup()
	s.Pools[0].IPIPMode = "CrossSubnet"
	var b, c Tunnel
	b.BGP.IPIP, c.BGP.IPIP = addr("10.65.1.2"), addr("10.65.1.3")
	s.Tunnels = map[string]Tunnel{"b": b, "c": c}
	hop := s.Nodes[2].Addr(false).String()
	demand(
		t, s,
		expectation{PathSameSegment, "p1.0", "p3.0", "10.65.0.1", "10.1.0.2"},
		expectation{PathRouted, "p1.0", "p4.0", "10.65.0.1", hop},
		expectation{PathNodeToPod, "b", "p1.0", "10.1.0.2", ""},
		expectation{PathNodeToPod, "c", "p1.0", "10.65.1.3", ""},
		expectation{PathPodToNode, "p1.0", "c", "10.1.0.1", ""}, // masqueraded
	)
}

// TestAMissingTunnelFailsItsChecks: no packet goes by the unspecified address, so
// that a node which never made its tunnel can't pass for one that has it.
func TestAMissingTunnelFailsItsChecks(t *testing.T) {
	demand(
		t, tunneledSetup("Always"),
		expectation{PathRouted, "p1.0", "p4.0", "fd65::1", "0.0.0.0"},
		expectation{PathNodeToPod, "c", "p1.0", "0.0.0.0", ""},
	)
}

func TestPoolsAndTunnelsAreReadAsCalicoctlPrintsThem(t *testing.T) {
	pools, err := ReadPools([]byte(`{"items":[
		{"spec":{"cidr":"10.65.0.0/16","natOutgoing":true,"vxlanMode":"CrossSubnet"}},{"spec":{"cidr":"10.66.0.0/16"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	s := Setup{Pools: pools}
	for a, want := range map[string]Pool{
		"10.65.1.1": {CIDR: netip.MustParsePrefix("10.65.0.0/16"), NATOutgoing: true, VXLANMode: "CrossSubnet"},
		"10.66.1.1": {CIDR: netip.MustParsePrefix("10.66.0.0/16")},
		"10.67.1.1": {},
	} {
		if got := s.pool(addr(a)); got != want {
			t.Errorf("%s: pool %v, want %v", a, got, want)
		}
	}
	s.Tunnels, err = ReadTunnels([]byte(`{"items":[
		{"metadata":{"name":"a"},"spec":{"ipv4VXLANTunnelAddr":"10.65.1.1","bgp":{"ipv4IPIPTunnelAddr":"10.65.1.9"}}},{"metadata":{"name":"b"},"spec":{}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Tunnel{V4: addr("10.65.1.1")}
	want.BGP.IPIP = addr("10.65.1.9")
	if s.Tunnels["a"] != want || s.Tunnels["b"] != (Tunnel{}) {
		t.Errorf("tunnels %v", s.Tunnels)
	}
	if _, err := ReadPools([]byte("no such thing")); err == nil || !strings.Contains(err.Error(), "read the IP pools") {
		t.Errorf("what is no JSON: %v", err)
	}
}
