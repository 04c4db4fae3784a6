package fib

import (
	"net/netip"
	"time"

	"tortie/bgpd/speaker"
	"tortie/internal/kernel"
)

// settleTime is how long a peer that never sends End-of-RIB is given to send
// what it has.
const settleTime = 10 * time.Second

// restart knows until when routes of an earlier run are held: a pure state
// machine, told the time.
type restart struct {
	deadline time.Time
	peers    map[netip.Addr]restartPeer
	over     map[kernel.Family]bool
}

type restartPeer struct {
	session speaker.Session
	since   time.Time // when it was established
}

func newRestart() *restart {
	return &restart{peers: map[netip.Addr]restartPeer{}, over: map[kernel.Family]bool{}}
}

// expect says which peers there are. The restart time runs from the first call.
func (r *restart) expect(peers []speaker.Peer, now time.Time) {
	longest := time.Duration(0)
	present := make(map[netip.Addr]bool, len(peers))
	for _, p := range peers {
		longest = max(longest, p.RestartTime)
		present[p.Address] = true
		if _, ok := r.peers[p.Address]; !ok {
			r.peers[p.Address] = restartPeer{}
		}
	}
	for a := range r.peers {
		if !present[a] {
			delete(r.peers, a)
		}
	}
	if r.deadline.IsZero() {
		r.deadline = now.Add(longest)
	}
}

func (r *restart) session(addr netip.Addr, s speaker.Session, now time.Time) {
	p, ok := r.peers[addr]
	if !ok {
		return
	}
	if s.Established && !p.session.Established {
		p.since = now
	}
	p.session = s
	r.peers[addr] = p
}

// step returns the families whose hold ends now.
func (r *restart) step(now time.Time) (ended []kernel.Family) {
	if r.deadline.IsZero() {
		return nil // no peers are known yet
	}
	for _, f := range []kernel.Family{kernel.IPv4, kernel.IPv6} {
		if !r.over[f] && (!now.Before(r.deadline) || r.allHeard(f, now)) {
			r.over[f] = true
			ended = append(ended, f)
		}
	}
	return ended
}

func (r *restart) allHeard(f kernel.Family, now time.Time) bool {
	for a, p := range r.peers {
		if kernel.FamilyOf(a) != f {
			continue
		}
		settled := p.session.Established && !p.session.Graceful && now.Sub(p.since) >= settleTime
		if !p.session.EndOfRIB && !settled {
			return false
		}
	}
	return true
}

func (r *restart) done() bool { return r.over[kernel.IPv4] && r.over[kernel.IPv6] }
