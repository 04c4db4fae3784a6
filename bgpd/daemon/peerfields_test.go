package daemon_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
)

// torLines are sessions of BIRD with node1, each from an address of its own. BIRD has one
// session at a time with an address and port, so each is given another port, which it
// doesn't use: node1 connects.
const torLines = `
filter looped { if source = RTS_STATIC then { bgp_path.prepend(64512); accept; } reject; }
protocol bgp local_as from node { passive on; local 10.1.1.241; neighbor 10.1.1.11 port 9001 as 65010; ipv4 { import all; export none; }; }
protocol bgp looped_once from node { passive on; local 10.1.1.242; neighbor 10.1.1.11 port 9002 as 64512; ipv4 { import all; export filter looped; }; }
protocol bgp gtsm from node { passive on; local 10.1.1.243; neighbor 10.1.1.11 port 9003 as 64512; ttl security on; ipv4 { import all; export none; }; }
protocol bgp no_gtsm from node { passive on; local 10.1.1.244; neighbor 10.1.1.11 port 9004 as 64512; ipv4 { import all; export none; }; }
protocol bgp other_port from node { passive on; local 10.1.1.245 port 1790; neighbor 10.1.1.11 port 9005 as 64512; ipv4 { import all; export none; }; }
protocol bgp any_source from node { passive on; local 10.1.1.246; neighbor 10.1.1.99 port 9006 as 64512; ipv4 { import all; export none; }; }
protocol bgp node_ip from node { passive on; local 10.1.1.247; neighbor 10.1.1.11 port 9007 as 64512; ipv4 { import all; export none; }; }
protocol bgp four_bytes from node { passive on; local 10.1.1.248 as 4200000001; neighbor 10.1.1.11 port 9008 as 4200000002; ipv4 { import all; export none; }; }
protocol bgp restart_time from node { passive on; local 10.1.1.249; neighbor 10.1.1.11 port 9009 as 64512; graceful restart on; ipv4 { import all; export none; }; }
`

// TestPeerFieldsAgainstBIRD: each session comes up only if its field does what it says.
func TestPeerFieldsAgainstBIRD(t *testing.T) {
	asn := func(n numorstring.ASNumber) *numorstring.ASNumber { return &n }
	once, hops := int32(1), uint8(1)
	// Without the ports, which BIRD and node1 both have to have.
	l := newTorLab(t, "",
		torPeer("local-as", "10.1.1.241", func(s *v3.BGPPeerSpec) { s.LocalASNumber = asn(65010) }),
		torPeer("looped", "10.1.1.242", nil),
		torPeer("gtsm", "10.1.1.243", func(s *v3.BGPPeerSpec) { s.TTLSecurity = &hops }),
		torPeer("no-gtsm", "10.1.1.244", func(s *v3.BGPPeerSpec) { s.TTLSecurity = &hops }),
		torPeer("port", "10.1.1.245:1790", nil),
		torPeer("source", "10.1.1.246", func(s *v3.BGPPeerSpec) { s.SourceAddress = v3.SourceAddressNone }),
		torPeer("node-ip", "10.1.1.247", func(s *v3.BGPPeerSpec) { s.SourceAddress = v3.SourceAddressUseNodeIP }),
		torPeer("four-bytes", "10.1.1.248", func(s *v3.BGPPeerSpec) { s.ASNumber, s.LocalASNumber = 4200000001, asn(4200000002) }),
		torPeer("restart", "10.1.1.249", func(s *v3.BGPPeerSpec) { s.MaxRestartTime = &metav1.Duration{Duration: 77 * time.Second} }))
	for last := 241; last <= 249; last++ {
		l.run("router", "ip", "addr", "add", fmt.Sprintf("10.1.1.%d/24", last), "dev", "seg1")
	}
	l.run("node1", "ip", "addr", "add", "10.1.1.99/24", "dev", "eth0")
	l.run("node1", "ip", "route", "replace", "10.1.1.0/24", "dev", "eth0", "src", "10.1.1.99")
	l.reconfigure(torLines)
	l.startNode("node1", l.content())
	up := map[string]*nodestatus.Peer{}
	for _, name := range []string{"local-as", "looped", "gtsm", "port", "source", "node-ip", "four-bytes", "restart"} {
		up[name] = l.peer("the session "+name, name, isUp)
	}
	for session, want := range map[string]string{
		"local_as": "BGP.as_path: 65010\n", "four_bytes": "BGP.as_path: 4200000002\n", "node_ip": "BGP.next_hop: 10.1.1.11\n", "any_source": "BGP.next_hop: 10.1.1.99\n",
	} {
		l.until("what "+session+" learned", func() (bool, string) {
			out := l.birdRoute("10.65.1.0/26")
			return strings.Contains(routeOf(out, session), want), out
		})
	}
	if out := l.birdc("show", "protocols", "all", "restart_time"); !strings.Contains(out, "Restart time: 77") {
		t.Errorf("no restart time of 77 s in\n%s", out)
	}

	// That of BIRD without TTL security arrives with TTL 1.
	if p := l.peer("the peer no-gtsm", "no-gtsm", func(*nodestatus.Peer) bool { return true }); isUp(p) {
		t.Error("a session came up over more hops than ttlSecurity allows")
	}
	l.notLearned("node1", "10.200.0.0/24")
	l.have(torPeer("looped", "10.1.1.242", func(s *v3.BGPPeerSpec) { s.NumAllowedLocalASNumbers = &once }))
	l.write()
	l.learned("node1", "10.200.0.0/24")
	for name, before := range up {
		if now := l.peer("the session "+name, name, isUp); name != "looped" && now.Since != before.Since {
			t.Errorf("%s: its session was reset by the change of another peer", name)
		}
	}
}

// routeOf is the part of BIRD's answer about the path of one session.
func routeOf(out, session string) string {
	for part := range strings.SplitSeq(out, "unicast [") {
		if strings.HasPrefix(part, session+" ") {
			return part
		}
	}
	return ""
}

// notLearned: the peers of node1 have sent all they have, and this is not taken from it.
func (l *torLab) notLearned(name, prefix string) {
	l.t.Helper()
	out := l.run(name, "ip", "route", "show", "proto", "81")
	if strings.Contains(out, prefix) {
		l.t.Errorf("%s has a route to %s", name, prefix)
	}
}

// TestListenPortAndBindMode: BIRD connects to the port of the BGPConfiguration, and to
// no other address than the node's with bindMode NodeIP.
func TestListenPortAndBindMode(t *testing.T) {
	const sessions = `
protocol bgp right from node { local 10.1.1.254; neighbor 10.1.1.11 port 1791 as 64512; ipv4 { import all; export filter own; }; }
`
	l := newTorLab(t, sessions, torPeer("tor", "10.1.1.254:9", nil)) // nobody listens on 9: BIRD has to connect
	nodeIP, off := v3.BindModeNodeIP, false
	l.run("node1", "ip", "addr", "add", "10.1.1.99/24", "dev", "eth0")
	config := &v3.BGPConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.BGPConfigurationSpec{NodeToNodeMeshEnabled: &off, ListenPort: 1791}}
	l.have(config)
	l.startNode("node1", l.content())
	l.peer("the session on the node's port", "tor", isUp)
	l.listens("*:1791", "*:1791") // of both families
	config.Spec.BindMode = &nodeIP
	l.write()
	l.listens("10.1.1.11:1791", "[fd01::11]:1791")
	l.peer("the session with bindMode NodeIP", "tor", isUp)
	l.have(&v3.BGPConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "node.node1"}, Spec: v3.BGPConfigurationSpec{ListenPort: 1792}})
	l.write()
	l.listens("10.1.1.11:1792", "[fd01::11]:1792")
}

// listens waits until node1's bgpd listens on these and nothing else.
func (l *torLab) listens(want ...string) {
	l.t.Helper()
	l.until("listeners", func() (bool, string) {
		var got []string
		for line := range strings.Lines(l.run("node1", "ss", "-Hltn")) {
			if f := strings.Fields(line); len(f) > 3 {
				got = append(got, strings.NewReplacer("0.0.0.0", "*", "[::]", "*").Replace(f[3]))
			}
		}
		slices.Sort(got)
		return slices.Equal(got, want), fmt.Sprintf("%v, want %v", got, want)
	})
}

// TestReachableByAgainstBIRD: BIRD peers from a loopback address that nothing else leads
// to. The routes it announces are reached by the same gateway.
func TestReachableByAgainstBIRD(t *testing.T) {
	const sessions = `
protocol bgp v4 from node { local 10.99.0.1; multihop; neighbor 10.1.1.11 as 64512; ipv4 { import all; export filter own; }; }
protocol bgp v6 from node { local fd99::1; multihop; neighbor fd01::11 as 64512; ipv6 { import all; export filter own; }; }
`
	by := func(gateway string) func(s *v3.BGPPeerSpec) {
		return func(s *v3.BGPPeerSpec) { s.ReachableBy = gateway }
	}
	l := newTorLab(t, sessions, torPeer("tor-v4", "10.99.0.1", by("10.1.1.254")), torPeer("tor-v6", "fd99::1", by("fd01::fe")))
	l.run("router", "ip", "addr", "add", "10.99.0.1/32", "dev", "lo")
	l.run("router", "ip", "addr", "add", "fd99::1/128", "dev", "lo")
	l.run("node1", "ip", "route", "del", "default")
	l.run("node1", "ip", "-6", "route", "del", "default")
	l.startNode("node1", l.content())
	l.peer("the session by the gateway, IPv4", "tor-v4", isUp)
	l.peer("the session by the gateway, IPv6", "tor-v6", isUp)
	l.learned("node1", "10.200.0.0/24 via 10.1.1.254 dev eth0", "fd20::/64 via fd01::fe dev eth0", "10.99.0.1 via 10.1.1.254 dev eth0", "fd99::1 via fd01::fe dev eth0")

	l.have(torPeer("tor-v4", "10.99.0.1", by("10.77.0.1")))
	l.write()
	l.problem("peer 10.99.0.1 is not reachable by 10.77.0.1", "set spec.reachableBy")
	l.have(torPeer("tor-v4", "10.99.0.1", nil))
	l.write()
	l.until("the route to the peer to go", func() (bool, string) {
		out := l.run("node1", "ip", "route", "show", "proto", "81")
		return !strings.Contains(out, "10.99.0.1"), out
	})
	l.peer("the other session", "tor-v6", isUp)
}

// TestAChangeOfOnePeerLeavesTheOthersAlone: sessions go on and no packet is lost while
// peers are added, changed and removed, the node's mesh included.
func TestAChangeOfOnePeerLeavesTheOthersAlone(t *testing.T) {
	on := true
	l := newTorLab(t, torSessions("", ""),
		&v3.BGPConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.BGPConfigurationSpec{NodeToNodeMeshEnabled: &on}},
		torPeer("tor-v4", "10.1.1.254", nil), torPeer("tor-v6", "fd01::fe", nil))
	for _, name := range []string{"node1", "node2"} {
		l.startNode(name, l.content())
	}
	before := []*nodestatus.Peer{l.peer("the mesh", "node2", isUp), l.peer("IPv4", "tor-v4", isUp)}
	l.peer("IPv6", "tor-v6", isUp)
	l.learned("node1", "10.65.2.0/26", "fd65:2::/122")
	l.learned("node2", "10.65.1.0/26", "fd65:1::/122")
	stop := l.traffic("node1", "10.65.1.1", "node2", "10.65.2.1")
	hops := uint8(1)
	for _, change := range []api.Object{
		torPeer("more", "10.1.1.201", nil),
		torPeer("tor-v6", "fd01::fe", func(s *v3.BGPPeerSpec) { s.MaxRestartTime = &metav1.Duration{Duration: 7 * time.Second} }),
		torPeer("more", "10.1.1.201", func(s *v3.BGPPeerSpec) { s.ASNumber = 65000 }),
		torPeer("more", "10.1.1.202", func(s *v3.BGPPeerSpec) { s.TTLSecurity = &hops }),
		torPeer("more", "10.1.1.202", passwordIn("nothing", "k")),
		torPeer("tor-v6", "fd01::fe", func(s *v3.BGPPeerSpec) { s.ASNumber = 65000 }),
	} {
		l.have(change)
		l.write()
	}
	l.problem("BGPPeer more", "spec.password")
	l.peer("the changed session", "tor-v6", func(p *nodestatus.Peer) bool { return p.Asn == 65000 && p.State != string(speaker.Established) })
	for _, b := range before {
		if now := l.peer("the session "+b.Address, b.Name, func(p *nodestatus.Peer) bool { return p.Address == b.Address }); now.Since != b.Since || !isUp(now) {
			t.Errorf("%s: its session was reset: %v, was %v", b.Address, now, b)
		}
	}
	if sent, lost := stop(); lost != 0 {
		t.Errorf("%d of %d packets lost", lost, sent)
	}
}

// TestASNumberChangedLiveLosesNoPacket: of the whole cluster, on one node after the
// other, under traffic; and of one session. Each side keeps what it knew until the other
// has told everything again.
func TestASNumberChangedLiveLosesNoPacket(t *testing.T) {
	l := newTorLab(t, "")
	asn := func(n numorstring.ASNumber) *v3.BGPConfiguration {
		on := true
		return &v3.BGPConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.BGPConfigurationSpec{NodeToNodeMeshEnabled: &on, ASNumber: &n}}
	}
	l.have(asn(64512))
	names := []string{"node1", "node2"}
	for _, name := range names {
		l.startNode(name, l.content())
	}
	l.learned("node1", "10.65.2.0/26", "fd65:2::/122")
	l.learned("node2", "10.65.1.0/26", "fd65:1::/122")
	l.peer("the mesh", "node2", isUp)
	stop4 := l.traffic("node1", "10.65.1.1", "node2", "10.65.2.1")
	stop6 := l.traffic("node2", "fd65:2::1", "node1", "fd65:1::1")
	ended := func() {
		t.Helper()
		for name, stop := range map[string]func() (int, int){"IPv4": stop4, "IPv6": stop6} {
			if sent, lost := stop(); lost != 0 {
				t.Errorf("%s: %d of %d packets lost", name, lost, sent)
			}
		}
	}
	l.have(asn(4200000000))
	for _, name := range names {
		l.store(name, l.content())
		l.until(name+" to have the new AS number", func() (bool, string) {
			st, err := l.status(name).Status(t.Context(), &nodestatus.StatusRequest{})
			return err == nil && st.Asn == 4200000000, fmt.Sprint(st, err)
		})
	}
	for _, family := range []string{"10.1.1.12", "fd01::12"} {
		l.peer("the mesh with the new AS number", family, func(p *nodestatus.Peer) bool { return p.Asn == 4200000000 && isUp(p) })
	}
	l.learned("node1", "10.65.2.0/26", "fd65:2::/122")
	l.learned("node2", "10.65.1.0/26", "fd65:1::/122")
	ended()
}

// TestOneSidedPeerLeavesTheMeshSessionAsItIs: a BGPPeer that one of two nodes has in place of
// the session that both have in the mesh changes nothing of it, when it comes and when it goes.
func TestOneSidedPeerLeavesTheMeshSessionAsItIs(t *testing.T) {
	on, manual := true, v3.ReversePeeringManual
	l := newTorLab(t, "", &v3.BGPConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.BGPConfigurationSpec{NodeToNodeMeshEnabled: &on},
	})
	for _, o := range l.objects {
		if n, ok := o.(*api.Node); ok {
			n.Labels = map[string]string{"name": n.Name}
		}
	}
	addresses := map[string][]string{"node1": {"10.1.1.12", "fd01::12"}, "node2": {"10.1.1.11", "fd01::11"}}
	for name := range addresses {
		l.startNode(name, l.content())
	}
	since := map[string]int64{}
	meshIs := func(kind topology.PeerType) {
		t.Helper()
		for at, list := range addresses {
			for _, address := range list {
				l.until(at+"'s session with "+address, func() (bool, string) {
					p, says := l.lab.peer(at, address)
					if p == nil || !isUp(p) || at == "node2" && address == "10.1.1.11" && p.GetType() != string(kind) {
						return false, says
					}
					if was := since[at+address]; was != 0 && was != p.GetSince() {
						t.Errorf("%s's session with %s was reset", at, address)
					}
					since[at+address] = p.GetSince()
					return true, ""
				})
			}
		}
	}
	meshIs(topology.Mesh)
	l.learned("node1", "10.65.2.0/26")
	l.learned("node2", "10.65.1.0/26")
	stop := l.traffic("node1", "10.65.1.1", "node2", "10.65.2.1")
	write := func() {
		t.Helper()
		for name := range addresses {
			l.store(name, l.content())
		}
	}
	for _, spec := range []v3.BGPPeerSpec{
		{Node: "node2", PeerIP: "10.1.1.11", ASNumber: 64512},
		{Node: "node2", PeerSelector: "name == 'node1'", ReversePeering: &manual},
	} {
		oneSided := &v3.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "one-sided"}, Spec: spec}
		l.have(oneSided)
		write()
		meshIs(topology.NodeSpecific)
		delete(l.objects, fmt.Sprintf("%T %s", oneSided, oneSided.GetName()))
		write()
		meshIs(topology.Mesh)
	}
	if sent, lost := stop(); lost != 0 {
		t.Errorf("%d of %d packets lost", lost, sent)
	}
}
