package daemon

import (
	"runtime/debug"
	"time"
)

const (
	// aTable is by how many prefixes what is known has to change to count as a table that
	// is loaded, or goes. A peer that flaps with fewer costs no more memory for it.
	aTable = 5_000
	// loaded is how long after the last change that counts the table counts as loaded.
	loaded = time.Second
	// loadingPercent is GOGC while a table is loaded. Most of what is made then is thrown
	// away at once, and the rest is still there at the next collection: to look at it again
	// and again took a third of the time.
	loadingPercent = 300
)

// loading lets the garbage collector run less often while a table of very many routes is
// loaded, and gives the memory back afterwards.
type loading struct {
	percent  func(int) int // debug.SetGCPercent
	giveBack func()        // debug.FreeOSMemory
	usual    int
	end      *time.Timer // nil unless a table is loaded
	// known is how many prefixes were known when no table was loaded, latest of late.
	known, latest int
}

func newLoading() *loading {
	return &loading{percent: debug.SetGCPercent, giveBack: debug.FreeOSMemory}
}

// has tells how many prefixes are known now.
func (l *loading) has(n int) {
	l.latest = n
	switch {
	case max(n-l.known, l.known-n) < aTable:
	case l.end != nil:
		l.end.Reset(loaded)
	default:
		l.end = time.NewTimer(loaded)
		if l.usual = l.percent(loadingPercent); l.usual < 0 || l.usual > loadingPercent {
			l.percent(l.usual) // whoever runs bgpd wants it less often still, or never
		}
	}
}

// over is readable when a table was loaded; done is to be called then.
func (l *loading) over() <-chan time.Time {
	if l.end == nil {
		return nil
	}
	return l.end.C
}

func (l *loading) done() {
	l.stop()
	l.known = l.latest
	go l.giveBack() // takes as long as a collection
}

// stop leaves the collector as it was found.
func (l *loading) stop() {
	if l.end != nil {
		l.end.Stop()
		l.end = nil
		l.percent(l.usual)
	}
}
