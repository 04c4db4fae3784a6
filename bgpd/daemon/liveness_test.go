package daemon

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/bfd"
	"tortie/bgpd/bfd/server"
	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/kernel"
)

var neighbour = netip.MustParseAddr("10.1.1.12")

// guarded is a liveness that watches over one neighbour, on a clock of its own.
type guarded struct {
	*liveness
	now    time.Time
	status bfd.Status
}

func newGuarded() *guarded {
	g := &guarded{liveness: newLiveness(), now: time.Unix(1000, 0)}
	g.expect([]topology.Peer{{Peer: speaker.Peer{Address: neighbour}, Name: "node2", BFD: api.DefaultBFD()}})
	g.place(func(netip.Addr) (int, bool) { return 2, true })
	return g
}

func (g *guarded) session(s speaker.Session) { g.bgp(neighbour, s, g.now) }

func (g *guarded) sees(change func(*bfd.Status)) []failed {
	change(&g.status)
	return g.detect(map[netip.Addr]bfd.Status{neighbour: g.status}, g.now)
}

func isUp(st *bfd.Status) {
	st.State, st.Peer, st.Diag, st.Detection, st.Multiplier = bfd.Up, bfd.Up, bfd.DiagNone, 900*time.Millisecond, 3
}

func isIndependent(st *bfd.Status) { isUp(st); st.Independent = true }

func isSilent(st *bfd.Status) {
	*st = bfd.Status{State: bfd.Down, Peer: bfd.Down, Diag: bfd.DiagExpired, Failures: st.Failures + 1}
}

func isSwitchedOff(st *bfd.Status) {
	st.State, st.Peer, st.Diag = bfd.Down, bfd.AdminDown, bfd.DiagNeighborDown
}

var (
	established = speaker.Session{Established: true, Graceful: true}
	restarting  = speaker.Session{Restarting: true, RestartTime: 120 * time.Second}
)

func TestBFDBeginsWhenBGPIsUpFirst(t *testing.T) {
	g := newGuarded()
	if got := g.sessions(); len(got) != 0 {
		t.Errorf("before BGP is up: %+v", got)
	}
	g.session(established)
	want := server.Peer{Address: neighbour, Link: 2, Timers: bfd.Timers{Transmit: 300 * time.Millisecond, Receive: 300 * time.Millisecond, Multiplier: 3}}
	if got := g.sessions(); len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	g.session(speaker.Session{})
	if got := g.sessions(); len(got) != 1 {
		t.Errorf("after BGP was lost: %+v", got)
	}
}

func TestBFDSwitchedOnLaterBeginsOnASessionThatIsUp(t *testing.T) {
	l := newLiveness()
	l.bgp(neighbour, established, time.Now())
	l.expect([]topology.Peer{{Peer: speaker.Peer{Address: neighbour}, BFD: api.DefaultBFD()}})
	l.place(func(netip.Addr) (int, bool) { return 2, true })
	if got := l.sessions(); len(got) != 1 {
		t.Errorf("sessions %+v", got)
	}
	l.expect(nil)
	if got := l.sessions(); len(got) != 0 {
		t.Errorf("switched off: %+v", got)
	}
}

func TestPeerBehindARouterHasNoBFD(t *testing.T) {
	g := newGuarded()
	g.peers[neighbour].link = 0
	g.place(func(netip.Addr) (int, bool) { return 0, false })
	g.session(established)
	if got := g.sessions(); len(got) != 0 {
		t.Errorf("sessions %+v", got)
	}
	if got := g.describeAll("")[neighbour]; got != "none: the peer is on no segment of this node" {
		t.Errorf("described as %q", got)
	}
}

func TestLinkThatFailsKeepsItsSession(t *testing.T) {
	g := newGuarded()
	g.session(established)
	g.place(func(netip.Addr) (int, bool) { return 0, false })
	if got := g.sessions(); len(got) != 1 || got[0].Link != 2 {
		t.Errorf("sessions %+v", got)
	}
}

// TestWhatAFailureMeansToBGP is RFC 5882 sections 3.2, 4.2 and 4.3.
func TestWhatAFailureMeansToBGP(t *testing.T) {
	for _, tt := range []struct {
		name    string
		happens func(*guarded) []failed
		dead    bool
		failed  bool
		reset   bool
	}{
		{"session that never came up", func(g *guarded) []failed {
			g.session(established)
			return g.sees(func(st *bfd.Status) { st.State, st.Diag = bfd.Down, bfd.DiagExpired })
		}, false, false, false},
		{"silence while BGP is up", func(g *guarded) []failed {
			g.session(established)
			g.sees(isUp)
			return g.sees(isSilent)
		}, true, true, true},
		{"switched off by the peer", func(g *guarded) []failed {
			g.session(established)
			g.sees(isUp)
			return g.sees(isSwitchedOff)
		}, false, false, false},
		{"silence while the peer restarts", func(g *guarded) []failed {
			g.session(established)
			g.sees(isUp)
			g.session(restarting)
			return g.sees(isSilent)
		}, false, false, false},
		{"silence while the peer restarts, whose BFD is independent of that", func(g *guarded) []failed {
			g.session(established)
			g.sees(isIndependent)
			g.session(restarting)
			return g.sees(isSilent)
		}, true, true, true},
		{"independent BFD that ends with the restart", func(g *guarded) []failed {
			g.session(established)
			g.sees(isIndependent)
			g.session(restarting)
			return g.sees(func(st *bfd.Status) { isSilent(st); st.Diag, st.PeerDiag = bfd.DiagNeighborDown, bfd.DiagNeighborDown })
		}, false, false, false},
		{"independent BFD that doesn't hear us while the peer restarts", func(g *guarded) []failed {
			g.session(established)
			g.sees(isIndependent)
			g.session(restarting)
			return g.sees(func(st *bfd.Status) { isSilent(st); st.Diag, st.PeerDiag = bfd.DiagNeighborDown, bfd.DiagExpired })
		}, true, true, true},
		{"silence just after BGP is back from a restart", func(g *guarded) []failed {
			g.session(established)
			g.sees(isUp)
			g.session(restarting)
			g.now = g.now.Add(300 * time.Millisecond)
			g.session(established)
			g.now = g.now.Add(900 * time.Millisecond)
			return g.sees(isSilent)
		}, false, false, false},
		{"silence long after that", func(g *guarded) []failed {
			g.session(established)
			g.sees(isUp)
			g.session(restarting)
			g.session(established)
			g.now = g.now.Add(2 * time.Second)
			return g.sees(isSilent)
		}, true, true, true},
		{"a second silence just after that", func(g *guarded) []failed {
			g.session(established)
			g.sees(isUp)
			g.session(restarting)
			g.session(established)
			g.sees(isSilent)
			g.sees(isUp)
			return g.sees(isSilent)
		}, true, true, true},
		{"silence after BGP ended otherwise", func(g *guarded) []failed {
			g.session(established)
			g.sees(isUp)
			g.session(speaker.Session{})
			return g.sees(isSilent)
		}, true, true, false},
		{"up again", func(g *guarded) []failed {
			g.session(established)
			g.sees(isUp)
			g.sees(isSilent)
			return g.sees(isUp)
		}, false, false, false},
		{"down and up again between two looks", func(g *guarded) []failed {
			g.session(established)
			g.sees(isUp)
			return g.sees(func(st *bfd.Status) { isUp(st); st.Failures++ })
		}, false, false, false},
		{"BGP comes up again without BFD", func(g *guarded) []failed {
			g.session(established)
			g.sees(isUp)
			g.sees(isSilent)
			g.session(speaker.Session{})
			g.session(established)
			return g.sees(func(*bfd.Status) {})
		}, false, false, false},
		{"BGP comes up again and nobody saw it go", func(g *guarded) []failed {
			g.session(established)
			g.sees(isUp)
			g.sees(isSilent)
			g.session(established)
			return g.sees(func(*bfd.Status) {})
		}, false, false, false},
		{"switched off after the failure", func(g *guarded) []failed {
			g.session(established)
			g.sees(isUp)
			g.sees(isSilent)
			return g.sees(isSwitchedOff)
		}, false, false, false},
		{"no longer wanted after the failure", func(g *guarded) []failed {
			g.session(established)
			g.sees(isUp)
			g.sees(isSilent)
			g.expect(nil)
			return nil
		}, false, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuarded()
			got := tt.happens(g)
			if dead := len(g.dead()) > 0; dead != tt.dead {
				t.Errorf("dead: %v, want %t", g.dead(), tt.dead)
			}
			if (len(got) > 0) != tt.failed || tt.failed && got[0].reset != tt.reset {
				t.Errorf("failed: %+v, want %t, reset %t", got, tt.failed, tt.reset)
			}
		})
	}
}

func TestStateOfBFDInWords(t *testing.T) {
	for _, tt := range []struct {
		want, problem string
		happens       func(*guarded)
	}{
		{"waiting for BGP", "", func(*guarded) {}},
		{"starting", "", func(g *guarded) { g.session(established) }},
		{"none: UDP port 3784 is taken", "UDP port 3784 is taken", func(g *guarded) { g.session(established) }},
		{"Up, 300ms x 3", "", func(g *guarded) { g.session(established); g.sees(isUp) }},
		{"Down: nothing was heard for 900ms", "", func(g *guarded) { g.session(established); g.sees(isUp); g.sees(isSilent) }},
		{"Down: switched off by the peer", "", func(g *guarded) { g.session(established); g.sees(isUp); g.sees(isSwitchedOff) }},
		{"Down: never heard from the peer; is BFD configured there?", "", func(g *guarded) {
			g.session(established)
			g.sees(func(st *bfd.Status) { st.State, st.Peer = bfd.Down, bfd.Down })
		}},
		{"Down: a packet of the peer was discarded: packet is authenticated, which is not supported", "", func(g *guarded) {
			g.session(established)
			g.sees(func(st *bfd.Status) { st.State, st.Peer, st.Discarded = bfd.Down, bfd.Down, bfd.DiscardAuthenticated })
		}},
		{"Down: can't send: sendmsg: no such device", "", func(g *guarded) {
			g.session(established)
			g.sees(isUp)
			g.sees(func(st *bfd.Status) { isSilent(st); st.Problem = "sendmsg: no such device" })
		}},
		{"Down: it says that it doesn't hear us", "", func(g *guarded) {
			g.session(established)
			g.sees(isUp)
			g.sees(func(st *bfd.Status) { isSilent(st); st.Diag, st.PeerDiag = bfd.DiagNeighborDown, bfd.DiagExpired })
		}},
		{"Down: it says that the session is down: path down", "", func(g *guarded) {
			g.session(established)
			g.sees(isUp)
			g.sees(func(st *bfd.Status) { isSilent(st); st.Diag, st.PeerDiag = bfd.DiagNeighborDown, 5 })
		}},
	} {
		g := newGuarded()
		tt.happens(g)
		if got := g.describeAll(tt.problem)[neighbour]; got != tt.want {
			t.Errorf("described as %q, want %q", got, tt.want)
		}
	}
}

// sensor is a detector that says what a test wants.
type sensor struct {
	wanted []server.Peer
	status map[netip.Addr]bfd.Status
}

func (s *sensor) Run(context.Context) error         { return nil }
func (s *sensor) Set(p []server.Peer)               { s.wanted = p }
func (s *sensor) Changed() <-chan struct{}          { return nil }
func (s *sensor) Status() map[netip.Addr]bfd.Status { return s.status }
func (s *sensor) Problem() string                   { return "" }

// TestDeadNeighbourIsNoNextHopWhoeverAnnouncedIt: node2 is announced by itself and,
// with its address as next hop, by a reflector.
func TestDeadNeighbourIsNoNextHopWhoeverAnnouncedIt(t *testing.T) {
	b := newBench(t)
	s := &sensor{}
	b.e.detector = s
	blocks := []string{"10.65.2.0/26", "10.65.2.64/26"}
	b.take(topology.Input{
		Nodes:      []*api.Node{node("node1", "10.1.1.11/24"), node("node2", "10.1.1.12/24")},
		Affinities: []*api.BlockAffinity{claim("node2", blocks[0]), claim("node2", blocks[1])},
		Configs: []*v3.BGPConfiguration{{ObjectMeta: metav1.ObjectMeta{
			Name: "default", Annotations: map[string]string{api.AnnotationBFD: "on"},
		}}},
	})
	c := speaker.Changes{Best: map[netip.Prefix]*speaker.Path{}, Peers: map[netip.Addr]speaker.Session{neighbour: established}}
	for i, peer := range []string{"10.1.1.12", "10.1.1.99"} {
		p := netip.MustParsePrefix(blocks[i])
		c.Best[p] = &speaker.Path{Prefix: p, NextHop: neighbour, Peer: netip.MustParseAddr(peer), Best: true}
	}
	b.e.learn(t.Context(), c)
	b.e.apply(t.Context())
	installed := func() int {
		routes, err := b.k.Routes(t.Context(), kernel.RouteFilter{Protocol: kernel.ProtocolBGP})
		if err != nil {
			t.Fatal(err)
		}
		return len(routes)
	}
	if n := installed(); n != 2 || len(s.wanted) != 1 || s.wanted[0].Address != neighbour {
		t.Fatalf("%d routes, BFD with %+v", n, s.wanted)
	}
	report := func(change func(*bfd.Status)) {
		st := s.status[neighbour]
		change(&st)
		s.status = map[netip.Addr]bfd.Status{neighbour: st}
		b.e.detect(t.Context())
	}
	report(isUp)
	b.logged()
	report(isSilent)
	if n := installed(); n != 0 || len(b.s.resets) != 1 || b.s.resets[0] != neighbour {
		t.Errorf("%d routes left, reset %v", n, b.s.resets)
	}
	if got := b.logged(); !strings.Contains(got, `msg="BFD session failed" peer=10.1.1.12 name=node2 cause="BFD with it failed: nothing was heard for 900ms" bgp-reset=true`) {
		t.Errorf("logged %s", got)
	}
	entry, _ := b.e.fib.Entry(netip.MustParsePrefix(blocks[0]))
	if got := entry.Problem; got != "next hop 10.1.1.12 is unreachable: BFD with it failed: nothing was heard for 900ms" {
		t.Errorf("problem of the route: %q", got)
	}
	report(isUp)
	b.e.apply(t.Context())
	if n := installed(); n != 2 {
		t.Errorf("%d routes when it is back", n)
	}
}

// sensed is a node with a neighbour and BFD.
func sensed(t *testing.T) (*bench, *sensor) {
	b, s := newBench(t), &sensor{}
	b.e.detector = s
	b.take(topology.Input{
		Nodes: []*api.Node{node("node1", "10.1.1.11/24"), node("node2", "10.1.1.12/24")},
		Configs: []*v3.BGPConfiguration{{ObjectMeta: metav1.ObjectMeta{
			Name: "default", Annotations: map[string]string{api.AnnotationBFD: "on"},
		}}},
	})
	return b, s
}

// TestPeerThatCouldNotBeResetIsToldAgain: the speaker may have lost it on the way.
func TestPeerThatCouldNotBeResetIsToldAgain(t *testing.T) {
	b, s := sensed(t)
	b.e.learn(t.Context(), speaker.Changes{Peers: map[netip.Addr]speaker.Session{neighbour: established}})
	st := bfd.Status{}
	for _, change := range []func(*bfd.Status){isUp, isSilent} {
		change(&st)
		s.status = map[netip.Addr]bfd.Status{neighbour: st}
		b.s.resetErr = errors.New("no peer any more")
		b.e.detect(t.Context())
	}
	if got := strings.Join(b.e.problems(), "\n"); !strings.Contains(got, "no peer any more") {
		t.Errorf("problems %q", got)
	}
	b.s.desired = speaker.Desired{}
	b.e.retry(t.Context())
	if len(b.s.desired.Peers) != 1 || len(b.e.problems()) != 0 {
		t.Errorf("the speaker was told %+v; problems %v", b.s.desired, b.e.problems())
	}
}

// TestNewsOfBeforeAFailureIsNoSignOfLife: an End-of-RIB that waits when BFD fails.
func TestNewsOfBeforeAFailureIsNoSignOfLife(t *testing.T) {
	b, s := sensed(t)
	news := speaker.Changes{Peers: map[netip.Addr]speaker.Session{neighbour: established}}
	b.e.learn(t.Context(), news)
	st := bfd.Status{}
	for _, change := range []func(*bfd.Status){isUp, isSilent} {
		change(&st)
		s.status, b.s.waiting = map[netip.Addr]bfd.Status{neighbour: st}, news
		b.e.detect(t.Context())
	}
	b.e.learn(t.Context(), b.s.Take())
	if b.e.live.dead()[neighbour] == "" {
		t.Error("the neighbour is taken to be alive")
	}
}
