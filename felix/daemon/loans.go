package daemon

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

const (
	// loanPeriod is how long, on average, until all blocks are looked at again for addresses
	// of this node. The list is the largest there is, and what it may find is rare.
	loanPeriod = 6 * time.Hour
	// loanRetry is how long after a failure.
	loanRetry = 30 * time.Second
)

// loans keeps the node's loans right where the allocator can't: when somebody wrote blocks
// who knows nothing of loans. That is an older version, whose traces are looked for at the
// start, or upstream's calicoctl when it takes a block away under this node's pods, which
// shows by its affinity.
type loans struct {
	node string
	// mend puts the loans from some blocks right, or all.
	mend func(ctx context.Context, only ...netip.Prefix) error
	log  *slog.Logger
	said string // what was last logged

	mu   sync.Mutex
	lost map[netip.Prefix]bool // blocks whose affinity is gone
	wake chan struct{}         // capacity 1
}

func newLoans(node string, mend func(context.Context, ...netip.Prefix) error, log *slog.Logger) *loans {
	return &loans{node: node, mend: mend, log: log, lost: map[netip.Prefix]bool{}, wake: make(chan struct{}, 1)}
}

// Apply implements follower.
func (l *loans) Apply(updates []datastore.SyncUpdate) {
	for _, u := range updates {
		if u.Key.Kind != api.KindBlockAffinity || u.Entry != nil || u.Invalid != nil {
			continue
		}
		owner, block, err := api.ParseBlockAffinityName(u.Key.Name)
		if err == nil && owner == api.HostAffinity(l.node) {
			l.look(block)
		}
	}
}

func (l *loans) look(block netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost[block] = true
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *loans) take() []netip.Prefix {
	l.mu.Lock()
	defer l.mu.Unlock()
	blocks := slices.SortedFunc(maps.Keys(l.lost), netip.Prefix.Compare)
	clear(l.lost)
	return blocks
}

// run mends until ctx ends. After a failure all blocks are looked at.
func (l *loans) run(ctx context.Context) error {
	next := time.NewTimer(0) // the edge: tested with synctest
	defer next.Stop()
	for {
		var blocks []netip.Prefix
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
			if blocks = l.take(); len(blocks) == 0 {
				continue
			}
		case <-next.C:
		}
		err := l.mend(ctx, blocks...)
		l.say(err)
		switch {
		case err != nil:
			next.Reset(loanRetry)
		case len(blocks) == 0:
			next.Reset(loanPeriod/2 + rand.N(loanPeriod))
		}
	}
}

// say logs once why loans can't be mended. A store that is away is told by others.
func (l *loans) say(err error) {
	text := ""
	if err != nil && !errors.Is(err, datastore.ErrUnavailable) {
		text = err.Error()
	}
	if text != l.said && text != "" {
		l.log.Warn("addresses that this node has from others' blocks may not be announced; trying again", "err", err)
	}
	l.said = text
}
