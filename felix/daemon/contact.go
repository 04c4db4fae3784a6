package daemon

import (
	"context"
	"log/slog"
	"time"
)

// What is done without the datastore waits for an outage that lasts, and is repeated.
const (
	contactPatience = 30 * time.Second
	contactLook     = 5 * time.Second
)

// contact tells those who stand between this node and the datastore, or may, that it is
// out of reach.
type contact struct {
	health func() error // nil: in reach
	lost   func(context.Context) error
	found  func()
	log    *slog.Logger
}

// run looks until ctx ends.
func (c contact) run(ctx context.Context) error {
	ticker := time.NewTicker(contactLook) // the edge: run is the waiting alone
	defer ticker.Stop()
	var since time.Time
	failed := ""
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		switch err := c.health(); {
		case err == nil && !since.IsZero():
			since = time.Time{}
			c.found()
		case err == nil:
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= contactPatience:
			text := ""
			if err := c.lost(ctx); err != nil {
				text = err.Error()
			}
			if text != "" && text != failed {
				c.log.Warn("what may stand between this node and the datastore can't be looked at", "err", text)
			}
			failed = text
		}
	}
}
