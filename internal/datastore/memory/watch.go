package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"tortie/internal/datastore"
	"tortie/internal/datastore/feed"
	"tortie/internal/datastore/record"
)

// watch follows the history of the store. It holds no changes of its own, so a
// slow reader loses nothing unless the store is compacted under it.
type watch struct {
	feed *feed.Feed
	stop context.CancelFunc

	mu  sync.Mutex
	err error
}

// Watch implements datastore.Client.
func (s *Store) Watch(ctx context.Context, r datastore.Range, after datastore.Revision) (datastore.Watch, error) {
	return s.watch(ctx, r, after, nil)
}

// watch also ends when the client it belongs to (nil: none) is cut off.
func (s *Store) watch(ctx context.Context, r datastore.Range, after datastore.Revision, via *Client) (datastore.Watch, error) {
	prefix, err := s.codec.Prefix(r)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", r, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.ready(ctx)
	if via.isCut() {
		err = datastore.ErrUnavailable
	}
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", r, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{feed: feed.New(ctx, s.codec, r), stop: cancel}
	cur := cursor{store: s, via: via, rng: r, prefix: prefix, next: after + 1, epoch: s.epoch, viaEpoch: via.epochNow()}
	if after > s.rev {
		cur.foreign = true
	}
	go w.run(ctx, cur)
	return w, nil
}

// Events implements datastore.Watch.
func (w *watch) Events() <-chan []datastore.Event { return w.feed.Events() }

// Err implements datastore.Watch.
func (w *watch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Stop implements datastore.Watch.
func (w *watch) Stop() { w.stop() }

func (w *watch) run(ctx context.Context, cur cursor) {
	defer w.feed.Close()
	defer w.stop()
	for {
		batch, changed, err := cur.advance()
		if err != nil {
			w.mu.Lock()
			w.err = fmt.Errorf("watch %s: %w", cur.rng, err)
			w.mu.Unlock()
			return
		}
		if !w.feed.Put(batch) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// cursor is a place in the history of a store.
type cursor struct {
	store    *Store
	via      *Client
	rng      datastore.Range
	prefix   string
	next     datastore.Revision // the first revision not yet read
	epoch    int
	viaEpoch int
	foreign  bool // started beyond the end of the history
}

// advance reads everything from next on. The channel it returns is closed at the
// next change of the store.
func (c *cursor) advance() ([]record.Change, <-chan struct{}, error) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.epoch != c.epoch || c.via.epochNow() != c.viaEpoch:
		return nil, nil, datastore.ErrUnavailable
	case c.foreign || c.next < s.compacted:
		return nil, nil, datastore.ErrCompacted
	}
	var batch []record.Change
	from, _ := slices.BinarySearchFunc(s.history, c.next, func(ch record.Change, rev datastore.Revision) int {
		return cmp.Compare(ch.Revision, rev)
	})
	for _, ch := range s.history[from:] {
		if strings.HasPrefix(ch.Path, c.prefix) {
			batch = append(batch, ch)
		}
	}
	c.next = s.rev + 1
	return batch, s.changed, nil
}
