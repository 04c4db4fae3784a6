package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// news is what a follower found. Exactly one of lost, snapshot, following and
// events is set.
type news struct {
	id        int
	lost      error
	snapshot  *Snapshot
	following bool // the watch behind the last snapshot is running
	events    []Event
}

// follower reads one range over and over: list, watch, and again whenever the
// watch ends. It always lists again: an etcd that comes back may have been
// restored from a backup, and only its full content shows what is different.
type follower struct {
	id      int
	rng     Range
	client  Client
	backoff func(int) time.Duration
	log     *slog.Logger
	news    chan<- news
}

func (f *follower) run(ctx context.Context) {
	for attempt := 0; ; {
		received, err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		compacted := errors.Is(err, ErrCompacted)
		if received {
			attempt = 0
		}
		if compacted {
			f.log.Debug("datastore history compacted, listing again", "range", f.rng.String(), "err", err)
		} else {
			f.send(ctx, news{lost: err})
		}
		// The first compaction says nothing about the datastore's health.
		if !compacted || attempt > 0 {
			f.sleep(ctx, f.backoff(attempt))
		}
		attempt++
	}
}

// follow lists and then watches until the watch ends. received says that the
// watch worked for a while.
func (f *follower) follow(ctx context.Context) (received bool, err error) {
	snap, err := f.client.List(ctx, f.rng)
	if err != nil {
		return false, err
	}
	f.send(ctx, news{snapshot: &snap})
	w, err := f.client.Watch(ctx, f.rng, snap.Revision)
	if err != nil {
		return false, err
	}
	defer w.Stop()
	f.send(ctx, news{following: true})
	for events := range w.Events() {
		received = true
		f.send(ctx, news{events: events})
	}
	if err = w.Err(); err == nil {
		err = fmt.Errorf("watch %s ended: %w", f.rng, ErrUnavailable)
	}
	return received, err
}

func (f *follower) send(ctx context.Context, n news) {
	n.id = f.id
	select {
	case <-ctx.Done():
	case f.news <- n:
	}
}

func (f *follower) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
