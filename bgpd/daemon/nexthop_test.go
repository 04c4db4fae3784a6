package daemon_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
)

// TestNextHopModesAgainstBIRD: node1 is a reflector of node2 and node3 and passes on to
// BIRD what they advertise; node2 is on the segment of both, node3 is not.
func TestNextHopModesAgainstBIRD(t *testing.T) {
	inTurn := func(peer *v3.BGPPeer, mode string) *v3.BGPPeer {
		peer = peer.DeepCopy()
		m := v3.NextHopMode(mode)
		peer.Spec.NextHopMode = &m
		return peer
	}
	reflector := &v3.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "reflector"}, Spec: v3.BGPPeerSpec{NodeSelector: "all()", PeerSelector: "has(rr)"}}
	tor := torPeer("tor-v4", "10.1.1.254", nil)
	l := newTorLab(t, torSessions("", ""), reflector, tor, torPeer("tor-v6", "fd01::fe", nil))
	for _, o := range l.objects {
		if n, ok := o.(*api.Node); ok && n.Name == "node1" {
			n.Labels, n.Spec.BGP.RouteReflectorClusterID = map[string]string{"rr": ""}, "244.0.0.1"
		}
	}
	for _, name := range []string{"node1", "node2", "node3"} {
		l.startNode(name, l.content())
	}
	up := l.peer("the session to BIRD", "tor-v4", isUp)
	for _, tt := range []struct {
		mode, node2, node3 string // the next hops of their blocks, as BIRD is told
	}{
		{"Auto", "10.1.1.12", "10.1.1.11"},
		{"Self", "10.1.1.11", "10.1.1.11"},
		{"Keep", "10.1.1.12", "10.1.2.13"},
	} {
		l.have(inTurn(tor, tt.mode))
		l.write()
		l.nextHopAtBIRD("10.65.2.0/26", tt.node2)
		l.nextHopAtBIRD("10.65.3.0/26", tt.node3)
		l.nextHopAtBIRD("10.65.1.0/26", "10.1.1.11") // node1's own
	}
	l.have(torPeer("tor-v4", "10.1.1.254", func(s *v3.BGPPeerSpec) { s.KeepOriginalNextHop = true }))
	l.write()
	l.nextHopAtBIRD("10.65.3.0/26", "10.1.2.13")
	if now := l.peer("the session to BIRD", "tor-v4", isUp); now.Since != up.Since {
		t.Error("the session was reset")
	}
	l.nextHopAt("node2", "10.65.3.0/26", "10.1.2.13")
	l.nextHopAt("node2", "fd65:3::/122", "fd02::13")
	l.have(inTurn(reflector, "Self"))
	l.write()
	l.nextHopAt("node2", "10.65.3.0/26", "10.1.1.11")
	l.nextHopAt("node2", "fd65:3::/122", "fd01::11")
}

// nextHopAtBIRD waits until BIRD has a route with this next hop.
func (l *torLab) nextHopAtBIRD(prefix, want string) {
	l.t.Helper()
	line := regexp.MustCompile(`BGP.next_hop: ` + regexp.QuoteMeta(want) + `\n`)
	l.until("next hop "+want+" of "+prefix, func() (bool, string) {
		out := l.birdRoute(prefix)
		return line.MatchString(out), out
	})
}

// birdRoute is what BIRD says of a prefix.
func (l *torLab) birdRoute(prefix string) string {
	l.t.Helper()
	var out []byte
	err := l.ns["router"].Do(func() error {
		// It fails where there is no route.
		out, _ = exec.Command("birdc", "-s", filepath.Join(l.dir, "bird.ctl"), "show", "route", "all", prefix).CombinedOutput()
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return string(out)
}

// nextHopAt waits until a node's best path has this next hop.
func (l *torLab) nextHopAt(node, prefix, want string) {
	l.t.Helper()
	client := l.status(node)
	l.until("next hop "+want+" of "+prefix+" at "+node, func() (bool, string) {
		resp, err := client.Routes(l.t.Context(), &nodestatus.RoutesRequest{Prefix: prefix})
		if err != nil {
			return false, err.Error()
		}
		return len(resp.Routes) == 1 && resp.Routes[0].NextHop == want, resp.String()
	})
}
