package daemon_test

import (
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"tortie/bgpd/daemon"
	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/control/nodestatus"
	"tortie/internal/kernel/kerneltest"
)

// causesConfig is a BIRD with a session of its own for each thing that goes wrong. It has
// no two with the same neighbour, so that node1 has an address for each.
const causesConfig = `
log stderr { warning, error, fatal };
router id 10.1.1.12;
protocol device { scan time 1; }
protocol direct { ipv4; interface "eth0"; }
template bgp wrong {
  connect delay time 1; connect retry time 1; error wait time 1, 2; local as 65000; strict bind on;
  ipv4 { import all; export none; };
}
protocol bgp otheras from wrong { local 10.1.1.22 as 65001; neighbor 10.1.1.122 as 64512; }
protocol bgp expectsother from wrong { local 10.1.1.23; neighbor 10.1.1.123 as 64999; }
protocol bgp otherpassword from wrong { local 10.1.1.24; neighbor 10.1.1.124 as 64512; password "theirs"; }
protocol bgp haspassword from wrong { local 10.1.1.25; neighbor 10.1.1.125 as 64512; password "theirs"; }
protocol bgp silent from wrong { local 10.1.1.27; neighbor 10.1.1.127 as 64512; hold time 3; }
protocol bgp shut from wrong { local 10.1.1.28; neighbor 10.1.1.128 as 64512; }
protocol bgp limited from wrong {
  local 10.1.1.29; neighbor 10.1.1.129 as 64512;
  ipv4 { import limit 1 action disable; export none; };
}
protocol bgp otherneighbor from wrong { local 10.1.1.30; neighbor 10.1.1.77 as 64512; }
protocol bgp otherlocal from wrong { local 10.1.1.32; neighbor 10.1.1.131 as 64512; }
protocol bgp otherofours from wrong { local 10.1.1.33; neighbor 10.1.1.199 as 64512; }
protocol bgp sameid from wrong { local 10.1.1.34 as 64512; neighbor 10.1.1.134 as 64512; router id 10.1.1.11; }
`

// TestSessionThatIsNotUpNamesItsCause has a real BIRD at the other end of each.
func TestSessionThatIsNotUpNamesItsCause(t *testing.T) {
	if _, err := exec.LookPath("bird"); err != nil {
		kerneltest.Require(t, "the BIRD routing daemon (Debian package bird2)")
	}
	l := newLab(t)
	for _, last := range []string{"21", "22", "23", "24", "25", "27", "28", "29", "30", "32", "33", "34"} {
		l.run("node2", "ip", "addr", "add", "10.1.1."+last+"/24", "dev", "eth0")
		l.run("node1", "ip", "addr", "add", "10.1.1.1"+last+"/24", "dev", "eth0")
	}
	for _, last := range []string{"131", "199"} {
		l.run("node1", "ip", "addr", "add", "10.1.1."+last+"/24", "dev", "eth0")
	}
	l.run("node1", "ip", "route", "add", "unreachable", "192.0.2.0/24")
	l.run("node1", "ip", "route", "add", "throw", "198.51.100.0/24")
	peer := func(address string, change ...func(*speaker.Peer)) speaker.Peer {
		p := speaker.Peer{
			Address: netip.MustParseAddr(address), LocalAddress: netip.MustParseAddr("10.1.1.11"), Port: 179, ASN: 65000, RestartTime: 120 * time.Second,
		}
		if last, ok := strings.CutPrefix(address, "10.1.1."); ok && last != "99" {
			p.LocalAddress = netip.MustParseAddr("10.1.1.1" + last)
		}
		for _, f := range change {
			f(&p)
		}
		return p
	}
	passive := func(p *speaker.Peer) { p.Passive = true }
	password := func(p *speaker.Peer) { p.Password = "ours" }
	asn := func(asn uint32) func(*speaker.Peer) { return func(p *speaker.Peer) { p.ASN = asn } }
	st := daemon.Static{
		Name: "node1", Socket: l.socket("node1"),
		Global: speaker.Global{ASN: 64512, RouterID: netip.MustParseAddr("10.1.1.11"), Port: 179, Listen: []netip.Addr{netip.IPv4Unspecified()}},
		Exports: []topology.Export{
			{Prefix: netip.MustParsePrefix("10.65.1.0/26"), Reason: "for the test"}, {Prefix: netip.MustParsePrefix("10.65.1.64/26"), Reason: "for the test"},
		},
	}
	want := map[string]string{}
	expect := func(p speaker.Peer, cause string) {
		st.Peers = append(st.Peers, p)
		want[p.Address.String()] = cause
	}
	const stranger = "; meanwhile 10.1.1.32 connects to us, which is no peer: is that its address?"
	expect(peer("10.1.1.21", func(p *speaker.Peer) { p.Port = 1790 }), "connection refused: no BGP speaker listens on port 1790 of 10.1.1.21"+stranger)
	expect(peer("192.0.2.1"), "no route to 192.0.2.1: a router on the way, or a route of this node, says it is unreachable, or nobody has the address on its segment"+stranger)
	expect(peer("198.51.100.1"), "no route to 198.51.100.1: this node's routing table has none")
	expect(peer("10.1.1.99"), "nobody has the address 10.1.1.99 on its segment (no answer to ARP): it is down, or the address is wrong"+stranger)
	expect(peer("10.1.1.22", asn(65002)), "we sent NOTIFICATION open message error/bad peer AS (2/2): its AS number is 65001, configured is 65002")
	expect(peer("10.1.1.23"), "the peer refused our OPEN: check that it expects AS 64512 from us")
	expect(peer("10.1.1.24", password), "likely a TCP MD5 mismatch: segments arrive that are signed with another password: make that of 10.1.1.24 and ours the same")
	expect(peer("10.1.1.25"), "likely a TCP MD5 mismatch: signed segments arrive, and 10.1.1.25 is configured without password: set spec.password")
	expect(peer("10.1.1.29"), "the peer sent NOTIFICATION cease/maximum number of prefixes reached (6/1); we send it more prefixes than it is set to take")
	expect(peer("10.1.1.30"), "the peer closed the connection before the session was up: check that it has a session for 10.1.1.130 with AS 64512")
	expect(peer("10.1.1.31", passive), "waiting for the peer to connect to us"+stranger)
	expect(peer("10.1.1.33", passive), "waiting for the peer to connect to us; it connects to our address 10.1.1.199, but its session is with 10.1.1.133: "+
		"correct the address there or the session's source address here")
	expect(peer("10.1.1.34", asn(64512)), "we sent NOTIFICATION open message error/bad BGP identifier (2/3): bad BGP identifier 10.1.1.11; its router ID is ours, or 0.0.0.0")
	expect(peer("10.1.1.35", func(p *speaker.Peer) { p.LocalAddress = netip.MustParseAddr("10.1.1.200") }),
		"local address 10.1.1.200 is not on any interface of this node")
	st.Peers = append(st.Peers, peer("10.1.1.27"), peer("10.1.1.28"))
	l.startBIRDIn("node2", causesConfig)
	l.start(child{Name: "node1", Static: &st})
	// This one is said until the next attempt to connect.
	l.cause("node1", "10.1.1.29", want["10.1.1.29"])
	delete(want, "10.1.1.29")
	for address, cause := range want {
		l.cause("node1", address, cause)
	}
	// These were up.
	l.isUp("node1", "10.1.1.27")
	l.isUp("node1", "10.1.1.28")
	l.birdc("disable", "shut", `"maintenance until noon"`)
	l.cause("node1", "10.1.1.28", `the peer sent NOTIFICATION cease/administrative shutdown (6/2): "maintenance until noon"; somebody has shut the session down there`)
	if err := l.proc["bird"].Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	l.cause("node1", "10.1.1.27", "we sent NOTIFICATION hold timer expired (4/0): nothing was heard from the peer for the hold time")
}

// TestPeerWithoutThePasswordThatIsSetHere is alone: the kernel's counters are the node's.
func TestPeerWithoutThePasswordThatIsSetHere(t *testing.T) {
	if _, err := exec.LookPath("bird"); err != nil {
		kerneltest.Require(t, "the BIRD routing daemon (Debian package bird2)")
	}
	l := newLab(t)
	l.run("node2", "ip", "addr", "add", "10.1.1.26/24", "dev", "eth0")
	l.startBIRDIn("node2", `
log stderr { warning, error, fatal };
router id 10.1.1.12;
protocol device { scan time 1; }
protocol direct { ipv4; interface "eth0"; }
protocol bgp nopassword {
  local 10.1.1.26 as 65000; neighbor 10.1.1.11 as 64512; connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 { import all; export none; };
}
`)
	l.start(child{Name: "node1", Static: &daemon.Static{
		Name: "node1", Socket: l.socket("node1"),
		Global: speaker.Global{ASN: 64512, RouterID: netip.MustParseAddr("10.1.1.11"), Port: 179, Listen: []netip.Addr{netip.IPv4Unspecified()}},
		Peers: []speaker.Peer{{
			Address: netip.MustParseAddr("10.1.1.26"), LocalAddress: netip.MustParseAddr("10.1.1.11"), Port: 179, ASN: 65000, Password: "ours",
		}},
	}})
	l.cause("node1", "10.1.1.26", "likely a TCP MD5 mismatch: segments arrive without signature: give 10.1.1.26 the password, or start a BGP speaker there on port 179")
}

// peer is what a node says of a peer.
func (l *lab) peer(name, address string) (*nodestatus.Peer, string) {
	resp, err := l.status(name).Peers(l.t.Context(), &nodestatus.PeersRequest{})
	if err != nil {
		return nil, err.Error()
	}
	for _, p := range resp.Peers {
		if p.Address == address {
			return p, p.State + ": " + p.Info
		}
	}
	return nil, "no such peer"
}

// cause waits until a node gives a cause for a peer's being down.
func (l *lab) cause(name, address, want string) {
	l.t.Helper()
	l.until(address+" to say "+want, func() (bool, string) {
		p, says := l.peer(name, address)
		return p != nil && p.State != string(speaker.Established) && p.Info == want, says
	})
}

// isUp waits until a session is.
func (l *lab) isUp(name, address string) {
	l.t.Helper()
	l.until(address+" to be up", func() (bool, string) {
		p, says := l.peer(name, address)
		return p != nil && p.State == string(speaker.Established), says
	})
}
