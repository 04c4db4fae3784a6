package daemon_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/speaker"
	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
	"tortie/internal/kernel/kerneltest"
)

// tor is what BIRD is on the router: a top-of-rack router, AS 64999, with two prefixes
// of its own. A test adds the sessions.
const tor = `
log stderr { info, warning, error, fatal };
router id 10.1.1.254;
protocol device { scan time 1; }
protocol static s4 { ipv4; route 10.200.0.0/24 blackhole; }
protocol static s6 { ipv6; route fd20::/64 blackhole; }
filter own { if source = RTS_STATIC then accept; reject; }
template bgp node {
  local as 64999;
  connect delay time 1; connect retry time 2; error wait time 1, 3;
}
`

// torLab is node1 with BIRD as its router.
type torLab struct {
	*lab
	objects map[string]api.Object
}

// newTorLab makes one without sessions: those of BIRD, and the node's resources.
func newTorLab(t *testing.T, sessions string, more ...api.Object) *torLab {
	if _, err := exec.LookPath("bird"); err != nil {
		kerneltest.Require(t, "the BIRD routing daemon (Debian package bird2)")
	}
	l := torLabOf(newLab(t), more...)
	l.startBIRDIn("router", tor+sessions)
	return l
}

// torLabOf has a node's resources without mesh and peers, and more.
func torLabOf(of *lab, more ...api.Object) *torLab {
	l := &torLab{lab: of, objects: map[string]api.Object{}}
	l.have(resources()...)
	for name, o := range l.objects {
		if _, peer := o.(*v3.BGPPeer); peer {
			delete(l.objects, name)
		}
	}
	off := false
	l.have(&v3.BGPConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.BGPConfigurationSpec{NodeToNodeMeshEnabled: &off}})
	l.have(more...)
	return l
}

// have adds resources, or puts them in the place of others.
func (l *torLab) have(objects ...api.Object) {
	for _, o := range objects {
		l.objects[fmt.Sprintf("%T %s", o, o.GetName())] = o
	}
}

func (l *torLab) content() map[string]string {
	l.t.Helper()
	var all []api.Object
	for o := range maps.Values(l.objects) {
		all = append(all, o)
	}
	return stored(l.t, all)
}

// write makes the datastore of node1 hold what there is.
func (l *torLab) write() { l.t.Helper(); l.store("node1", l.content()) }

// reconfigure gives BIRD other sessions.
func (l *torLab) reconfigure(sessions string) {
	l.t.Helper()
	l.birdConfig(tor + sessions)
	l.run("router", "birdc", "-s", filepath.Join(l.dir, "bird.ctl"), "configure")
}

// password writes a file <secret>/<key>.
func (l *torLab) password(secret, key, value string) {
	l.t.Helper()
	folder := filepath.Join(l.passwords(), secret)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, key), []byte(value), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// peer waits for a peer of node1, by name or address, that is as asked.
func (l *torLab) peer(what, name string, met func(p *nodestatus.Peer) bool) *nodestatus.Peer {
	l.t.Helper()
	client := l.status("node1")
	var found *nodestatus.Peer
	l.until(what, func() (bool, string) {
		resp, err := client.Peers(l.t.Context(), &nodestatus.PeersRequest{})
		if err != nil {
			return false, err.Error()
		}
		for _, p := range resp.Peers {
			if p.Name == name || p.Address == name {
				found = p
				return met(p), fmt.Sprintf("%s %s: %s", p.Address, p.State, p.Info)
			}
		}
		return false, name + " is no peer"
	})
	return found
}

func isUp(p *nodestatus.Peer) bool { return p.State == string(speaker.Established) }

// problem waits for one of node1's that has all these words.
func (l *torLab) problem(words ...string) {
	l.t.Helper()
	client := l.status("node1")
	l.until("the problem", func() (bool, string) {
		resp, err := client.Status(l.t.Context(), &nodestatus.StatusRequest{})
		if err != nil {
			return false, err.Error()
		}
		for _, p := range resp.Problems {
			all := true
			for _, w := range words {
				all = all && strings.Contains(p, w)
			}
			if all {
				return true, ""
			}
		}
		return false, fmt.Sprintf("none of %q has %q", resp.Problems, words)
	})
}

// torPeer is a session of node1 to the router.
func torPeer(name, address string, change func(s *v3.BGPPeerSpec)) *v3.BGPPeer {
	p := &v3.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v3.BGPPeerSpec{Node: "node1", PeerIP: address, ASNumber: routerASN}}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

const (
	tor4 = `protocol bgp v4 from node { local 10.1.1.254; neighbor 10.1.1.11 as 64512; ipv4 { import all; export filter own; }; %s }
`
	tor6 = `protocol bgp v6 from node { local fd01::fe; neighbor fd01::11 as 64512; ipv6 { import all; export filter own; }; %s }
`
)

// torSessions are one for each family, with more said of each.
func torSessions(more4, more6 string) string {
	return fmt.Sprintf(tor4, more4) + fmt.Sprintf(tor6, more6)
}
