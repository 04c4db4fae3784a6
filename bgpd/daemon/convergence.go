package daemon

import (
	"net/netip"
	"slices"
	"time"

	"tortie/bgpd/fib"
	"tortie/bgpd/topology"
)

// buckets of the convergence histogram, in seconds.
func buckets() []float64 {
	return []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120}
}

// convergence measures how long a block of another node takes from its affinity's
// being confirmed, as this node learns of it, to its route being in the kernel here.
// Both ends are read on one clock. It is used in the engine's goroutine only.
type convergence struct {
	waiting map[netip.Prefix]time.Time
	// counts has one more than there are buckets: what took longer.
	counts  []uint64
	sum     float64
	changes uint64 // of best paths
}

func newConvergence() *convergence {
	return &convergence{waiting: map[netip.Prefix]time.Time{}, counts: make([]uint64, len(buckets())+1)}
}

// expect notes the blocks that are new in a plan, or have another owner. Those of the
// first plan were confirmed nobody knows when: they are not measured.
func (c *convergence) expect(old, now topology.Output, known bool, at time.Time) {
	for block, owner := range now.BlockOwners {
		if known && owner != old.BlockOwners[block] {
			c.waiting[block] = at
		}
	}
	for block := range c.waiting {
		if now.BlockOwners[block] == "" || slices.Contains(now.OwnBlocks, block) {
			delete(c.waiting, block)
		}
	}
}

// installed looks for the routes of what is waited for.
func (c *convergence) installed(entry func(netip.Prefix) (fib.Entry, bool), now time.Time) {
	for block, since := range c.waiting {
		if e, ok := entry(block); ok && e.Kernel != "" {
			delete(c.waiting, block)
			c.observe(now.Sub(since).Seconds())
		}
	}
}

func (c *convergence) observe(seconds float64) {
	c.sum += seconds
	for i, limit := range buckets() {
		if seconds <= limit {
			c.counts[i]++
			return
		}
	}
	c.counts[len(buckets())]++
}
