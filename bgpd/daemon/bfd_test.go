package daemon_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

// guardedResources are the lab's, with BFD wherever it can be.
func guardedResources() []api.Object {
	asked := map[string]string{api.AnnotationBFD: "on"}
	out := append(resources(), &v3.BGPConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "default", Annotations: asked}})
	for _, o := range out {
		if p, ok := o.(*v3.BGPPeer); ok {
			p.Annotations = asked
		}
	}
	return out
}

// guarded waits until a node has BFD with its neighbours.
func (l *lab) guarded(name string, neighbours ...string) {
	l.t.Helper()
	client := l.status(name)
	l.until("BFD of "+name, func() (bool, string) {
		resp, err := client.Peers(l.t.Context(), &nodestatus.PeersRequest{})
		if err != nil {
			return false, err.Error()
		}
		state := map[string]string{}
		for _, p := range resp.Peers {
			state[p.Address] = p.Bfd
		}
		for _, n := range neighbours {
			if state[n] != "Up, 300ms x 3" {
				return false, fmt.Sprint(state)
			}
		}
		return true, ""
	})
}

func upGuardedLab(t *testing.T) (*lab, map[string]string) {
	l := newLab(t)
	l.bfd = api.DefaultBFD()
	store := l.up(guardedResources())
	l.allGuarded()
	return l, store
}

func (l *lab) allGuarded() {
	l.t.Helper()
	l.guarded("node1", "10.1.1.12", "fd01::12", "10.1.1.254", "fd01::fe")
	l.guarded("node2", "10.1.1.11", "fd01::11", "10.1.1.254", "fd01::fe")
	l.guarded("node3", "10.1.2.254", "fd02::fe")
	l.guarded("router", "10.1.1.11", "10.1.1.12", "10.1.2.13", "fd01::11", "fd01::12", "fd02::13")
}

// gone tells, when it is called, how long after that a node's last route to one of
// the prefixes went: the kernel says when.
func (l *lab) gone(name string, prefixes ...string) (since func(time.Time) time.Duration) {
	l.t.Helper()
	events, err := kerneltest.Open(l.t, l.ns[name]).Subscribe(l.t.Context(), kernel.RouteEvents)
	if err != nil {
		l.t.Fatal(err)
	}
	return func(began time.Time) time.Duration {
		left := map[netip.Prefix]bool{}
		for _, p := range prefixes {
			left[netip.MustParsePrefix(p)] = true
		}
		var last time.Duration
		deadline := time.After(patience)
		for len(left) > 0 {
			select {
			case ev := <-events:
				if r, ok := ev.(kernel.RouteEvent); ok && r.Gone && left[r.Route.Dst] {
					delete(left, r.Route.Dst)
					last = time.Since(began)
				}
			case <-deadline:
				l.t.Fatalf("%s still has routes to %v", name, left)
			}
		}
		l.t.Logf("%s: routes gone after %s", name, last)
		return last
	}
}

// pull pulls node2's cable, and tells how long node1 had routes by it.
func (l *lab) pull() time.Duration {
	l.t.Helper()
	gone := l.gone("node1", "10.65.2.0/26", "fd65:2::/122")
	l.run("router", "ip", "link", "set", "to-node2", "down")
	return gone(time.Now()) // it was dead then, at the latest
}

// TestRoutesByADeadNodeAreGoneWithinASecond although both sides restart gracefully: a
// node whose cable is pulled says nothing any more.
func TestRoutesByADeadNodeAreGoneWithinASecond(t *testing.T) {
	l, _ := upGuardedLab(t)
	if took := l.pull(); took >= time.Second {
		t.Errorf("node1 had routes by a dead node for %s", took)
	}
	resp, err := l.status("node1").Peers(t.Context(), &nodestatus.PeersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range resp.Peers {
		if p.Address == "10.1.1.12" && (p.Bfd != "Down: nothing was heard for 900ms" ||
			!strings.HasPrefix(p.Info, "BFD with it failed: nothing was heard for 900ms; ")) {
			t.Errorf("status of the peer: BFD %q, info %q", p.Bfd, p.Info)
		}
		if p.Address == "10.1.2.13" && p.Bfd != "none: the peer is on no segment of this node" {
			t.Errorf("BFD with a peer behind a router: %q", p.Bfd)
		}
	}
	l.run("router", "ip", "link", "set", "to-node2", "up")
	for _, n := range nodes {
		l.established(n.name, 6)
	}
	l.allGuarded()
	l.learned("node1", "10.65.2.0/26", "fd65:2::/122")
}

// TestRestartsLoseNoPacketWithBFD: BFD dies with bgpd, and ends no graceful restart.
func TestRestartsLoseNoPacketWithBFD(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"kill -9": syscall.SIGKILL, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			l, store := upGuardedLab(t)
			stop4 := l.traffic("node1", "10.65.1.1", "node2", "10.65.2.1")
			stop6 := l.traffic("router", "fd01::fe", "node2", "fd65:2::1")
			l.end("node2", sig)
			// Longer than a detection time: its peers have found it silent.
			l.until("the silence to be found", func() (bool, string) {
				resp, err := l.status("node1").Peers(t.Context(), &nodestatus.PeersRequest{})
				if err != nil {
					return false, err.Error()
				}
				for _, p := range resp.Peers {
					if p.Address == "10.1.1.12" {
						return strings.HasPrefix(p.Bfd, "Down"), p.Bfd
					}
				}
				return false, "no such peer"
			})
			l.startNode("node2", store)
			for _, n := range nodes {
				l.established(n.name, 6)
				l.swept(n.name)
			}
			l.allGuarded()
			for name, stop := range map[string]func() (int, int){"IPv4": stop4, "IPv6": stop6} {
				if sent, lost := stop(); lost != 0 {
					t.Errorf("%s: %d of %d packets lost", name, lost, sent)
				}
			}
		})
	}
}

// upGuardedBIRD is the lab with BIRD as node2, and BFD.
func upGuardedBIRD(t *testing.T) (*lab, map[string]string) {
	if _, err := exec.LookPath("bird"); err != nil {
		kerneltest.Require(t, "the BIRD routing daemon (Debian package bird2)")
	}
	l := newLab(t)
	l.bfd = api.DefaultBFD()
	store := l.upBIRD(guardedResources())
	l.guarded("node1", "10.1.1.12", "fd01::12", "10.1.1.254", "fd01::fe")
	return l, store
}

func TestRoutesByADeadBIRDAreGoneWithinASecond(t *testing.T) {
	l, _ := upGuardedBIRD(t)
	if took := l.pull(); took >= time.Second {
		t.Errorf("node1 had routes by a dead node for %s", took)
	}
	l.run("router", "ip", "link", "set", "to-node2", "up")
	l.birdConverged()
	l.guarded("node1", "10.1.1.12", "fd01::12")
}

// TestBIRDKeepsForwardingWhileBgpdWithBFDIsKilled: BIRD has to be told that BFD dies
// with our control plane, by "bfd graceful".
func TestBIRDKeepsForwardingWhileBgpdWithBFDIsKilled(t *testing.T) {
	l, store := upGuardedBIRD(t)
	stop4 := l.traffic("node2", "10.65.2.1", "node1", "10.65.1.1")
	stop6 := l.traffic("node2", "fd65:2::1", "node1", "fd65:1::1")
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		l.end("node1", sig)
		l.startNode("node1", store)
		l.birdConverged()
		l.swept("node1")
		l.guarded("node1", "10.1.1.12", "fd01::12")
	}
	for name, stop := range map[string]func() (int, int){"IPv4": stop4, "IPv6": stop6} {
		if sent, lost := stop(); lost != 0 {
			t.Errorf("%s: %d of %d packets lost", name, lost, sent)
		}
	}
}

// TestBusyNodeIsNoDeadNode: every processor is wanted by another program while bgpd learns
// and forgets a great table again and again.
func TestBusyNodeIsNoDeadNode(t *testing.T) {
	const table, rounds = 20000, 2
	l := newLab(t)
	l.bfd = api.DefaultBFD()
	for i := range table {
		a := netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)})
		l.exports = append(l.exports, topology.Export{Prefix: netip.PrefixFrom(a, 32), Reason: "test"})
	}
	objects := guardedResources()
	with := l.up(objects)
	l.allGuarded()
	since := l.upSince("node1", "10.1.1.12")
	for range runtime.NumCPU() {
		hog := exec.Command("sh", "-c", "while :; do :; done")
		if err := hog.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = hog.Process.Kill(); _ = hog.Wait() }()
	}
	without := stored(t, slices.DeleteFunc(objects, func(o api.Object) bool { return strings.HasPrefix(o.GetName(), "router-node1") }))
	for range rounds {
		l.tableOf(table)
		l.store("node1", without)
		l.tableOf(0)
		l.store("node1", with)
	}
	l.tableOf(table)
	l.allGuarded()
	if got := l.upSince("node1", "10.1.1.12"); got != since {
		t.Errorf("the session with node2 was lost: up since %d, before since %d", got, since)
	}
}

// upSince is when node1's session with a peer came up.
func (l *lab) upSince(name, peer string) int64 {
	l.t.Helper()
	resp, err := l.status(name).Peers(l.t.Context(), &nodestatus.PeersRequest{})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, p := range resp.Peers {
		if p.Address == peer && p.State == string(speaker.Established) {
			return p.Since
		}
	}
	l.t.Fatalf("no session with %s: %v", peer, resp.Peers)
	return 0
}

// tableOf waits until node1's kernel has that many of the router's routes.
func (l *lab) tableOf(n int) {
	l.t.Helper()
	h := kerneltest.Open(l.t, l.ns["node1"])
	l.until("node1's table", func() (bool, string) {
		routes, err := h.Routes(l.t.Context(), kernel.RouteFilter{Protocol: kernel.ProtocolBGP})
		got := 0
		for _, r := range routes {
			if r.Dst.Addr().Is4() && r.Dst.Addr().As4()[0] == 172 {
				got++
			}
		}
		return err == nil && got == n, fmt.Sprintf("%d of %d routes, %v", got, n, err)
	})
}
