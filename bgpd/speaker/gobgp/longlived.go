package gobgp

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"tortie/bgpd/speaker"
)

// What GoBGP says of long-lived graceful restart.
const (
	longLivedBegan = "LLGR restart timer started"
	longLivedEnded = "LLGR restart timer expired"
)

// maxMarks is how often GoBGP may mark what it keeps of a peer: it does so again with
// every connection that fails after it was accepted, and each mark makes the path longer.
const maxMarks = 100

// longLived watches over GoBGP's long-lived graceful restart (RFC 9494), which has no
// bound of its own: it keeps routes for as long as the peer has asked for, and ends with a
// timer that it starts with every failed attempt, also when nothing is kept; such a timer
// later takes the routes of a session that is up. What remakes a peer stops all of that.
type longLived struct {
	// kept reports that a peer's routes are kept while it is away, remake begins its
	// session anew; it is called from goroutines of its own, as GoBGP waits for us.
	kept   func(netip.Addr) bool
	remake func(netip.Addr)

	mu     sync.Mutex
	bounds map[netip.Addr]time.Duration // of the peers that have it
	since  map[netip.Addr]*longLivedPeer
}

// longLivedPeer is one whose routes are kept beyond the restart time.
type longLivedPeer struct {
	marks int
	end   *time.Timer
}

func newLongLived() *longLived {
	return &longLived{bounds: map[netip.Addr]time.Duration{}, since: map[netip.Addr]*longLivedPeer{}}
}

// configure says how long a peer's routes are kept at most.
func (l *longLived) configure(p speaker.Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(p.Address)
	if p.LongLived > 0 {
		l.bounds[p.Address] = p.LongLived
	} else {
		delete(l.bounds, p.Address)
	}
}

// began is told of each timer that GoBGP starts.
func (l *longLived) began(peer netip.Addr) {
	kept := l.kept(peer)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !kept {
		go l.remake(peer)
		return
	}
	p := l.since[peer]
	if p == nil {
		p = &longLivedPeer{end: time.AfterFunc(l.bounds[peer], func() { l.over(peer) })}
		l.since[peer] = p
	}
	if p.marks++; p.marks == maxMarks {
		go l.remake(peer)
	}
}

// expired is told of each of GoBGP's timers that ends: it has dropped all that the peer has
// told, be its session up.
func (l *longLived) expired(peer netip.Addr) {
	l.ended(peer)
	go l.remake(peer)
}

// over: our own time is up for what is kept of a peer.
func (l *longLived) over(peer netip.Addr) {
	if l.ended(peer) {
		go l.remake(peer)
	}
}

// ended forgets what is known of a peer's absence, if there is any.
func (l *longLived) ended(peer netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end(peer)
}

// end is ended with mu held.
func (l *longLived) end(peer netip.Addr) bool {
	p := l.since[peer]
	if p == nil {
		return false
	}
	p.end.Stop()
	delete(l.since, peer)
	return true
}

// remakePeer takes back what is kept of a peer and begins its session anew. Why it is
// down stays known. One that has come up meanwhile tells everything again, and nothing is
// lost by it.
func (s *Speaker) remakePeer(peer netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.applied.Peers {
		if p.Address != peer {
			continue
		}
		if ses, _ := s.events.session(peer); ses.Established {
			s.hold(p)
		} else {
			s.events.reset(peer)
		}
		if err := s.replacePeer(context.Background(), p, false); err != nil {
			s.log.Error("what is kept of a peer that has long been away can't be taken back", "peer", peer, "err", err)
		}
	}
}

// anew are the peers there are whose filter for what is announced becomes another, and
// that can't be told so on the session as it is: what withdraws from others (policy.go)
// would be a route to one with long-lived graceful restart.
func (s *Speaker) anew(d speaker.Desired) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, p := range s.applied.Peers {
		was, is := s.applied.Filters[p.Address].Export, d.Filters[p.Address].Export
		rules := !sameRules(was, is, s.applied.Links, d.Links)
		if p.LongLived > 0 && (rules || s.applied.Shutdown != d.Shutdown && len(is) > 0) {
			out[p.Address] = true
		}
	}
	return out
}
