// As in bgpd itself.
//go:debug multipathtcp=0

package daemon_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
)

// upLab is the lab with everything running and converged.
func upLab(t *testing.T) (*lab, map[string]string) { return upLabOf(t, resources()) }

func upLabOf(t *testing.T, objects []api.Object) (*lab, map[string]string) {
	l := newLab(t)
	return l, l.up(objects)
}

// up starts everything and waits until it has converged.
func (l *lab) up(objects []api.Object) map[string]string {
	t := l.t
	store := stored(t, objects)
	start := time.Now()
	for _, n := range nodes {
		l.startNode(n.name, store)
	}
	l.startRouter()
	for _, n := range nodes {
		l.established(n.name, 6) // two other nodes and the router, IPv4 and IPv6
	}
	t.Logf("all sessions up after %v", time.Since(start))
	for i, n := range nodes {
		for j, other := range nodes {
			if i != j {
				l.learned(n.name, other.block4, other.block6)
			}
		}
	}
	for _, n := range nodes {
		l.learned("router", n.block4, n.block6)
	}
	t.Logf("all routes in place after %v", time.Since(start))
	return store
}

func TestThreeNodesAndARouterReachOneAnother(t *testing.T) {
	l, _ := upLab(t)
	for i, from := range nodes {
		for j, to := range nodes {
			if i == j {
				continue
			}
			l.run(from.name, "ping", "-c1", "-W5", "-I", from.pod4, to.pod4)
			l.run(from.name, "ping", "-c1", "-W5", "-I", from.pod6, to.pod6)
		}
	}
	resp, err := l.status("node1").Routes(t.Context(), &nodestatus.RoutesRequest{Prefix: "10.65.3.7"})
	if err != nil || len(resp.Routes) != 1 {
		t.Fatalf("route to an address behind the router: %v, %v", resp, err)
	}
	r := resp.Routes[0]
	const want = "block of node3, node-to-node mesh, via router 10.1.1.254"
	if r.Reason != want || r.Kernel != "via 10.1.1.254 dev eth0" || !r.Best {
		t.Errorf("route %v: want reason %q", r, want)
	}
	resp, err = l.status("node1").Routes(t.Context(), &nodestatus.RoutesRequest{Prefix: "10.65.1.0/26"})
	if err != nil || len(resp.Routes) != 1 || resp.Routes[0].Reason != "block of this node" {
		t.Errorf("own block: %v, %v", resp, err)
	}
	_, err = l.status("node1").Routes(t.Context(), &nodestatus.RoutesRequest{Prefix: "10.65.9.9"})
	const why = "no route to 10.65.9.9: it is in the IP pool 10.65.0.0/16, but in no block that a node has"
	if s := status.Convert(err); s.Code() != codes.NotFound || s.Message() != why {
		t.Errorf("no route: %v, want %q", err, why)
	}
	st, err := l.status("node1").Status(t.Context(), &nodestatus.StatusRequest{})
	if err != nil || len(st.Problems) > 0 || !st.Mesh || st.Asn != 64512 || !st.DatastoreInSync {
		t.Errorf("status %v, %v: want no problems", st, err)
	}
}

// TestPodsStayReachableWhenTheirPoolIsGone: upLab waits for all blocks at all nodes.
func TestPodsStayReachableWhenTheirPoolIsGone(t *testing.T) {
	objects := slices.DeleteFunc(resources(), func(o api.Object) bool { _, pool := o.(*v3.IPPool); return pool })
	l, _ := upLabOf(t, objects)
	l.run("node1", "ping", "-c1", "-W5", "-I", "10.65.1.1", "10.65.3.1")
	l.run("node1", "ping", "-c1", "-W5", "-I", "fd65:1::1", "fd65:3::1")
	resp, err := l.status("node1").Routes(t.Context(), &nodestatus.RoutesRequest{Prefix: "10.65.1.0/26"})
	if err != nil || len(resp.Routes) != 1 || resp.Routes[0].Reason != "block of this node; its pool is gone" {
		t.Errorf("own block: %v, %v", resp, err)
	}
}

// TestKilledSpeakerLosesNoPacket kills bgpd of one node, then of all nodes at
// once, then of the router, with traffic on every path, and starts them again.
func TestKilledSpeakerLosesNoPacket(t *testing.T) {
	for _, tt := range []struct {
		name   string
		killed []string
		sig    syscall.Signal
	}{
		{"kill -9 of the receiver", []string{"node3"}, syscall.SIGKILL},
		{"kill -9 of the sender", []string{"node1"}, syscall.SIGKILL},
		{"kill -9 of the router", []string{"router"}, syscall.SIGKILL},
		{"SIGTERM of the receiver", []string{"node3"}, syscall.SIGTERM},
		{"kill -9 of all nodes at once", []string{"node1", "node2", "node3"}, syscall.SIGKILL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, store := upLab(t)
			stop4 := l.traffic("node1", "10.65.1.1", "node3", "10.65.3.1")
			stop6 := l.traffic("node2", "fd65:2::1", "node3", "fd65:3::1")
			for _, name := range tt.killed {
				l.end(name, tt.sig)
			}
			start := time.Now()
			for _, name := range tt.killed {
				if name == "router" {
					l.startRouter()
					continue
				}
				l.startNode(name, store)
			}
			for _, n := range nodes {
				l.established(n.name, 6)
				l.swept(n.name)
			}
			l.established("router", 6)
			l.swept("router")
			t.Logf("converged %v after the restart", time.Since(start))
			for name, stop := range map[string]func() (int, int){"IPv4": stop4, "IPv6": stop6} {
				if sent, lost := stop(); lost != 0 {
					t.Errorf("%s: %d of %d packets lost", name, lost, sent)
				}
			}
		})
	}
}

// swept waits until a node no longer holds routes of an earlier run.
func (l *lab) swept(name string) {
	l.t.Helper()
	client := l.status(name)
	l.until(name+" to end its restart", func() (bool, string) {
		st, err := client.Status(l.t.Context(), &nodestatus.StatusRequest{})
		if err != nil {
			return false, err.Error()
		}
		return !st.Restarting, "still restarting; " + strings.Join(st.Problems, "; ")
	})
}

// TestPlaceThatAnotherProgramHoldsIsTakenWhenItIsFree: the kernel's event tells of it, long
// before the kernel would be read anyway, which is every minute.
func TestPlaceThatAnotherProgramHoldsIsTakenWhenItIsFree(t *testing.T) {
	l := newLab(t)
	l.run("node1", "ip", "route", "add", "10.65.2.0/26", "via", "10.1.1.254", "proto", "bird")
	for _, name := range []string{"node1", "node2"} {
		l.startNode(name, stored(t, resources()))
	}
	l.learned("node1", "fd65:2::/122")
	l.until("the place to be named", func() (bool, string) {
		st, err := l.status("node1").Status(t.Context(), &nodestatus.StatusRequest{})
		says := strings.Join(st.GetProblems(), "\n")
		return strings.Contains(says, "10.65.2.0/26 is not installed: another program's route holds its place: via 10.1.1.254 dev eth0 proto 12 (BIRD)"), fmt.Sprint(says, err)
	})
	freed := time.Now()
	l.run("node1", "ip", "route", "del", "10.65.2.0/26", "proto", "bird")
	l.learned("node1", "10.65.2.0/26")
	if took := time.Since(freed); took > 20*time.Second {
		t.Errorf("the place was taken after %v", took)
	}
}

func TestRouteTakenAwayBySomeoneElseComesBack(t *testing.T) {
	l, _ := upLab(t)
	l.run("node1", "ip", "route", "del", "10.65.3.0/26")
	l.run("node1", "ip", "-6", "route", "del", "fd65:3::/122")
	l.learned("node1", "10.65.3.0/26", "fd65:3::/122")
}

// TestNextHopsFollowTheNodesRoutes moves node1's way to node3 and switches its
// link off and on.
func TestNextHopsFollowTheNodesRoutes(t *testing.T) {
	l, _ := upLab(t)
	via := func(what, want string) {
		t.Helper()
		l.until(what, func() (bool, string) {
			out := l.run("node1", "ip", "route", "show", "10.65.3.0/26")
			if want == "" {
				return out == "", out
			}
			return strings.Contains(out, want), out
		})
	}
	via("the default router", "via 10.1.1.254 ")
	l.run("node1", "ip", "route", "add", "10.1.2.0/24", "via", "10.1.1.12")
	via("the more specific route", "via 10.1.1.12 ")
	l.run("node1", "ip", "route", "del", "10.1.2.0/24")
	via("the default router again", "via 10.1.1.254 ")
	l.run("node1", "ip", "route", "del", "default")
	via("no way", "")
	resp, err := l.status("node1").Routes(t.Context(), &nodestatus.RoutesRequest{Prefix: "10.65.3.0/26"})
	if err != nil || len(resp.Routes) != 1 || resp.Routes[0].Kernel != "" ||
		!strings.HasSuffix(resp.Routes[0].Reason, "not installed: next hop 10.1.2.13 is unreachable: no route to it") {
		t.Errorf("route %v, %v: want it shown with the reason", resp, err)
	}
	l.run("node1", "ip", "route", "add", "default", "via", "10.1.1.254")
	via("the default router once more", "via 10.1.1.254 ")
	l.run("node1", "ip", "link", "set", "eth0", "down")
	l.run("node1", "ip", "link", "set", "eth0", "up")
	l.run("node1", "ip", "route", "add", "default", "via", "10.1.1.254")
	via("the link to be back", "via 10.1.1.254 ")
	l.learned("node1", "10.65.2.0/26")
}

func TestNodeWithoutResourceWaitsAndSaysSo(t *testing.T) {
	l := newLab(t)
	l.startNode("node1", stored(t, nil))
	client := l.status("node1")
	l.until("the datastore to be read", func() (bool, string) {
		st, err := client.Status(t.Context(), &nodestatus.StatusRequest{})
		if err != nil {
			return false, err.Error()
		}
		return len(st.Problems) == 1 && strings.HasPrefix(st.Problems[0], "there is no Node node1: create it"), st.String()
	})
	peers, err := client.Peers(t.Context(), &nodestatus.PeersRequest{})
	if err != nil || len(peers.Peers) != 0 {
		t.Errorf("peers %v, %v", peers, err)
	}
	routes, err := client.Routes(t.Context(), &nodestatus.RoutesRequest{})
	if err != nil || len(routes.Routes) != 0 {
		t.Errorf("routes %v, %v", routes, err)
	}
	if _, err := client.Routes(t.Context(), &nodestatus.RoutesRequest{Prefix: "junk"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("routes of junk: %v", err)
	}
	if fi, err := os.Stat(l.socket("node1")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("status socket %v, %v: want mode 0600", fi, err)
	}
}

// TestPeerThatIsDownIsShownWithTheCause: only node1 runs.
func TestPeerThatIsDownIsShownWithTheCause(t *testing.T) {
	l := newLab(t)
	l.startNode("node1", stored(t, resources()))
	client := l.status("node1")
	l.until("causes", func() (bool, string) {
		resp, err := client.Peers(t.Context(), &nodestatus.PeersRequest{})
		if err != nil {
			return false, err.Error()
		}
		got := ""
		for _, p := range resp.Peers {
			got += p.Name + ": " + p.Info + "\n"
		}
		return strings.Contains(got, "node2: connection refused: no BGP speaker listens on port 179 of 10.1.1.12\n") &&
			strings.Contains(got, "router-node1-v6: connection refused: no BGP speaker listens on port 179 of fd01::fe\n"), got
	})
}
