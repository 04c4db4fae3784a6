package daemon

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent trades memory for time: what felix keeps is a few megabytes, and at
	// Go's default a burst of pods has them collected every few calls.
	gcPercent = 400
	// leastPercent is how little more than what is kept felix makes do with.
	leastPercent = 50
	// garbage is what there may be of it where more is kept: on a node of a large cluster.
	garbage = 16 << 20
	// settling is how long after its start felix has what it keeps; then it is looked at
	// each memoryInterval.
	settling       = 5 * time.Second
	memoryInterval = 15 * time.Second
)

// heapKeeper keeps what felix takes in proportion to what it keeps.
type heapKeeper struct {
	percent  func(int) int  // debug.SetGCPercent
	giveBack func()         // debug.FreeOSMemory
	usage    func() heapUse // of now
	is       int            // GOGC
	after    uint64         // what was held when something had been given back
}

// heapUse is what is kept, as of the last collection, and what the system has given, in
// bytes.
type heapUse struct{ live, held uint64 }

func newHeapKeeper() *heapKeeper {
	debug.SetGCPercent(gcPercent)
	return &heapKeeper{percent: debug.SetGCPercent, giveBack: debug.FreeOSMemory, usage: readHeap, is: gcPercent}
}

func readHeap() heapUse {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	return heapUse{live: s[0].Value.Uint64(), held: s[1].Value.Uint64() + s[2].Value.Uint64() + s[3].Value.Uint64()}
}

func (m *heapKeeper) run(ctx context.Context) error {
	timer := time.NewTimer(settling)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		m.settle()
		timer.Reset(memoryInterval)
	}
}

// settle sets GOGC by what is kept, and gives back what is far beyond it: what reading the
// datastore took, or a burst.
func (m *heapKeeper) settle() {
	use := m.usage()
	if use.held > m.after+2*garbage {
		m.giveBack()
		use = m.usage()
		m.after = use.held
	}
	if want := percentFor(use.live); want != m.is {
		m.percent(want)
		m.is = want
	}
}

func percentFor(live uint64) int {
	return int(min(max(garbage*100/max(live, 1), leastPercent), gcPercent))
}
