package daemon

import (
	"maps"
	"net/netip"
	"sync"

	"tortie/bgpd/fib"
	"tortie/bgpd/speaker"
)

// tallies are what the engine has counted since it started.
type tallies struct {
	waiting        int
	changes, count uint64
	sum            float64
	buckets        map[float64]uint64 // cumulative
	flaps          map[kind]uint64
	routes         fib.Tally
}

// tallies is a copy of them; it is called in the engine's goroutine.
func (e *engine) tallies() tallies {
	t := tallies{
		waiting: len(e.waits.waiting), changes: e.waits.changes, sum: e.waits.sum,
		buckets: map[float64]uint64{}, flaps: maps.Clone(e.flaps), routes: e.fib.Tally(),
	}
	for _, p := range e.plan.Peers {
		t.flaps[kindOf(p)] += 0 // a counter is there before it counts
	}
	for i, n := range e.waits.counts {
		t.count += n
		if i < len(buckets()) {
			t.buckets[buckets()[i]] = t.count
		}
	}
	return t
}

// updateKind is what UPDATE messages are counted by.
type updateKind struct{ family, direction string }

// updates adds up what the sessions have counted: a peer that goes takes its count away
// with it, and one that is changed begins at 0 again, but a counter never falls.
type updates struct {
	mu    sync.Mutex
	last  map[netip.Addr]speaker.PeerState
	total map[updateKind]uint64
}

// add takes over the sessions' present counts and returns the totals.
func (u *updates) add(states map[netip.Addr]speaker.PeerState) map[updateKind]uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.total == nil {
		u.total = map[updateKind]uint64{}
	}
	for addr, now := range states {
		old := u.last[addr]
		u.total[updateKind{familyName(addr), "in"}] += since(old.UpdatesIn, now.UpdatesIn)
		u.total[updateKind{familyName(addr), "out"}] += since(old.UpdatesOut, now.UpdatesOut)
	}
	u.last = states
	return maps.Clone(u.total)
}

func since(old, now uint64) uint64 {
	if now < old {
		return now
	}
	return now - old
}
