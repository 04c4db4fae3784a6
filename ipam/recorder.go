package ipam

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

const (
	// recordPause is how long releases are gathered before they are written down.
	recordPause = time.Second
	// recordLimit bounds what waits while the store is away; the oldest go first.
	recordLimit = 4096
	// recordTimeout bounds the last write, when the program ends.
	recordTimeout = 2 * time.Second
)

// Recorder writes the history of addresses down, behind the transactions that released
// them: nobody waits for it, releases of a second share a write, and a program that is
// killed loses the lines of its last second, never an address. Its methods are safe
// for concurrent use.
type Recorder struct {
	client datastore.Client
	log    *slog.Logger

	mu      sync.Mutex
	waiting []recorded
	lost    int
	wake    chan struct{} // capacity 1

	// What follows is used by Run alone.
	newest map[netip.Prefix]*datastore.Entry
	said   string // what was last logged of a store that doesn't take it
}

type recorded struct {
	block    netip.Prefix
	releases []api.IPAMRelease
}

// record writes releases down at once, for programs without a Recorder. The addresses
// are free whatever becomes of it: a store that fails now costs a line of history.
func record(ctx context.Context, client datastore.Client, freed []recorded) {
	for _, r := range freed {
		if len(r.releases) > 0 {
			_, _ = appendHistory(ctx, client, r.block, nil, r.releases)
		}
	}
}

func addressesIn(freed []recorded) []netip.Addr {
	var addrs []netip.Addr
	for _, r := range freed {
		for _, release := range r.releases {
			addrs = append(addrs, netip.MustParseAddr(release.Address))
		}
	}
	return addrs
}

// NewRecorder makes a Recorder; Run writes what it is told.
func NewRecorder(client datastore.Client, log *slog.Logger) *Recorder {
	return &Recorder{client: client, log: log, wake: make(chan struct{}, 1), newest: make(map[netip.Prefix]*datastore.Entry)}
}

// add takes releases of a block in. It is nil-safe: without a Recorder nothing is
// written down.
func (r *Recorder) add(block netip.Prefix, releases []api.IPAMRelease) {
	if r == nil || len(releases) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(r.waiting, recorded{block: block, releases: releases})
	if over := len(r.waiting) - recordLimit; over > 0 {
		r.waiting, r.lost = slices.Delete(r.waiting, 0, over), r.lost+over
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, and then once more what is left.
func (r *Recorder) Run(ctx context.Context) error {
	pause := time.NewTimer(recordPause) // the edge: tested with synctest
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
			defer cancel()
			r.flush(last)
			return nil
		case <-r.wake:
		}
		pause.Reset(recordPause)
		select {
		case <-ctx.Done():
		case <-pause.C:
			r.flush(ctx)
		}
	}
}

// flush writes what waits, block by block, and keeps what the store doesn't take.
func (r *Recorder) flush(ctx context.Context) {
	r.mu.Lock()
	waiting, lost := r.waiting, r.lost
	r.waiting, r.lost = nil, 0
	r.mu.Unlock()
	if lost > 0 {
		r.log.Warn("history of addresses is incomplete: the store was away for too long", "releases", lost)
	}
	for len(waiting) > 0 {
		block := waiting[0].block
		var releases []api.IPAMRelease
		rest := waiting[:0:0]
		for _, w := range waiting {
			if w.block == block {
				releases = append(releases, w.releases...)
			} else {
				rest = append(rest, w)
			}
		}
		newest, err := appendHistory(ctx, r.client, block, r.newest[block], releases)
		if err != nil {
			delete(r.newest, block)
			r.say(err)
			r.putBack(waiting)
			return
		}
		r.newest[block], r.said = newest, ""
		waiting = rest
	}
}

// say logs once why history can't be written. A store that is away is told by others.
func (r *Recorder) say(err error) {
	if text := err.Error(); text != r.said && !errors.Is(err, datastore.ErrUnavailable) {
		r.said = text
		r.log.Warn("the history of addresses can't be written; trying again", "err", err)
	}
}

// putBack keeps what could not be written, before what came meanwhile.
func (r *Recorder) putBack(waiting []recorded) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(waiting, r.waiting...)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}
