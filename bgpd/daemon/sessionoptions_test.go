package daemon_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
)

// annotated is a session of node1 to the router, with annotations by name and value.
func annotated(name, address string, annotations ...string) *v3.BGPPeer {
	p := torPeer(name, address, nil)
	p.Annotations = map[string]string{}
	for i := 0; i < len(annotations); i += 2 {
		p.Annotations[annotations[i]] = annotations[i+1]
	}
	return p
}

// TestTimersAgainstBIRD: hold and keepalive time are offered, the lesser hold time counts,
// and a peer that falls silent is lost when it is over.
func TestTimersAgainstBIRD(t *testing.T) {
	l := newTorLab(t, torSessions("", "hold time 6;"),
		annotated("tor-v4", "10.1.1.254", api.AnnotationTimers, "hold=9s keepalive=2s connect=3s"),
		annotated("tor-v6", "fd01::fe", api.AnnotationTimers, "hold=9s"),
		annotated("wrong", "10.1.1.201", api.AnnotationTimers, "hold=1s"))
	l.startNode("node1", l.content())
	times := func(hold, keepalive, connect uint32) func(p *nodestatus.Peer) bool {
		return func(p *nodestatus.Peer) bool {
			return isUp(p) && p.HoldTime == hold && p.KeepaliveTime == keepalive && p.ConnectTime == connect
		}
	}
	l.peer("the timers of the annotation", "tor-v4", times(9, 2, 3))
	l.peer("the lesser hold time, which is BIRD's", "tor-v6", times(6, 2, 1))
	for session, want := range map[string]string{"v4": "/9\n", "v6": "/6\n"} {
		out := l.birdc("show", "protocols", "all", session)
		_, line, _ := strings.Cut(out, "Hold timer:")
		if line, _, _ = strings.Cut(line, "\n"); !strings.HasSuffix(line+"\n", want) {
			t.Errorf("BIRD's hold timer of %s is %q, want %q", session, line, want)
		}
	}
	l.problem("BGPPeer wrong", "annotation tortie/timers", "hold 1s: want 3s to", "its sessions have the default timers")
	l.peer("the defaults in place of what makes no sense", "wrong", func(p *nodestatus.Peer) bool {
		return p.HoldTime == 90 && p.KeepaliveTime == 30 && p.ConnectTime == 1
	})

	// Longer than any test waits with the default.
	if err := l.proc["bird"].Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	l.peer("the loss of a silent peer", "tor-v4", func(p *nodestatus.Peer) bool { return !isUp(p) })
	if err := l.proc["bird"].Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	l.peer("the session again", "tor-v4", times(9, 2, 3))
}

// manyPaths are a prefix that BIRD has from two routers, of which it tells both.
const manyPaths = `
protocol static one { ipv4; route 10.201.0.0/24 via 10.1.1.12; }
protocol static two { ipv4; route 10.201.0.0/24 via 10.1.1.13; }
protocol static one6 { ipv6; route fd21::/64 via fd01::12; }
protocol static two6 { ipv6; route fd21::/64 via fd01::13; }
protocol bgp v4 from node { local 10.1.1.254; neighbor 10.1.1.11 as 64512; ipv4 { import all; export filter own; add paths tx; }; }
protocol bgp v6 from node { local fd01::fe; neighbor fd01::11 as 64512; ipv6 { import all; export filter own; add paths tx; }; }
`

// TestAddPathAgainstBIRD: several paths of one peer to a prefix all count, one is taken
// back without the others, and without the annotation the peer tells its best alone.
func TestAddPathAgainstBIRD(t *testing.T) {
	prefixes := map[string]string{"10.201.0.0/24": "10.1.1.", "fd21::/64": "fd01::"}
	l := newTorLab(t, manyPaths, torPeer("tor-v4", "10.1.1.254", nil), torPeer("tor-v6", "fd01::fe", nil))
	l.startNode("node1", l.content())
	for prefix, net := range prefixes {
		l.via("node1", prefix, net+"12")
		l.sent("node1", prefix, 1)
	}
	l.have(annotated("tor-v4", "10.1.1.254", api.AnnotationAddPath, "on"), annotated("tor-v6", "fd01::fe", api.AnnotationAddPath, "on"))
	l.write()
	for _, name := range []string{"tor-v4", "tor-v6"} {
		l.peer("add-path on the session "+name, name, func(p *nodestatus.Peer) bool { return isUp(p) && p.AddPath })
	}
	for prefix, net := range prefixes {
		l.via("node1", prefix, net+"12", net+"13")
		for _, route := range l.sent("node1", prefix, 2) {
			if !route.Best || !strings.Contains(route.Reason, "one of 2 equal paths") {
				t.Errorf("%s: a path that is as good as the other is shown so: %v", prefix, route)
			}
		}
		why, err := l.status("node1").Why(t.Context(), &nodestatus.WhyRequest{Prefix: prefix})
		if err != nil {
			t.Fatal(err)
		}
		if len(why.Paths) != 2 || why.Decision != "2 paths are equally good" {
			t.Errorf("%s: why says %v", prefix, why)
		}
	}

	for _, protocol := range []string{"two", "two6"} {
		l.birdc("disable", protocol)
	}
	for prefix, net := range prefixes {
		l.via("node1", prefix, net+"12")
		l.sent("node1", prefix, 1)
	}
	for _, protocol := range []string{"two", "two6"} {
		l.birdc("enable", protocol)
	}
	for prefix, net := range prefixes {
		l.via("node1", prefix, net+"12", net+"13")
	}

	// A filter looks at each path.
	none := &api.BGPFilter{ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: api.BGPFilterSpec{ImportV4: []api.BGPFilterRule{
		{CIDR: "10.201.0.0/24", Operator: v3.In, Action: v3.Reject},
	}}}
	filtered := annotated("tor-v4", "10.1.1.254", api.AnnotationAddPath, "on")
	filtered.Spec.Filters = []string{"none"}
	l.have(none, filtered)
	l.write()
	l.until("both paths to be refused", func() (bool, string) {
		out := l.run("node1", "ip", "route", "show", "proto", "81")
		return !strings.Contains(out, "10.201.0.0/24"), out
	})
	l.sent("node1", "10.201.0.0/24", 2)
	l.via("node1", "fd21::/64", "fd01::12", "fd01::13")
}

// TestAddPathOutlivesARestartOfThePeer: all its paths are kept while it restarts, and what
// it doesn't tell again goes, the others stay.
func TestAddPathOutlivesARestartOfThePeer(t *testing.T) {
	sessions := strings.ReplaceAll(manyPaths, "from node { local", "from node { graceful restart on; graceful restart time 60; local")
	// BIRD tells nothing before all its sessions are back.
	l := newTorLab(t, sessions, annotated("tor-v4", "10.1.1.254", api.AnnotationAddPath, "on"), torPeer("tor-v6", "fd01::fe", nil))
	l.startNode("node1", l.content())
	l.via("node1", "10.201.0.0/24", "10.1.1.12", "10.1.1.13")
	l.peer("the other session", "tor-v6", isUp)
	l.end("bird", syscall.SIGKILL)
	l.peer("the loss of the peer", "tor-v4", func(p *nodestatus.Peer) bool { return !isUp(p) })
	l.via("node1", "10.201.0.0/24", "10.1.1.12", "10.1.1.13")
	l.startBIRDIn("router", tor+strings.Replace(sessions, "route 10.201.0.0/24 via 10.1.1.13;", "", 1), "-R")
	l.peer("the session again", "tor-v4", isUp)
	l.via("node1", "10.201.0.0/24", "10.1.1.12")
	l.sent("node1", "10.201.0.0/24", 1)
}

// via waits until a node's route to a prefix leads to these routers and to no others.
func (l *lab) via(node, prefix string, gateways ...string) {
	l.t.Helper()
	l.until("the route to "+prefix, func() (bool, string) {
		out := l.run(node, "ip", "route", "show", prefix)
		if strings.Contains(prefix, ":") {
			out = l.run(node, "ip", "-6", "route", "show", prefix)
		}
		for _, gw := range gateways {
			if !strings.Contains(out, "via "+gw+" ") {
				return false, fmt.Sprintf("not via %s: %s", gw, out)
			}
		}
		return strings.Count(out, "via ") == len(gateways), out
	})
}

// sent waits until a node's peers have sent so many paths to a prefix, and returns them.
func (l *lab) sent(node, prefix string, paths int) (routes []*nodestatus.Route) {
	l.t.Helper()
	client := l.status(node)
	l.until("the paths to "+prefix, func() (bool, string) {
		answer, err := client.Routes(l.t.Context(), &nodestatus.RoutesRequest{Prefix: prefix, Table: nodestatus.Table_ADJ_IN})
		if err != nil {
			return false, err.Error()
		}
		routes = answer.Routes
		return len(routes) == paths, fmt.Sprint(routes)
	})
	return routes
}

// longLivedTor is BIRD with sessions that have long-lived graceful restart: of its two
// prefixes one must not be kept that long.
const longLivedTor = `
filter marked { if source = RTS_STATIC then { if net = 10.202.0.0/24 then bgp_community.add((65535, 7)); accept; } reject; }
protocol static more { ipv4; route 10.202.0.0/24 blackhole; route 10.203.0.0/24 blackhole; }
protocol bgp v4 from node {
  local 10.1.1.254; neighbor 10.1.1.11 as 64512;
  graceful restart on; graceful restart time 2; long lived graceful restart on; long lived stale time 3600;
  ipv4 { import all; export filter marked; };
}
`

// secondTor announces one of the prefixes, too, by a longer AS path.
const secondTor = `
log stderr { info, warning, error, fatal };
router id 10.1.1.12;
protocol device { scan time 1; }
protocol static s4 { ipv4; route 10.203.0.0/24 blackhole; }
filter longer { bgp_path.prepend(64998); bgp_path.prepend(64998); accept; }
protocol bgp v4 { local 10.1.1.12 as 64998; neighbor 10.1.1.11 as 64512; connect delay time 1; ipv4 { import none; export filter longer; }; }
`

// TestLongLivedRestartAgainstBIRD: what a peer has announced that stays away for longer
// than its restart time is kept, marked, as the last choice; what forbids that is not.
// Our own time bounds what the peer asks for.
func TestLongLivedRestartAgainstBIRD(t *testing.T) {
	other := torPeer("other", "10.1.1.12", func(s *v3.BGPPeerSpec) { s.ASNumber = 64998 })
	l := newTorLab(t, longLivedTor, annotated("tor", "10.1.1.254", api.AnnotationLongLived, "15s"), other)
	l.startBIRDOf("node2", secondTor)
	l.startNode("node1", l.content())
	l.peer("the session with long-lived restart", "tor", func(p *nodestatus.Peer) bool { return isUp(p) && p.LongLivedRestart })
	l.peer("the session without", "node2", func(p *nodestatus.Peer) bool { return isUp(p) && !p.LongLivedRestart })
	if out := l.birdc("show", "protocols", "all", "v4"); !strings.Contains(out, "Long-lived graceful restart") || !strings.Contains(out, "LL stale time: 15") {
		t.Errorf("BIRD has heard of no long-lived restart of 15 s:\n%s", out)
	}
	for _, prefix := range []string{"10.200.0.0/24", "10.202.0.0/24", "10.203.0.0/24"} {
		l.via("node1", prefix, "10.1.1.254")
	}
	l.end("bird", syscall.SIGKILL)
	l.until("the end of what must not be kept", func() (bool, string) {
		out := l.run("node1", "ip", "route", "show", "proto", "81")
		return !strings.Contains(out, "10.202.0.0/24"), out
	})
	l.until("the path of the last choice to be shown so", func() (bool, string) {
		routes, err := l.status("node1").Routes(t.Context(), &nodestatus.RoutesRequest{Prefix: "10.200.0.0/24"})
		return err == nil && strings.Contains(fmt.Sprint(routes), "kept for a peer that has long been away"), fmt.Sprint(routes, err)
	})
	l.via("node1", "10.200.0.0/24", "10.1.1.254")
	l.via("node1", "10.203.0.0/24", "10.1.1.12") // longer, but of a peer that is there
	why, err := l.status("node1").Why(t.Context(), &nodestatus.WhyRequest{Prefix: "10.203.0.0/24"})
	if err != nil || !strings.Contains(why.Decision, "RFC 9494") {
		t.Errorf("why says %v, %v", why, err)
	}
	l.until("the end of our own time", func() (bool, string) {
		out := l.run("node1", "ip", "route", "show", "proto", "81")
		return !strings.Contains(out, "10.200.0.0/24"), out
	})

	l.startBIRDIn("router", tor+longLivedTor)
	for _, prefix := range []string{"10.200.0.0/24", "10.202.0.0/24", "10.203.0.0/24"} {
		l.via("node1", prefix, "10.1.1.254")
	}
}

// TestBIRDKeepsRoutesOfNodeThatIsLongAway: and a filter that changes withdraws from a
// peer that would take a route marked as stale for a route.
func TestBIRDKeepsRoutesOfNodeThatIsLongAway(t *testing.T) {
	peer := func(filters ...string) *v3.BGPPeer {
		p := annotated("tor", "10.1.1.254", api.AnnotationLongLived, "1h")
		p.Spec.Filters = filters
		p.Spec.MaxRestartTime = &metav1.Duration{Duration: 2 * time.Second}
		return p
	}
	l := newTorLab(t, longLivedTor, peer())
	l.startNode("node1", l.content())
	up := func() {
		t.Helper()
		l.peer("the session", "tor", func(p *nodestatus.Peer) bool { return isUp(p) && p.LongLivedRestart })
	}
	announced := func(what string, is bool, with string) {
		t.Helper()
		l.until(what, func() (bool, string) {
			out := l.birdRoute("10.65.1.0/26")
			return strings.Contains(out, "[v4") == is && strings.Contains(out, with), out
		})
	}
	up()
	announced("the block at BIRD", true, "")
	reject := &api.BGPFilter{ObjectMeta: metav1.ObjectMeta{Name: "nothing"}, Spec: api.BGPFilterSpec{ExportV4: []api.BGPFilterRule{{Action: v3.Reject}}}}
	l.have(reject, peer("nothing"))
	l.write()
	announced("the withdrawal", false, "")
	up()
	l.have(peer())
	l.write()
	announced("the block at BIRD again", true, "")
	up()
	l.end("node1", syscall.SIGKILL)
	announced("the block to be kept as stale for long", true, "(65535,6)")
}
