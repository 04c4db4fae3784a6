package daemon

import (
	"net/netip"
	"runtime/debug"
	"time"

	"tortie/bgpd/speaker"
)

const (
	// aTable is by how many prefixes what is known has to change to count as a table that
	// is loaded, or goes; aMesh likewise by how many sessions that are up. A peer that flaps
	// with fewer costs no more memory for it.
	aTable = 5_000
	aMesh  = 16
	// loaded is how long after the last change that counts the table counts as loaded.
	loaded = time.Second
	// defaultPercent is Go's GOGC, and restingPercent ours while nothing is loaded: there is
	// little garbage then, and memory for it is memory of each idle session.
	defaultPercent = 100
	restingPercent = 50
	// loadingPercent is GOGC while a table is loaded. Most of what is made then is thrown
	// away at once, and the rest is still there at the next collection: to look at it again
	// and again took a third of the time.
	loadingPercent = 300
)

// loading lets the garbage collector run less often while a table of very many routes is
// loaded or very many sessions come up, and gives the memory back afterwards.
type loading struct {
	percent  func(int) int // debug.SetGCPercent
	giveBack func()        // debug.FreeOSMemory
	asFound  int           // GOGC before begin; usual is that of when nothing is loaded
	usual    int
	end      *time.Timer // nil unless something is loaded
	up       map[netip.Addr]bool
	// known is what there was when nothing was loaded, latest of late.
	known, latest quantity
}

// quantity is how much there is.
type quantity struct{ prefixes, sessions int }

func newLoading() *loading {
	return &loading{percent: debug.SetGCPercent, giveBack: debug.FreeOSMemory, up: map[netip.Addr]bool{}}
}

// begin makes the collector ours, unless whoever runs bgpd has said what it is to do.
func (l *loading) begin() {
	l.asFound = l.percent(restingPercent)
	l.usual = restingPercent
	if l.asFound != defaultPercent {
		l.percent(l.asFound)
		l.usual = l.asFound
	}
}

// learned tells which sessions have changed, and how many prefixes are known now.
func (l *loading) learned(sessions map[netip.Addr]speaker.Session, prefixes int) {
	for addr, s := range sessions {
		if s.Established {
			l.up[addr] = true
		} else {
			delete(l.up, addr)
		}
	}
	l.latest = quantity{prefixes, len(l.up)}
	switch {
	case distance(l.latest.prefixes, l.known.prefixes) < aTable && distance(l.latest.sessions, l.known.sessions) < aMesh:
	case l.end != nil:
		l.end.Reset(loaded)
	default:
		l.end = time.NewTimer(loaded)
		if l.usual >= 0 && l.usual < loadingPercent { // else it collects less often still, or never
			l.percent(loadingPercent)
		}
	}
}

func distance(a, b int) int { return max(a-b, b-a) }

// over is readable when something was loaded; done is to be called then.
func (l *loading) over() <-chan time.Time {
	if l.end == nil {
		return nil
	}
	return l.end.C
}

func (l *loading) done() {
	l.rest()
	l.known = l.latest
	go l.giveBack() // takes as long as a collection
}

// rest ends what begins with a table.
func (l *loading) rest() {
	if l.end != nil {
		l.end.Stop()
		l.end = nil
		l.percent(l.usual)
	}
}

// stop leaves the collector as it was found.
func (l *loading) stop() {
	l.rest()
	l.percent(l.asFound)
}
