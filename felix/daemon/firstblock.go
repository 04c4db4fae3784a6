package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"tortie/internal/datastore"
	"tortie/ipam"
)

// firstBlocks sees to it, once after the start, that the node owns a block of each IP
// version of which there is a pool for its pods. The block's route is at all other nodes
// then when the first pod comes.
type firstBlocks struct {
	addresses interface {
		EnsureBlock(ctx context.Context, req ipam.Request) ([]netip.Prefix, error)
	}
	log *slog.Logger
}

// The pauses between attempts: the Node or the pools may not be known yet.
const (
	firstBlockRetry   = 500 * time.Millisecond
	firstBlockPause   = 30 * time.Second
	firstBlockTimeout = 10 * time.Second
)

// run tries until the node has a block of each IP version.
func (b firstBlocks) run(ctx context.Context) error {
	wanted := []ipam.Request{{Num4: 1}, {Num6: 1}}
	said := map[int]string{}
	for pause := firstBlockRetry; ; pause = min(2*pause, firstBlockPause) {
		var open []ipam.Request
		for _, req := range wanted {
			if err := b.ensure(ctx, req); err != nil {
				open = append(open, req)
				b.say(req, err, said)
			}
		}
		if wanted = open; len(wanted) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (b firstBlocks) ensure(ctx context.Context, req ipam.Request) error {
	ctx, cancel := context.WithTimeout(ctx, firstBlockTimeout)
	defer cancel()
	blocks, err := b.addresses.EnsureBlock(ctx, req)
	if err == nil {
		b.log.Info("the node owns blocks before its first pod (ENSURE_BLOCK)", "blocks", blocks)
	}
	return err
}

// say logs once why there is no block. That there is no pool of an IP version, or the
// Node is not registered yet, is nothing to be told, nor is a store that is away: others
// tell it.
func (b firstBlocks) say(req ipam.Request, err error, said map[int]string) {
	if errors.Is(err, ipam.ErrNoPool) || errors.Is(err, ipam.ErrNodeUnknown) || errors.Is(err, datastore.ErrUnavailable) {
		return
	}
	if text := err.Error(); said[req.Num6] != text {
		said[req.Num6] = text
		b.log.Warn("the node gets no block before its first pod (ENSURE_BLOCK); trying again", "err", err)
	}
}
