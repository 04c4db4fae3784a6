package daemon

import (
	"fmt"
	"net/netip"
	"time"

	"tortie/bgpd/bfd"
	"tortie/bgpd/bfd/server"
	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
)

// liveness decides what BFD means for BGP: which sessions there are, and what
// follows from one that fails (RFC 5882). It is a pure state machine, told the time.
type liveness struct {
	peers map[netip.Addr]*watched
	up    map[netip.Addr]bool // every BGP session that is, wanted with BFD or not
}

// watched is a peer that BFD is wanted with.
type watched struct {
	peer topology.Peer
	// link is where the peer is a neighbour; 0 as long as it has been none. It stays when
	// the link fails: that is what BFD is there to find.
	link int
	// begun: a BGP session has been up. Before, there is nothing to watch over, and a
	// peer that keeps our routes through a restart must not take our first packets for
	// a failure (RFC 5882 section 4.3.2.2).
	begun       bool
	established bool
	// restarting: BGP was lost in a way that lets the peer's routes be kept.
	restarting bool
	// excused is until when a failure may be the other side's restart, whose BGP was
	// quicker than its BFD; zero when there was none.
	excused time.Time

	last bfd.Status
	// independent and detection are those of when the session was last up.
	independent bool
	detection   time.Duration
	// dead is why nothing may be sent by this neighbour; empty when it may.
	dead string
}

// slack is what a peer's packets may be late when its BFD starts anew.
const slack = time.Second

func newLiveness() *liveness {
	return &liveness{peers: map[netip.Addr]*watched{}, up: map[netip.Addr]bool{}}
}

// expect says which peers there are.
func (l *liveness) expect(peers []topology.Peer) {
	wanted := map[netip.Addr]bool{}
	for _, p := range peers {
		if !p.BFD.On() || wanted[p.Address] {
			continue
		}
		wanted[p.Address] = true
		if l.peers[p.Address] == nil {
			l.peers[p.Address] = &watched{begun: l.up[p.Address], established: l.up[p.Address]}
		}
		l.peers[p.Address].peer = p
	}
	for a := range l.peers {
		if !wanted[a] {
			delete(l.peers, a)
		}
	}
}

// place finds the links of peers; neighbour tells that of an address on one of our
// segments.
func (l *liveness) place(neighbour func(netip.Addr) (link int, ok bool)) {
	for a, w := range l.peers {
		if link, ok := neighbour(a); ok {
			w.link = link
		}
	}
}

// sessions are those that BFD has to run.
func (l *liveness) sessions() []server.Peer {
	var out []server.Peer
	for a, w := range l.peers {
		if w.begun && w.link != 0 {
			t := bfd.Timers{Transmit: w.peer.BFD.Interval, Receive: w.peer.BFD.Interval, Multiplier: w.peer.BFD.Multiplier}
			out = append(out, server.Peer{Address: a, Local: w.peer.LocalAddress, Link: w.link, Timers: t})
		}
	}
	return out
}

// bgp notes what has become of a BGP session.
func (l *liveness) bgp(addr netip.Addr, s speaker.Session, now time.Time) {
	delete(l.up, addr)
	if s.Established {
		l.up[addr] = true
	}
	w := l.peers[addr]
	if w == nil {
		return
	}
	switch {
	case s.Established && !w.established:
		w.begun = true
		// The peer answers: that BFD doesn't may have many reasons, and must not cut it off
		// for good.
		w.dead = ""
		if w.restarting && !w.independent && w.last.State == bfd.Up {
			w.excused = now.Add(w.detection + slack)
		}
	case !s.Established && w.established:
		w.excused = time.Time{}
	}
	w.established, w.restarting = s.Established, s.Restarting
}

// failed is a peer whose BFD session has failed.
type failed struct {
	peer topology.Peer
	why  string
	// reset: its BGP session is to be ended, and what it has announced to go.
	reset bool
}

// detect takes over the sessions' states, and returns what has failed since.
func (l *liveness) detect(status map[netip.Addr]bfd.Status, now time.Time) []failed {
	var out []failed
	for a, w := range l.peers {
		st, ok := status[a]
		if !ok {
			w.last, w.dead = bfd.Status{}, ""
			continue
		}
		was := w.last
		w.last = st
		switch {
		case st.State == bfd.Up:
			w.independent, w.detection, w.dead = st.Independent, st.Detection, ""
			if was.State != bfd.Up {
				w.excused = time.Time{}
			}
		case st.Peer == bfd.AdminDown:
			w.dead = "" // somebody's will, and no failure (RFC 5882 section 3.2)
		case st.Failures > was.Failures:
			if f, counts := w.fail(st, now); counts {
				out = append(out, f)
			}
		}
	}
	return out
}

// fail decides what follows from a failure. A BFD session that dies with the control
// plane doesn't tell a restart, which BGP has seen, from a failure of forwarding: it
// ends no graceful restart (RFC 5882 section 4.3.2). One that is independent does
// (section 4.3.1), if it is the path that has failed: FRR's session ends with its bgpd,
// the C bit notwithstanding. Ours is not independent, but it is not we who have
// restarted.
func (w *watched) fail(st bfd.Status, now time.Time) (failed, bool) {
	if w.restarting && !(w.independent && pathFailed(st)) || now.Before(w.excused) {
		return failed{}, false
	}
	w.dead = fmt.Sprintf("BFD with it failed: %s", reason(st, w.detection))
	f := failed{peer: w.peer, why: w.dead, reset: w.established || w.restarting}
	// What is heard of BGP from here on is of the session after the reset.
	w.established, w.restarting = false, false
	return f, true
}

// pathFailed: packets were lost, as far as the two sides say.
func pathFailed(st bfd.Status) bool {
	switch st.PeerDiag {
	case bfd.DiagNone, bfd.DiagNeighborDown, bfd.DiagAdminDown:
		return st.Diag == bfd.DiagExpired
	}
	return true
}

func reason(st bfd.Status, detection time.Duration) string {
	switch st.Diag {
	case bfd.DiagExpired:
		return fmt.Sprintf("nothing was heard for %s", detection)
	case bfd.DiagNeighborDown:
		return heard(st.PeerDiag)
	}
	return st.Diag.String()
}

// heard is why a peer says that the session is down.
func heard(d bfd.Diag) string {
	switch d {
	case bfd.DiagExpired:
		return "it says that it doesn't hear us"
	case bfd.DiagNone:
		return "it says that the session is down, and not why"
	}
	return "it says that the session is down: " + d.String()
}

// dead are the neighbours that nothing may be sent by, and why.
func (l *liveness) dead() map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for a, w := range l.peers {
		if w.dead != "" {
			out[a] = w.dead
		}
	}
	return out
}

// describeAll is the state of BFD with every peer that it is wanted with, in words.
// The problem is why sessions can't run.
func (l *liveness) describeAll(problem string) map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for a, w := range l.peers {
		out[a] = w.describe(problem)
	}
	return out
}

func (w *watched) describe(problem string) string {
	switch st := w.last; {
	case w.link == 0:
		return "none: the peer is on no segment of this node"
	case !w.begun:
		return "waiting for BGP"
	case st == bfd.Status{} && problem != "":
		return "none: " + problem
	case st == bfd.Status{}:
		return "starting"
	case st.State == bfd.Up:
		return fmt.Sprintf("Up, %s x %d", st.Detection/time.Duration(st.Multiplier), st.Multiplier)
	case st.Problem != "":
		return fmt.Sprintf("%s: can't send: %s", st.State, st.Problem)
	case st.Peer == bfd.AdminDown:
		return fmt.Sprintf("%s: switched off by the peer", st.State)
	case st.Discarded != 0:
		return fmt.Sprintf("%s: a packet of the peer was discarded: %s", st.State, st.Discarded)
	case st.Failures == 0:
		return fmt.Sprintf("%s: never heard from the peer; is BFD configured there?", st.State)
	default:
		return fmt.Sprintf("%s: %s", st.State, reason(st, w.detection))
	}
}
