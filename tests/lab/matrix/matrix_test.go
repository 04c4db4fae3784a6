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
		Masqueraded: netip.Addr.Is4,
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

func TestWhatTheReceiverMustSeeAndTheNextHop(t *testing.T) {
	for _, tt := range []struct{ path, from, to, want, via string }{
		{PathSameNode, "p1.0", "p2.0", "10.65.0.1", ""},
		{PathSameSegment, "p1.0", "p3.0", "10.65.0.1", "10.1.0.2"},
		{PathRouted, "p1.0", "p4.0", "10.65.0.1", "10.1.0.254"},
		{PathOutside, "p1.0", "outside", "10.1.0.1", ""}, // masqueraded
		{PathOutside, "p1.0", "outside", "fd65::1", ""},
		{PathNodeToPod, "b", "p1.0", "10.1.0.2", ""},
	} {
		if !slices.ContainsFunc(Plan(setup()), func(c Check) bool {
			via := ""
			if c.Via.IsValid() {
				via = c.Via.String()
			}
			return c.Path == tt.path && c.From == tt.from && c.To == tt.to && c.Want == addr(tt.want) && via == tt.via
		}) {
			t.Errorf("no check %v", tt)
		}
	}
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

func TestMasqueradedFollowsThePoolOfTheAddress(t *testing.T) {
	masqueraded, err := Masqueraded([]byte(`{"items":[{"spec":{"cidr":"10.65.0.0/16","natOutgoing":true}},{"spec":{"cidr":"10.66.0.0/16"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for a, want := range map[string]bool{"10.65.1.1": true, "10.66.1.1": false, "10.67.1.1": false} {
		if masqueraded(addr(a)) != want {
			t.Errorf("%s: masqueraded is %v", a, !want)
		}
	}
}
