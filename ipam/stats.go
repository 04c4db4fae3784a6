package ipam

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Stats is what an allocator knows of its node's addresses, and what it has done.
type Stats struct {
	// Pools are those that can be read, by name.
	Pools []PoolStats
	// Blocks4 and Blocks6 count the node's blocks of either IP version, of at most Limit.
	Blocks4, Blocks6, Limit int
	Work
}

// PoolStats is the node's share of a pool.
type PoolStats struct {
	Pool string
	CIDR netip.Prefix
	// Blocks are the node's, and the addresses in them Used, Free, Reserved or Cooling;
	// Lent are those of the used ones that other nodes have.
	Blocks, Used, Free, Reserved, Cooling, Lent int
	// Borrowed are the addresses of other nodes' blocks that this node has, as far as it
	// has seen these blocks.
	Borrowed int
	// Claimed is how many blocks of the pool are known to be somebody's, of Total; 0
	// before the node needed a block for the first time. Total is at most 1<<30.
	Claimed, Total int
}

// Work counts what was done since the start.
type Work struct {
	// Committed, Conflicts and Failures are the transactions on addresses by their ends.
	Committed, Conflicts, Failures uint64
	// Latency is how long assignments took that succeeded.
	Latency Histogram
}

// Histogram counts durations. Counts has those up to each of Bounds and, last, the rest.
type Histogram struct {
	Bounds []time.Duration
	Counts []uint64
	Sum    time.Duration
}

// statsTimeout bounds how long the writer reads for the sake of statistics alone.
const statsTimeout = time.Second

// counters is Work as it is counted.
type counters struct {
	mu   sync.Mutex
	work Work
}

func newCounters() *counters {
	bounds := []time.Duration{}
	for d := 250 * time.Microsecond; d < 20*time.Second; d *= 2 {
		bounds = append(bounds, d)
	}
	return &counters{work: Work{Latency: Histogram{Bounds: bounds, Counts: make([]uint64, len(bounds)+1)}}}
}

func (c *counters) assigned(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := &c.work.Latency
	at, _ := slices.BinarySearch(h.Bounds, d)
	h.Counts[at]++
	h.Sum += d
}

func (c *counters) count(n *uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

func (c *counters) read() Work {
	c.mu.Lock()
	defer c.mu.Unlock()
	work := c.work
	work.Latency.Counts = slices.Clone(work.Latency.Counts)
	return work
}

// Stats is as things are now. It is computed when it is asked for, between two
// transactions; when ctx ends first, what was computed last is returned.
func (a *Allocator) Stats(ctx context.Context) Stats {
	c := &call{ctx: ctx, stats: true, result: make(chan result, 1)}
	var stats Stats
	if err := a.queue.push(c); err == nil {
		a.queue.signal()
		select {
		case r := <-c.result:
			if r.err == nil {
				a.last.Store(&r.stats)
			}
		case <-ctx.Done():
		}
	}
	if last := a.last.Load(); last != nil {
		stats = *last
	}
	stats.Work = a.counters.read()
	return stats
}

// tell answers the calls for statistics and returns the others.
func (w *writer) tell(ctx context.Context, calls []*call) []*call {
	if !w.state.loaded && slices.ContainsFunc(calls, func(c *call) bool { return c.stats }) {
		ctx, cancel := context.WithTimeout(ctx, statsTimeout)
		defer cancel()
		if err := w.load(ctx); err != nil {
			w.log.Debug("statistics of addresses are incomplete", "err", err)
		}
	}
	return slices.DeleteFunc(calls, func(c *call) bool {
		if c.stats {
			c.answer(result{stats: w.stats()})
		}
		return c.stats
	})
}

func (w *writer) stats() Stats {
	w.look()
	s := Stats{Blocks4: w.state.countBlocks(ipv4), Blocks6: w.state.countBlocks(ipv6), Limit: w.blockLimit(w.view.Config())}
	for _, obj := range w.pools {
		p, err := parsePool(obj)
		if err != nil {
			continue
		}
		t := w.tally(p)
		ps := PoolStats{
			Pool: p.name, CIDR: p.prefix, Blocks: t.blocks, Used: t.used, Free: t.free, Reserved: t.reserved, Cooling: t.cooling, Lent: t.borrowed,
			Total: 1 << min(30, p.blockBits-p.prefix.Bits()),
		}
		for prefix, n := range w.state.borrowing {
			if p.owns(prefix) {
				ps.Borrowed += n
			}
		}
		if w.state.taken != nil {
			for range w.state.taken.Subnets(p.prefix) {
				ps.Claimed++
			}
		}
		s.Pools = append(s.Pools, ps)
	}
	return s
}
