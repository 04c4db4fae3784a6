package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"tortie/tests/bench/lightpeer"
	"tortie/tests/bench/probe"
)

const (
	// churnBlocks is how many blocks the cluster has: those of 1,000 nodes.
	churnBlocks = clusterSize * blocksEach
	// changesPerHour of blocks come or go: one a second.
	changesPerHour = 3600
	// burst is how many change before the kernel has to have followed.
	burst = 200
	// lossEvery so many hours the session is lost, and comes back.
	lossEvery = 6
	// warm hours count as the time in which memory grows to what churn takes.
	warm = 4
)

// Churn is what hours of churn have cost.
type Churn struct {
	Hours int
	Wall  time.Duration
	// Resident is the memory after each hour, bytes.
	Resident []int
}

// Growth is how much greater memory is in the last quarter of the hours than in the
// quarter after the warm-up, at the median: 1 is flat.
func (c Churn) Growth() float64 {
	after := c.Resident[min(warm, len(c.Resident)-1):]
	quarter := max(1, len(after)/4)
	return float64(median(after[len(after)-quarter:])) / float64(median(after[:quarter]))
}

func median(s []int) int {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[len(sorted)/2]
}

// Churning has a bgpd live through hours of a cluster of 1,000 nodes behind a reflector,
// compressed: what a day brings, as fast as the kernel follows. What is told after each
// hour goes to hour.
func Churning(ctx context.Context, hours int, hour func(n, resident int)) (out Churn, err error) {
	h, err := newHub(ctx)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	c, err := newChurner(ctx, h)
	if err != nil {
		return out, err
	}
	defer c.stop()
	began := time.Now()
	for out.Hours = 1; out.Hours <= hours; out.Hours++ {
		if err := c.hour(out.Hours); err != nil {
			return out, fmt.Errorf("hour %d of churn: %w", out.Hours, err)
		}
		resident, err := probe.Resident(c.node.pid())
		if err != nil {
			return out, err
		}
		out.Resident = append(out.Resident, resident)
		hour(out.Hours, resident)
	}
	out.Hours, out.Wall = hours, time.Since(began)
	return out, nil
}

// churner is a reflector whose blocks come and go.
type churner struct {
	h    *hub
	node *node
	stop func()

	mu    sync.Mutex
	peer  *lightpeer.Peer
	there map[int]bool // the blocks announced
	next  int          // the block that changes next
}

func newChurner(ctx context.Context, h *hub) (*churner, error) {
	router, err := h.plug("router", nodeAddr(0))
	if err != nil {
		return nil, err
	}
	c := &churner{h: h, node: router, there: map[int]bool{}}
	for i := range churnBlocks {
		c.there[i] = true
	}
	reflector := reflectorAddr()
	if err := h.take(reflector); err != nil {
		return nil, err
	}
	if err := h.start(router, RouterCommand, router.addr.String(), reflector.String()); err != nil {
		return nil, err
	}
	c.stop = h.sessions(ctx, []netip.Addr{reflector}, router.addr, c.up)
	return c, h.until("the first table", c.followed)
}

// up announces what there is on a new session.
func (c *churner) up(_ netip.Addr, p *lightpeer.Peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peer = p
	for i := range c.there {
		if p.Announce(nodeAddr(1+i/blocksEach), churnBlock(i)) != nil {
			return // the session is gone; there will be another
		}
	}
	_ = p.EndOfRIB()
}

func churnBlock(i int) netip.Prefix { return block(1+i/blocksEach, i%blocksEach) }

// followed reports whether there is a session, and the kernel has what was announced.
func (c *churner) followed() (bool, error) {
	c.mu.Lock()
	want, up := len(c.there), c.peer != nil
	c.mu.Unlock()
	if !up {
		return false, nil
	}
	have, err := c.node.routes()
	return have == want, err
}

// hour is what an hour brings.
func (c *churner) hour(n int) error {
	for range changesPerHour / burst {
		if err := c.change(); err != nil {
			return err
		}
		if err := c.h.until("the kernel to follow", c.followed); err != nil {
			return err
		}
	}
	if n%lossEvery != 0 {
		return nil
	}
	return c.lose()
}

// change has the blocks that are next come, if they are gone, or go.
func (c *churner) change() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var gone []netip.Prefix
	for range burst {
		i := c.next
		c.next = (c.next + 1) % churnBlocks
		if c.there[i] {
			delete(c.there, i)
			gone = append(gone, churnBlock(i))
			continue
		}
		c.there[i] = true
		if err := c.peer.Announce(nodeAddr(1+i/blocksEach), churnBlock(i)); err != nil {
			return err
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return c.peer.Withdraw(gone...)
}

// lose ends the session and waits for the next; meanwhile blocks have changed.
func (c *churner) lose() error {
	c.mu.Lock()
	lost := c.peer
	for range burst {
		delete(c.there, c.next)
		c.next = (c.next + 1) % churnBlocks
	}
	c.peer = nil // until there is another
	c.mu.Unlock()
	lost.Close()
	return c.h.until("the session and its table again", c.followed)
}
