package daemon_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/frrtest"
	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
	"tortie/internal/kernel/kerneltest"
)

// frrConfig is FRR on the router with a session to each node and family. It announces two
// prefixes and passes on the nodes' blocks. With AS 64512 it is their reflector.
func frrConfig(asn int) string {
	const head = `
frr defaults datacenter
router bgp %d
 bgp router-id 10.1.1.254
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
`
	role := "activate"
	if asn == nodeASN {
		role = "route-reflector-client"
	}
	var out, v4, v6 strings.Builder
	fmt.Fprintf(&out, head, asn)
	for _, n := range nodes {
		for _, a := range []string{n.v4, n.v6} {
			fmt.Fprintf(&out, " neighbor %s remote-as %d\n neighbor %s timers connect 1\n", a, nodeASN, a)
		}
		fmt.Fprintf(&v4, "  neighbor %s activate\n  neighbor %s %s\n", n.v4, n.v4, role)
		fmt.Fprintf(&v6, "  neighbor %s activate\n  neighbor %s %s\n", n.v6, n.v6, role)
	}
	out.WriteString(" address-family ipv4 unicast\n  network 10.200.0.0/24\n" + v4.String() + " exit-address-family\n")
	out.WriteString(" address-family ipv6 unicast\n  network fd20::/64\n" + v6.String() + " exit-address-family\n")
	return out.String()
}

const nodeASN = 64512

// upFRR is the lab with FRR as its router.
func upFRR(t *testing.T) (*lab, *frrtest.FRR, map[string]string) {
	l := newLab(t)
	for _, a := range []string{"10.200.0.1/32", "fd20::1/128"} { // in what FRR announces
		l.run("router", "ip", "addr", "add", a, "dev", "lo")
	}
	f := frrtest.New(t, l.ns["router"], frrConfig(routerASN))
	f.Start("bgpd")
	store := stored(t, resources())
	for _, n := range nodes {
		l.startNode(n.name, store)
	}
	l.frrConverged()
	return l, f, store
}

// frrConverged waits until every node has the routes of all others and FRR's, and FRR has
// theirs.
func (l *lab) frrConverged() {
	l.t.Helper()
	for i, n := range nodes {
		l.established(n.name, 6)
		l.learned(n.name, "10.200.0.0/24", "fd20::/64")
		for j, other := range nodes {
			if i != j {
				l.learned(n.name, other.block4, other.block6)
			}
		}
	}
	l.routerHas("bgp")
}

// routerHas waits until the router has the nodes' blocks, by their own addresses.
func (l *lab) routerHas(proto string) {
	l.t.Helper()
	l.until("the router's routes", func() (bool, string) {
		out := l.run("router", "ip", "route", "show", "proto", proto) + l.run("router", "ip", "-6", "route", "show", "proto", proto)
		for _, n := range nodes {
			for block, via := range map[string]string{n.block4: n.v4, n.block6: n.v6} {
				if !hasRoute(out, block, via) {
					return false, fmt.Sprintf("%s via %s not among\n%s", block, via, out)
				}
			}
		}
		return true, ""
	})
}

// hasRoute finds a route in what ip(8) says, also where it names a group of next hops on
// lines of their own.
func hasRoute(out, prefix, via string) bool {
	_, rest, ok := strings.Cut(out, prefix+" ")
	if !ok {
		return false
	}
	lines := strings.SplitAfterN(rest, "\n", 3)
	return strings.Contains(lines[0], "via "+via+" ") || len(lines) > 1 && strings.HasPrefix(strings.TrimSpace(lines[1]), "nexthop via "+via+" ")
}

// TestTopOfRackInFRR: eBGP with a router that is FRR, IPv4 and IPv6 by sessions of their
// own, and one that offers both families: each session has that of its addresses.
func TestTopOfRackInFRR(t *testing.T) {
	l, f, _ := upFRR(t)
	l.reachable()
	f.Configure("router bgp 64999", "address-family ipv6 unicast", "neighbor 10.1.1.11 activate", "exit-address-family",
		"address-family ipv4 unicast", "neighbor fd01::11 activate")
	for _, session := range []string{"10.1.1.11", "fd01::11"} {
		l.until("both families on the session "+session, func() (bool, string) {
			out, err := f.Vtysh("show bgp neighbors " + session)
			offers := strings.Contains(out, "IPv4 Unicast: advertised") && strings.Contains(out, "IPv6 Unicast: advertised")
			return err == nil && offers && strings.Contains(out, "BGP state = Established"), out
		})
	}
	l.frrConverged()
	l.reachable()
}

// reachable has every node's pods reach those of the others.
func (l *lab) reachable() {
	l.t.Helper()
	for i, from := range nodes {
		for j, to := range nodes {
			if i != j {
				l.run(from.name, "ping", "-c1", "-W5", "-I", from.pod4, to.pod4)
				l.run(from.name, "ping", "-c1", "-W5", "-I", from.pod6, to.pod6)
			}
		}
	}
}

// TestRestartsBesideFRRLoseNoPacket: of a node, of FRR, of all nodes at once, and of all.
// The nodes keep their routes to what FRR announces, and FRR its own to node3 as long as it
// doesn't restart itself. Where all restart together nobody must wait for the others: FRR
// would for 6 minutes, its default.
func TestRestartsBesideFRRLoseNoPacket(t *testing.T) {
	stale := regexp.MustCompile(`(?m)^S[ *>]`)
	for _, tt := range []struct {
		name   string
		killed []string
		frr    bool
	}{
		{"of a node", []string{"node3"}, false},
		{"of FRR", nil, true},
		{"of all nodes", []string{"node1", "node2", "node3"}, false},
		{"of all nodes and FRR", []string{"node1", "node2", "node3"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, f, store := upFRR(t)
			flows := []func() (int, int){
				l.traffic("node1", "10.65.1.1", "router", "10.200.0.1"), l.traffic("node2", "fd65:2::1", "router", "fd20::1"),
			}
			if !tt.frr { // what becomes of its own routes when it restarts is its affair
				flows = append(flows, l.traffic("node1", "10.1.1.11", "node3", "10.65.3.1"), l.traffic("node2", "fd01::12", "node3", "fd65:3::1"))
			}
			lossless := l.demandNoLoss(flows...)
			for _, name := range tt.killed {
				l.end(name, syscall.SIGKILL)
			}
			if tt.frr {
				f.Kill("bgpd")
				f.Start("bgpd")
			}
			for _, name := range tt.killed {
				l.startNode(name, store)
			}
			l.frrConverged()
			for _, n := range nodes {
				l.swept(n.name)
			}
			l.until("FRR's best paths to be those of the live sessions", func() (bool, string) {
				out, err := f.Vtysh("show bgp ipv4 unicast", "show bgp ipv6 unicast")
				return err == nil && strings.Count(out, "*> ") >= 2*(len(nodes)+1) && !stale.MatchString(out), out
			})
			l.reachable()
			lossless()
		})
	}
}

// demandNoLoss ends traffic when it is called: not one packet may be missing.
func (l *lab) demandNoLoss(stops ...func() (sent, lost int)) func() {
	return func() {
		l.t.Helper()
		for i, stop := range stops {
			if sent, lost := stop(); lost != 0 {
				l.t.Errorf("flow %d: %d of %d packets lost", i+1, lost, sent)
			}
		}
	}
}

// TestPasswordAndGTSMAgainstFRR: right, wrong on either side, and right again.
func TestPasswordAndGTSMAgainstFRR(t *testing.T) {
	hops := uint8(1)
	guarded := func(s *v3.BGPPeerSpec) { passwordIn("tor", "k")(s); s.TTLSecurity = &hops }
	l := torLabOf(newLab(t), torPeer("tor-v4", "10.1.1.254", guarded), torPeer("tor-v6", "fd01::fe", guarded))
	f := frrtest.New(t, l.ns["router"], frrConfig(routerASN))
	f.Start("bgpd")
	each := func(settings ...string) {
		t.Helper()
		commands := []string{"router bgp 64999"}
		for _, a := range []string{"10.1.1.11", "fd01::11"} {
			for _, s := range settings {
				if no, ok := strings.CutPrefix(s, "no "); ok {
					commands = append(commands, fmt.Sprintf("no neighbor %s %s", a, no))
					continue
				}
				commands = append(commands, fmt.Sprintf("neighbor %s %s", a, s))
			}
		}
		f.Configure(commands...)
	}
	both := func(what string, met func(*nodestatus.Peer) bool) {
		t.Helper()
		l.peer(what+", IPv4", "tor-v4", met)
		l.peer(what+", IPv6", "tor-v6", met)
	}
	says := func(words string) func(*nodestatus.Peer) bool {
		return func(p *nodestatus.Peer) bool { return !isUp(p) && strings.Contains(p.Info, words) }
	}
	l.password("tor", "k", "right")
	each("password right", "ttl-security hops 1")
	l.startNode("node1", l.content())
	both("both right", isUp)
	l.learned("node1", "10.200.0.0/24", "fd20::/64")

	each("password wrong")
	both("the cause of a wrong password", says("likely a TCP MD5 mismatch"))
	each("password right")
	both("the password right again", isUp)

	each("no ttl-security hops 1")
	both("the cause where FRR has no TTL security", says("likely a TTL security mismatch"))
	// The connection that FRR's OPEN didn't come through is tried for 4 minutes (RFC 4271
	// section 8.2.2), unless the peer is changed.
	l.have(torPeer("tor-v4", "10.1.1.254", passwordIn("tor", "k")), torPeer("tor-v6", "fd01::fe", passwordIn("tor", "k")))
	l.write()
	both("TTL security on neither side", isUp)
	l.learned("node1", "10.200.0.0/24", "fd20::/64")
}

// birdReflector is BIRD on the router as the reflector of all nodes.
func birdReflector() string {
	var out strings.Builder
	out.WriteString(`
log stderr { warning, error, fatal };
router id 10.1.1.254;
graceful restart wait 30;
protocol device { scan time 1; }
protocol direct { ipv4; ipv6; }
protocol kernel k4 { persist; ipv4 { import none; export where source = RTS_BGP; }; graceful restart on; }
protocol kernel k6 { persist; ipv6 { import none; export where source = RTS_BGP; }; graceful restart on; }
template bgp reflected {
  local as 64512; rr client; multihop; graceful restart on;
  connect delay time 1; connect retry time 2; error wait time 1, 3;
}
`)
	for _, n := range nodes {
		fmt.Fprintf(&out, "protocol bgp %sv4 from reflected { neighbor %s as 64512; ipv4 { import all; export where source = RTS_BGP; }; }\n", n.name, n.v4)
		fmt.Fprintf(&out, "protocol bgp %sv6 from reflected { neighbor %s as 64512; ipv6 { import all; export where source = RTS_BGP; }; }\n", n.name, n.v6)
	}
	return out.String()
}

// TestReflectorOfEachKind: without a mesh the nodes learn one another's blocks from a
// reflector in FRR, in BIRD, or in bgpd on node2; when it restarts no packet is lost.
func TestReflectorOfEachKind(t *testing.T) {
	outside := func() (more []api.Object) {
		for _, n := range nodes {
			for i, a := range []string{n.gw4, n.gw6} {
				more = append(more, &v3.BGPPeer{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("reflector-%s-%d", n.name, i)},
					Spec:       v3.BGPPeerSpec{Node: n.name, PeerIP: a, ASNumber: nodeASN},
				})
			}
		}
		return more
	}
	for _, tt := range []struct {
		name  string
		more  []api.Object
		start func(t *testing.T, l *torLab) (restart func())
	}{
		{"FRR", outside(), func(t *testing.T, l *torLab) func() {
			f := frrtest.New(t, l.ns["router"], frrConfig(nodeASN))
			f.Start("bgpd")
			return func() { f.Kill("bgpd"); f.Start("bgpd") }
		}},
		{"BIRD", outside(), func(t *testing.T, l *torLab) func() {
			if _, err := exec.LookPath("bird"); err != nil {
				kerneltest.Require(t, "the BIRD routing daemon (Debian package bird2)")
			}
			l.startBIRDIn("router", birdReflector())
			return func() { l.end("bird", syscall.SIGKILL); l.startBIRDIn("router", birdReflector(), "-R") }
		}},
		{"bgpd", []api.Object{&v3.BGPPeer{
			ObjectMeta: metav1.ObjectMeta{Name: "reflectors"}, Spec: v3.BGPPeerSpec{NodeSelector: "all()", PeerSelector: "has(rr)"},
		}}, func(_ *testing.T, l *torLab) func() {
			for _, o := range l.objects {
				if n, ok := o.(*api.Node); ok && n.Name == "node2" {
					n.Labels, n.Spec.BGP.RouteReflectorClusterID = map[string]string{"rr": ""}, "244.0.0.1"
				}
			}
			for _, n := range nodes { // nobody tells the router
				l.run("router", "ip", "route", "add", n.block4, "via", n.v4)
				l.run("router", "ip", "-6", "route", "add", n.block6, "via", n.v6)
			}
			return func() { l.end("node2", syscall.SIGKILL); l.startNode("node2", l.content()) }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := torLabOf(newLab(t), tt.more...)
			restart := tt.start(t, l)
			for _, n := range nodes {
				l.startNode(n.name, l.content())
			}
			converged := func() {
				t.Helper()
				for i, n := range nodes {
					for j, other := range nodes {
						if i != j {
							l.learned(n.name, other.block4, other.block6)
						}
					}
				}
			}
			converged()
			// A reflector leaves the next hop alone.
			l.nextHopAt("node1", "10.65.2.0/26", "10.1.1.12")
			l.nextHopAt("node1", "fd65:3::/122", "fd02::13")
			l.reachable()
			lossless := l.demandNoLoss(
				l.traffic("node1", "10.65.1.1", "node2", "10.65.2.1"), l.traffic("node2", "fd65:2::1", "node1", "fd65:1::1"))
			restart()
			for _, n := range nodes {
				l.sessionsUp(n.name)
				l.swept(n.name)
			}
			converged()
			lossless()
		})
	}
}

// sessionsUp waits until all of a node's peers have told everything.
func (l *lab) sessionsUp(name string) {
	l.t.Helper()
	client := l.status(name)
	l.until(name+"'s sessions", func() (bool, string) {
		resp, err := client.Peers(l.t.Context(), &nodestatus.PeersRequest{})
		if err != nil || len(resp.Peers) == 0 {
			return false, fmt.Sprint(err)
		}
		for _, p := range resp.Peers {
			if !isUp(p) || p.Received == 0 {
				return false, p.String()
			}
		}
		return true, ""
	})
}
