package daemon

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
	"tortie/internal/kernel"
)

// whyText is an answer without the times.
func whyText(w *nodestatus.WhyResponse) string {
	var out []string
	add := func(name string, lines ...string) {
		for _, line := range lines {
			if line != "" {
				out = append(out, name+": "+line)
			}
		}
	}
	add("what", w.What)
	for _, p := range w.Paths {
		add("path", strings.TrimSpace(p.Route.Peer+" "+p.Name)+": "+p.Verdict)
	}
	add("decision", w.Decision)
	add("filter", w.Filter)
	add("wanted", w.Wanted)
	add("kernel", w.Kernel...)
	add("advertised", w.Advertised...)
	for _, c := range w.Changes {
		add("change", c.Text)
	}
	return strings.Join(out, "\n")
}

// whyBench is routesBench with what peers have sent and are sent, and its routes in the
// kernel.
func whyBench(t *testing.T) *bench {
	b := routesBench(t)
	node2, rack := netip.MustParseAddr("10.1.1.12"), netip.MustParseAddr("10.1.1.254")
	path := func(prefix string, from netip.Addr, asPath ...uint32) speaker.Path {
		return speaker.Path{Prefix: netip.MustParsePrefix(prefix), NextHop: from, Peer: from, ASPath: asPath, LocalPref: 100}
	}
	b.s.in = map[netip.Addr][]speaker.Path{
		node2: {path("10.65.2.0/26", node2)},
		rack:  {path("10.65.2.0/26", rack, 64999), path("10.65.7.0/26", rack, 64999, 64512), path("10.65.8.0/26", rack, 64999), path("10.65.4.0/26", rack, 64999, 64512)},
	}
	b.s.out = map[netip.Addr][]speaker.Path{
		node2: {path("10.65.1.0/26", netip.MustParseAddr("10.1.1.11"))},
		rack:  {path("10.65.1.0/26", netip.MustParseAddr("10.1.1.11"), 64512)},
	}
	b.e.apply(t.Context())
	return b
}

func TestWhyNamesBlockPathsRuleFilterKernelAndChanges(t *testing.T) {
	b := whyBench(t)
	svc := b.service()
	for prefix, want := range map[string]string{
		"10.65.2.0/26": `what: block of node2
path: 10.1.1.12 node2: best
path: 10.1.1.254 rack: loses to 10.1.1.12 by AS path length: 0, not 1
decision: AS path length: 0, not 1
filter: accepted
wanted: via 10.1.1.12 dev eth0
kernel: via 10.1.1.12 dev eth0 proto 81 (bgpd)
advertised: to nobody: a node announces its own prefixes only
change: via 10.1.1.12 dev eth0, from peer 10.1.1.12`,
		"10.65.1.0/26": `what: block of this node
path: this node: best
path: 10.1.1.254 rack: loses to this node's own
decision: this node's own
advertised: to 10.1.1.12 (node2), 10.1.1.254 (rack)`,
		"192.0.2.0/24": `what: prefix of no block
path: 10.1.1.12 node2: best
decision: the only path
filter: not installed: outside every IP pool and block: from the node-to-node mesh only pods' addresses are taken
advertised: to nobody: a node announces its own prefixes only
change: not installed: outside every IP pool and block: from the node-to-node mesh only pods' addresses are taken, from peer 10.1.1.12`,
		"198.51.100.0/24": `what: prefix of no block
path: 10.1.1.254 rack: best
decision: the only path
filter: accepted, but not installed: next hop 10.9.9.9 is unreachable: no route to it
advertised: to nobody: a node announces its own prefixes only
change: not installed: next hop 10.9.9.9 is unreachable: no route to it, from peer 10.1.1.254`,
		"10.65.7.0/26": `what: no accepted path: it is in the IP pool 10.65.0.0/16, but in no block that a node has
path: 10.1.1.254 rack: refused: the AS path has our own AS number 64512 in it, so it is a loop
decision: no path was accepted`,
		"10.65.8.0/26": `what: no accepted path: it is in the IP pool 10.65.0.0/16, but in no block that a node has
path: 10.1.1.254 rack: refused as a loop through a route reflector
decision: no path was accepted`,
		"10.65.4.0/26": `what: block of node4; no accepted path: all that peers have sent is refused
path: 10.1.1.254 rack: refused: the AS path has our own AS number 64512 in it, so it is a loop
decision: no path was accepted`,
		"10.65.5.0/26": `what: no accepted path: it is in block 10.65.5.0/26 of node5, which no peer announces: the session with 10.9.9.5 is not configured in the speaker`,
	} {
		w, err := svc.Why(t.Context(), &nodestatus.WhyRequest{Prefix: prefix})
		if err != nil {
			t.Errorf("%s: %v", prefix, err)
			continue
		}
		if d := gocmp.Diff(want, whyText(w)); d != "" {
			t.Errorf("%s (-want +got):\n%s", prefix, d)
		}
	}
}

func TestWhyOfAnAddressIsThatOfThePrefixItsPacketsTake(t *testing.T) {
	b := whyBench(t)
	w, err := b.service().Why(t.Context(), &nodestatus.WhyRequest{Prefix: "10.65.2.33"})
	if err != nil || w.Prefix != "10.65.2.0/26" {
		t.Errorf("why 10.65.2.33: %v, %v; want the answer for 10.65.2.0/26", w, err)
	}
	if _, err := b.service().Why(t.Context(), &nodestatus.WhyRequest{Prefix: "nonsense"}); err == nil {
		t.Error("nonsense is answered")
	}
}

func TestWhyTellsTheLastChangesOfARoute(t *testing.T) {
	b := whyBench(t)
	prefix := netip.MustParsePrefix("10.65.2.0/26")
	second := speaker.Path{Prefix: prefix, Peer: netip.MustParseAddr("10.1.1.254"), NextHop: netip.MustParseAddr("10.1.1.254"), Best: true}
	b.e.learn(t.Context(), speaker.Changes{Best: map[netip.Prefix]*speaker.Path{prefix: &second}})
	b.e.learn(t.Context(), speaker.Changes{Best: map[netip.Prefix]*speaker.Path{prefix: &second}}) // says nothing new
	b.e.learn(t.Context(), speaker.Changes{Best: map[netip.Prefix]*speaker.Path{prefix: nil}})
	w, err := b.service().Why(t.Context(), &nodestatus.WhyRequest{Prefix: prefix.String()})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range w.Changes {
		got = append(got, c.Text)
	}
	want := []string{
		"via 10.1.1.12 dev eth0, from peer 10.1.1.12", "via 10.1.1.254 dev eth0, from peer 10.1.1.254", "gone: no path is accepted any more",
	}
	if d := gocmp.Diff(want, got); d != "" {
		t.Errorf("changes (-want +got):\n%s", d)
	}
}

func TestWhyTellsOfARouteThatIsKeptWhileItsPeerRestarts(t *testing.T) {
	b := whyBench(t)
	node2, prefix := netip.MustParseAddr("10.1.1.12"), netip.MustParsePrefix("10.65.2.0/26")
	b.e.learn(t.Context(), speaker.Changes{Peers: map[netip.Addr]speaker.Session{node2: {Restarting: true, RestartTime: time.Minute}}})
	b.e.learn(t.Context(), speaker.Changes{Best: map[netip.Prefix]*speaker.Path{prefix: nil}})
	b.s.paths, b.s.in = nil, nil
	w, err := b.service().Why(t.Context(), &nodestatus.WhyRequest{Prefix: prefix.String()})
	if err != nil {
		t.Fatal(err)
	}
	if want := "kept while peer 10.1.1.12 restarts, though the path is gone with its session"; w.Filter != want || len(w.Kernel) != 1 {
		t.Errorf("filter %q, kernel %v; want %q and the route", w.Filter, w.Kernel, want)
	}
	last := w.Changes[len(w.Changes)-1].Text
	if want := "kept while the peer restarts: via 10.1.1.12 dev eth0, from peer 10.1.1.12"; last != want {
		t.Errorf("last change %q, want %q", last, want)
	}
}

// tableText is one line a route.
func tableText(t *testing.T, svc *statusService, table nodestatus.Table, prefix string) string {
	t.Helper()
	resp, err := svc.Routes(t.Context(), &nodestatus.RoutesRequest{Table: table, Prefix: prefix})
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, r := range resp.Routes {
		out = append(out, strings.Join([]string{r.Prefix, r.Peer, r.Kernel, r.Reason}, "|"))
	}
	return strings.Join(out, "\n")
}

func TestRoutesReceivedAdvertisedAndInTheKernel(t *testing.T) {
	b := whyBench(t)
	// Someone has removed a route, and another is of an earlier run.
	lost := netip.MustParsePrefix("10.65.3.0/26")
	routes, err := b.k.Routes(t.Context(), kernel.RouteFilter{Protocol: kernel.ProtocolBGP})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Dst == lost {
			if err := b.k.DeleteRoute(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	svc := b.service()
	for _, c := range []struct {
		table        nodestatus.Table
		prefix, want string
	}{
		{
			nodestatus.Table_ADJ_IN, "", `10.65.2.0/26|10.1.1.12|via 10.1.1.12 dev eth0|block of node2, node-to-node mesh
10.65.2.0/26|10.1.1.254||block of node2, BGPPeer rack, loses to 10.1.1.12 by AS path length: 0, not 1
10.65.7.0/26|10.1.1.254||refused: the AS path has our own AS number 64512 in it, so it is a loop
10.65.8.0/26|10.1.1.254||refused as a loop through a route reflector
10.65.4.0/26|10.1.1.254||refused: the AS path has our own AS number 64512 in it, so it is a loop`,
		},
		{nodestatus.Table_ADJ_IN, "10.65.9.0/26", "rpc error: code = NotFound desc = no route to 10.65.9.0/26: no peer has sent it"},
		{nodestatus.Table_ADJ_OUT, "", "10.65.1.0/26|10.1.1.12||block of this node\n10.65.1.0/26|10.1.1.254||block of this node"},
		{nodestatus.Table_ADJ_OUT, "10.65.2.0/26", "rpc error: code = NotFound desc = no route to 10.65.2.0/26: it is sent to no peer"},
		{nodestatus.Table_FIB, "10.65.2.9", "10.65.2.0/26|10.1.1.12|via 10.1.1.12 dev eth0 proto 81 (bgpd)|block of node2, node-to-node mesh"},
		{nodestatus.Table_FIB, "10.65.3.0/26", "10.65.3.0/26|10.1.2.13||missing: via 10.1.1.254 dev eth0 is wanted"},
		{nodestatus.Table_FIB, "198.51.100.0/24", "198.51.100.0/24|10.1.1.254||not installed: next hop 10.9.9.9 is unreachable: no route to it"},
		{
			nodestatus.Table_FIB, "203.0.113.0/24",
			"rpc error: code = NotFound desc = no route to 203.0.113.0/24: bgpd has no route to it in the kernel, and wants none",
		},
	} {
		if d := gocmp.Diff(c.want, tableText(t, svc, c.table, c.prefix)); d != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.table, c.prefix, d)
		}
	}
}

func TestPeersListABGPPeerThatIsNotConfiguredWithItsProblem(t *testing.T) {
	b := newBench(t)
	b.take(topology.Input{
		Nodes: []*api.Node{node("node1", "10.1.1.11/24")},
		Peers: []*v3.BGPPeer{{ObjectMeta: metav1.ObjectMeta{Name: "tor"}, Spec: v3.BGPPeerSpec{PeerIP: "10.1.1.254"}}},
	})
	resp, err := b.service().Peers(t.Context(), &nodestatus.PeersRequest{})
	if err != nil || len(resp.Peers) != 1 {
		t.Fatalf("peers %v, %v; want the BGPPeer", resp, err)
	}
	p := resp.Peers[0]
	if p.Name != "tor" || p.Address != "10.1.1.254" || p.State != "Disabled" || p.Info != "spec.asNumber is not set; the peer is not configured" {
		t.Errorf("peer %v, want tor disabled with its problem", p)
	}
}

// TestWhyNamesTheFilterRuleThatDecided in either direction.
func TestWhyNamesTheFilterRuleThatDecided(t *testing.T) {
	b := whyBench(t)
	rack := netip.MustParseAddr("10.1.1.254")
	reject := func(prefix, name string, accept bool) speaker.Rule {
		p := netip.MustParsePrefix(prefix)
		return speaker.Rule{Name: name, Prefix: p, Min: p.Bits(), Max: p.Bits(), Accept: accept}
	}
	p := b.e.names[rack]
	p.Filter = speaker.Filter{
		Import: []speaker.Rule{reject("10.65.8.0/26", "BGPFilter f spec.importV4[0]", false), reject("10.65.2.0/26", "BGPFilter f spec.importV4[1]", true)},
		Export: []speaker.Rule{reject("10.65.1.0/26", "BGPFilter f spec.exportV4[0]", false)},
	}
	for i := range b.e.plan.Peers {
		if b.e.plan.Peers[i].Address == rack {
			b.e.plan.Peers[i] = p
		}
	}
	delete(b.s.out, rack)
	for prefix, want := range map[string]string{
		"10.65.8.0/26": "path: 10.1.1.254 rack: refused by BGPFilter f spec.importV4[0]",
		"10.65.2.0/26": "path: 10.1.1.254 rack: loses to 10.1.1.12 by AS path length: 0, not 1, accepted by BGPFilter f spec.importV4[1]",
		"10.65.1.0/26": "advertised: not to 10.1.1.254 (rack): rejected by BGPFilter f spec.exportV4[0]",
	} {
		w, err := b.service().Why(t.Context(), &nodestatus.WhyRequest{Prefix: prefix})
		if err != nil || !strings.Contains(whyText(w), want) {
			t.Errorf("%s: %v\n%s\nwant %s", prefix, err, whyText(w), want)
		}
	}
}

// TestEqualPathsAreNoLosers: all tables say the same of paths that are used together.
func TestEqualPathsAreNoLosers(t *testing.T) {
	b := whyBench(t)
	prefix, first, second := netip.MustParsePrefix("10.65.8.0/26"), netip.MustParseAddr("10.1.1.254"), netip.MustParseAddr("10.1.1.12")
	path := func(from netip.Addr) speaker.Path {
		return speaker.Path{Prefix: prefix, Peer: from, NextHop: from, PeerID: from, LocalPref: 100}
	}
	best := path(first)
	best.Best, best.Equals = true, []speaker.Path{path(second)}
	b.s.paths = append(b.s.paths, best, path(second))
	b.s.in = map[netip.Addr][]speaker.Path{first: {path(first)}, second: {path(second)}}
	b.e.learn(t.Context(), speaker.Changes{Best: map[netip.Prefix]*speaker.Path{prefix: &best}})
	b.e.apply(t.Context())
	svc := b.service()
	w, err := svc.Why(t.Context(), &nodestatus.WhyRequest{Prefix: prefix.String()})
	if err != nil {
		t.Fatal(err)
	}
	const both = "via 10.1.1.12 dev eth0, via 10.1.1.254 dev eth0"
	want := `what: prefix of no block
path: 10.1.1.254 rack: best
path: 10.1.1.12 node2: as good as the best
decision: 2 paths are equally good
filter: accepted
wanted: ` + both + `
kernel: ` + both + ` proto 81 (bgpd)
advertised: to nobody: a node announces its own prefixes only
change: ` + both + `, from peer 10.1.1.254`
	if d := gocmp.Diff(want, whyText(w)); d != "" {
		t.Errorf("why (-want +got):\n%s", d)
	}
	for _, table := range []nodestatus.Table{nodestatus.Table_LOC_RIB, nodestatus.Table_ADJ_IN} {
		resp, err := svc.Routes(t.Context(), &nodestatus.RoutesRequest{Prefix: prefix.String(), Table: table})
		if err != nil || len(resp.Routes) != 2 {
			t.Fatalf("%s: %v, %v", table, resp, err)
		}
		for _, r := range resp.Routes {
			if !r.Best || r.Kernel != both || !strings.Contains(r.Reason, "one of 2 equal paths") {
				t.Errorf("%s: %v", table, r)
			}
		}
	}
}

// TestCommunitiesOfARouteAreShown: in every table, and of each path in why.
func TestCommunitiesOfARouteAreShown(t *testing.T) {
	b := whyBench(t)
	prefix, from := netip.MustParsePrefix("10.65.8.0/26"), netip.MustParseAddr("10.1.1.254")
	p := speaker.Path{
		Prefix: prefix, Peer: from, NextHop: from, PeerID: from, LocalPref: 100, Best: true,
		Communities: []speaker.Community{{A: 64512, B: 100}, {Large: true, A: 4200000000, B: 1, C: 2}},
	}
	b.s.paths = append(b.s.paths, p)
	b.s.in, b.s.out = map[netip.Addr][]speaker.Path{from: {p}}, map[netip.Addr][]speaker.Path{from: {p}}
	b.e.learn(t.Context(), speaker.Changes{Best: map[netip.Prefix]*speaker.Path{prefix: &p}})
	b.e.apply(t.Context())
	want := []string{"64512:100", "4200000000:1:2"}
	check := func(where string, routes []*nodestatus.Route) {
		t.Helper()
		if len(routes) != 1 || !slices.Equal(routes[0].Communities, want) {
			t.Errorf("%s: %v", where, routes)
		}
	}
	svc := b.service()
	for _, table := range []nodestatus.Table{nodestatus.Table_LOC_RIB, nodestatus.Table_ADJ_IN, nodestatus.Table_ADJ_OUT, nodestatus.Table_FIB} {
		routes, err := svc.Routes(t.Context(), &nodestatus.RoutesRequest{Prefix: prefix.String(), Table: table})
		if err != nil {
			t.Errorf("%s: %v", table, err)
		}
		check(table.String(), routes.GetRoutes())
	}
	w, err := svc.Why(t.Context(), &nodestatus.WhyRequest{Prefix: prefix.String()})
	if err != nil || len(w.GetPaths()) != 1 {
		t.Fatal(w, err)
	}
	check("why", []*nodestatus.Route{w.GetPaths()[0].GetRoute()})
}

// TestFloatingAddressOfTwoNodesIsAProblem: it is announced by both, and nothing in the
// datastore that a node reads says so.
func TestFloatingAddressOfTwoNodesIsAProblem(t *testing.T) {
	b := whyBench(t)
	ours, twice := netip.MustParsePrefix("10.66.0.1/32"), netip.MustParsePrefix("10.66.0.2/32")
	b.e.plan.Floating = map[netip.Prefix]string{ours: "ns1/one", twice: "ns1/web"}
	for _, p := range []netip.Prefix{ours, twice} {
		b.s.paths = append(b.s.paths, speaker.Path{Prefix: p, Best: true})
	}
	node2 := netip.MustParseAddr("10.1.1.12")
	b.s.paths = append(b.s.paths,
		speaker.Path{Prefix: twice, Peer: node2, NextHop: node2}, speaker.Path{Prefix: twice, Peer: node2, NextHop: netip.MustParseAddr("10.1.1.13")})
	got, err := b.service().Status(t.Context(), &nodestatus.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	floating := slices.DeleteFunc(got.Problems, func(p string) bool { return !strings.Contains(p, "floating") })
	want := []string{"floating address 10.66.0.2 of pod ns1/web on this node is announced by node2 (10.1.1.12), node2 (10.1.1.13), too, and packets go to the one or the other: " +
		"take it out of one of the two pods (calicoctl get wep -A -o yaml: spec.ipNATs)"}
	if d := gocmp.Diff(want, floating); d != "" {
		t.Error(d)
	}
}
