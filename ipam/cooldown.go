package ipam

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// cooldown keeps the addresses that were released too short a while ago to be assigned
// again. The block has no place for it: the order of its free addresses says only which
// is the oldest. What others released is known from when it was seen, what this node
// released before it was started from the history.
type cooldown struct {
	until map[netip.Addr]time.Time
	// resting has the same addresses; plans read and extend it.
	resting map[netip.Addr]bool
}

func cooldownOf(config api.IPAMConfigSpec) time.Duration {
	return time.Duration(config.IPCooldownSeconds) * time.Second
}

// look drops what has rested for long enough, and everything when addresses needn't.
func (c *cooldown) look(now time.Time, period time.Duration) {
	c.resting = nil
	if period == 0 {
		c.until = nil
		return
	}
	c.resting = make(map[netip.Addr]bool, len(c.until))
	for addr, until := range c.until {
		if until.After(now) {
			c.resting[addr] = true
		} else {
			delete(c.until, addr)
		}
	}
}

// add takes in that an address was released.
func (c *cooldown) add(addr netip.Addr, at time.Time, period time.Duration) {
	if period == 0 {
		return
	}
	if c.until == nil {
		c.until = make(map[netip.Addr]time.Time)
	}
	c.until[addr] = at.Add(period)
	if c.resting != nil {
		c.resting[addr] = true
	}
}

// coolReleased takes in the addresses of releases that were carried out.
func (w *writer) coolReleased(freed []recorded) {
	for _, r := range freed {
		for _, release := range r.releases {
			w.cooldown.add(netip.MustParseAddr(release.Address), w.now(), cooldownOf(w.view.Config()))
		}
	}
}

// coolSeen takes in the addresses of the node's blocks that others released.
func (w *writer) coolSeen() {
	for _, addr := range w.state.freed {
		w.cooldown.add(addr, w.now(), cooldownOf(w.view.Config()))
	}
	w.state.freed = nil
}

// recall reads from the history which addresses of a block still cool down. A history
// that may not be read keeps nobody from an address.
func (w *writer) recall(ctx context.Context, block netip.Prefix) error {
	period := cooldownOf(w.view.Config())
	if period == 0 {
		return nil
	}
	pages, _, err := readHistory(ctx, w.client, block)
	switch {
	case errors.Is(err, datastore.ErrUnavailable), ctx.Err() != nil:
		return err
	case err != nil:
		w.log.Warn("which addresses cool down since before the start is not known", "block", block, "err", err)
	}
	for _, page := range pages {
		for _, r := range pageOf(page).Releases {
			addr, err := netip.ParseAddr(r.Address)
			if err == nil && r.Released.Add(period).After(w.now()) {
				w.cooldown.add(addr, r.Released.Time, period)
			}
		}
	}
	return nil
}
