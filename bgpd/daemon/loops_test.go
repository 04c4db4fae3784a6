package daemon_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"tortie/bgpd/bgptest"
	"tortie/bgpd/daemon"
	"tortie/bgpd/speaker"
	"tortie/bgpd/speaker/gobgp"
	"tortie/internal/kernel/kerneltest"
)

// requireMendedLibrary: only with bgpd/library's copy are loops what they should be.
func requireMendedLibrary(t *testing.T) {
	t.Helper()
	if !gobgp.Mended() {
		kerneltest.Require(t, "the mended BGP library (make build; go test -modfile=.cache/gobgp.mod)")
	}
}

// ownCluster is the cluster ID of the bgpd of these tests.
var ownCluster = netip.MustParseAddr("244.0.0.1")

// loopLab is node1's bgpd, a reflector, with these peers.
func loopLab(t *testing.T, peers ...speaker.Peer) *lab {
	requireMendedLibrary(t)
	l := newLab(t)
	for i := range peers {
		if peers[i].ASN == nodeASN {
			peers[i].ClusterID = ownCluster
		}
	}
	l.start(child{Name: "node1", Static: &daemon.Static{Name: "node1", Socket: l.socket("node1"), Global: speaker.Global{
		ASN: nodeASN, RouterID: netip.MustParseAddr("10.1.1.11"), Port: 179, Transit: true, Listen: []netip.Addr{netip.IPv4Unspecified()},
	}, Peers: peers}})
	return l
}

// has waits until node1's kernel has all of some routes and none of others.
func (l *lab) has(want, not []string) {
	l.t.Helper()
	l.until(fmt.Sprintf("routes %q and not %q", want, not), func() (bool, string) {
		out := l.run("node1", "ip", "route", "show", "proto", "81")
		for _, p := range want {
			if !strings.Contains(out, p+" ") {
				return false, out
			}
		}
		for _, p := range not {
			if strings.Contains(out, p+" ") {
				return false, out
			}
		}
		return true, ""
	})
}

// birdCluster is BIRD as a reflector of some cluster: of a client, 10.1.1.12, to node1.
func birdCluster(id string) string {
	return fmt.Sprintf(`
log stderr { warning, error, fatal };
router id 10.1.1.254;
protocol device { scan time 1; }
protocol static { ipv4; route 10.200.0.0/24 via 10.1.1.12; }
template bgp reflected {
  local as 64512; rr cluster id %s; direct;
  connect delay time 1; connect retry time 2; error wait time 1, 3;
}
protocol bgp origin from reflected { neighbor 10.1.1.12 as 64512; rr client; ipv4 { import all; export none; }; }
protocol bgp node1 from reflected { neighbor 10.1.1.11 as 64512; ipv4 { import all; export all; }; }
`, id)
}

// TestClusterIDLoopFromBIRDIsRefused: a route that a reflector of our cluster has reflected
// is ignored (RFC 4456 section 8), whether it comes of a client or not; that of another
// cluster is taken.
func TestClusterIDLoopFromBIRDIsRefused(t *testing.T) {
	if _, err := exec.LookPath("bird"); err != nil {
		kerneltest.Require(t, "the BIRD routing daemon (Debian package bird2)")
	}
	for _, client := range []bool{false, true} {
		t.Run(fmt.Sprintf("client %t", client), func(t *testing.T) {
			router := netip.MustParseAddr("10.1.1.254")
			l := loopLab(t, speaker.Peer{Address: router, ASN: nodeASN, ReflectorClient: client})
			l.startBIRDIn("router", birdCluster("244.0.0.2"))
			from := netip.MustParseAddr("10.1.1.12")
			announce := func() {
				p := l.dial("node2", from, router, bgptest.Config{ASN: nodeASN, ID: from})
				if err := p.Send(bgptest.Update, internal(from, "10.70.0.0/24")); err != nil {
					t.Fatal(err)
				}
			}
			announce()
			l.has([]string{"10.200.0.0/24", "10.70.0.0/24"}, nil)
			l.end("bird", syscall.SIGKILL)
			l.startBIRDIn("router", birdCluster(ownCluster.String()))
			announce()
			l.has([]string{"10.200.0.0/24"}, nil)
			l.until("BIRD's route of its client", func() (bool, string) {
				out := l.run("router", "birdc", "-s", filepath.Join(l.dir, "bird.ctl"), "show", "route", "export", "node1")
				return strings.Contains(out, "10.70.0.0/24"), out
			})
			l.has([]string{"10.200.0.0/24"}, []string{"10.70.0.0/24"})
		})
	}
}

// internal is an UPDATE of an internal peer for one prefix.
func internal(nextHop netip.Addr, prefix string, more ...[]byte) []byte {
	attributes := append([][]byte{
		bgptest.Origin(), bgptest.ASPath(), bgptest.NextHop(nextHop),
		bgptest.Attribute(bgptest.Transitive, bgptest.TypeLocalPref, 0, 0, 0, 100),
	}, more...)
	return bgptest.Body(nil, slices.Concat(attributes...), bgptest.Prefixes(netip.MustParsePrefix(prefix)))
}

// TestRouteThatBecomesALoopIsGone: an announcement takes the place of the peer's former one
// (RFC 4271 section 9), also when it is refused as a loop.
func TestRouteThatBecomesALoopIsGone(t *testing.T) {
	outside, inside := netip.MustParseAddr("10.1.1.100"), netip.MustParseAddr("10.1.1.101")
	l := loopLab(t,
		speaker.Peer{Address: outside, ASN: senderASN, Passive: true},
		speaker.Peer{Address: inside, ASN: nodeASN, Passive: true, ReflectorClient: true})
	node1 := netip.MustParseAddr("10.1.1.11")
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	for _, a := range []netip.Addr{outside, inside} {
		l.run("node2", "ip", "addr", "add", a.String()+"/24", "dev", "eth0")
	}
	ebgp := l.dial("node2", outside, node1, bgptest.Config{ASN: senderASN, ID: outside})
	ibgp := l.dial("node2", inside, node1, bgptest.Config{ASN: nodeASN, ID: inside})
	send := func(p *bgptest.Peer, body []byte) {
		t.Helper()
		if err := p.Send(bgptest.Update, body); err != nil {
			t.Fatal(err)
		}
	}
	send(ebgp, bgptest.Announce(senderASN, outside, prefix("10.70.1.0/24")))
	send(ibgp, internal(inside, "10.70.2.0/24"))
	send(ibgp, internal(inside, "10.70.3.0/24"))
	l.has([]string{"10.70.1.0/24", "10.70.2.0/24", "10.70.3.0/24"}, nil)

	send(ebgp, bgptest.Body(nil, slices.Concat(bgptest.Origin(), bgptest.ASPath(senderASN, nodeASN), bgptest.NextHop(outside)), bgptest.Prefixes(prefix("10.70.1.0/24")...)))
	send(ibgp, internal(inside, "10.70.2.0/24", bgptest.Attribute(bgptest.Optional, bgptest.TypeOriginatorID, node1.AsSlice()...)))
	send(ibgp, internal(inside, "10.70.3.0/24", bgptest.Attribute(bgptest.Optional, bgptest.TypeClusterList, 244, 0, 0, 9, 244, 0, 0, 1)))
	l.has(nil, []string{"10.70.1.0/24", "10.70.2.0/24", "10.70.3.0/24"})

	send(ebgp, bgptest.Announce(senderASN, outside, prefix("10.70.1.0/24")))
	send(ibgp, internal(inside, "10.70.2.0/24"))
	send(ibgp, internal(inside, "10.70.3.0/24"))
	l.has([]string{"10.70.1.0/24", "10.70.2.0/24", "10.70.3.0/24"}, nil)
}
