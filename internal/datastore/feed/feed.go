// Package feed is what the watches of every backend share: it decodes the changes
// of a range and hands them on, leaving out what the range allows to leave out.
package feed

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"tortie/internal/datastore"
	"tortie/internal/datastore/record"
)

// Feed is the channel of one watch and what is held back from it. Of a key that
// changes again and again only what is told is decoded.
//
// Changes of one key are told in their order: one that is held back is overtaken
// by a later one of its key, never told after it, and while held changes are being
// told, those that come are held.
type Feed struct {
	ctx    context.Context // the watch's life
	codec  record.Codec
	rng    datastore.Range
	events chan []datastore.Event
	timers sync.WaitGroup // of timers set and not stopped, until they have done their work

	mu      sync.Mutex
	quiet   map[string]time.Time     // until when a path that was told of is held
	held    map[string]record.Change // the newest by path
	timer   *time.Timer              // tells what is held; nil when none is set
	telling bool
	closed  bool
}

// New makes the feed of a watch that lives as long as ctx.
func New(ctx context.Context, codec record.Codec, r datastore.Range) *Feed {
	return &Feed{
		ctx: ctx, codec: codec, rng: r, events: make(chan []datastore.Event),
		quiet: map[string]time.Time{}, held: map[string]record.Change{},
	}
}

// Events is what datastore.Watch.Events gives. It is closed by Close.
func (f *Feed) Events() <-chan []datastore.Event { return f.events }

// Put hands on the changes of whole transactions, in their order; it waits for the
// reader. It is false when the watch has ended. It is called from one goroutine.
func (f *Feed) Put(changes []record.Change) bool {
	if f.rng.Delay > 0 || f.rng.Coalesce > 0 { // nothing is kept, and no timer set, for what isn't of the range
		if changes = f.codec.In(f.rng, changes); len(changes) == 0 {
			return f.ctx.Err() == nil
		}
	}
	switch {
	case f.rng.Delay > 0:
		f.holdAll(changes)
		return f.ctx.Err() == nil
	case f.rng.Coalesce > 0:
		changes = f.admit(changes)
	}
	return f.tell(changes)
}

// Close ends the feed, after its last Put and after ctx. What is held back is lost.
func (f *Feed) Close() {
	f.mu.Lock()
	f.closed = true
	if f.timer != nil && f.timer.Stop() {
		f.timers.Done()
	}
	f.mu.Unlock()
	f.timers.Wait()
	close(f.events)
}

func (f *Feed) tell(changes []record.Change) bool {
	events := f.codec.Events(f.rng, changes)
	if len(events) == 0 {
		return f.ctx.Err() == nil
	}
	select {
	case <-f.ctx.Done():
		return false
	case f.events <- events:
		return true
	}
}

// holdAll keeps changes until the Delay of the first is over.
func (f *Feed) holdAll(changes []record.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ch := range changes {
		f.held[ch.Path] = ch
	}
	f.arm(time.Now())
}

// admit gives the changes to tell at once and holds the rest.
func (f *Feed) admit(changes []record.Change) (admitted []record.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, ch := range changes {
		if _, waiting := f.held[ch.Path]; waiting || f.telling || now.Before(f.quiet[ch.Path]) {
			f.held[ch.Path] = ch
			continue
		}
		f.quiet[ch.Path] = now.Add(f.rng.Coalesce)
		admitted = append(admitted, ch)
	}
	if len(f.quiet) > manyPaths {
		f.forget(now)
	}
	f.arm(now)
	return admitted
}

// manyPaths is how many paths are remembered without looking whether they need be.
const manyPaths = 100

// forget drops what is over.
func (f *Feed) forget(now time.Time) {
	for path, until := range f.quiet {
		if _, waiting := f.held[path]; !waiting && !now.Before(until) {
			delete(f.quiet, path)
		}
	}
}

// arm sets the timer for what is held, unless that is being seen to.
func (f *Feed) arm(now time.Time) {
	if len(f.held) == 0 || f.timer != nil || f.telling || f.closed {
		return
	}
	f.timers.Add(1)
	f.timer = time.AfterFunc(f.pause(now), f.release)
}

// pause is how long the next of what is held has to wait.
func (f *Feed) pause(now time.Time) time.Duration {
	if f.rng.Delay > 0 {
		return f.rng.Delay
	}
	next := now.Add(f.rng.Coalesce)
	for path := range f.held {
		if until := f.quiet[path]; until.Before(next) {
			next = until
		}
	}
	return next.Sub(now)
}

// release tells what has been held long enough.
func (f *Feed) release() {
	defer f.timers.Done()
	f.tell(f.due())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.telling = false
	f.arm(time.Now())
}

func (f *Feed) due() (due []record.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.timer, f.telling = nil, true
	now := time.Now()
	for path, ch := range f.held {
		if f.rng.Delay > 0 || !now.Before(f.quiet[path]) {
			f.quiet[path] = now.Add(f.rng.Coalesce)
			delete(f.held, path)
			due = append(due, ch)
		}
	}
	f.forget(now)
	slices.SortFunc(due, func(a, b record.Change) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Path, b.Path))
	})
	return due
}
