// Package memory is a datastore in memory with the semantics of etcd: one
// revision for the whole store, multi-key transactions, watches with history,
// compaction. It keeps encoded bytes, so that a test sees exactly what etcd
// would hold, and it can fail on demand in the ways a real store fails.
package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/record"
)

// Store is one datastore. It is a datastore.Client itself; Client gives further
// ones that can be cut off one by one.
type Store struct {
	codec record.Codec

	mu      sync.Mutex
	rev     datastore.Revision
	pairs   map[string]record.Pair
	history []record.Change // ascending by revision, none below compacted
	// compacted is the oldest revision whose changes are still in history.
	compacted   datastore.Revision
	unavailable bool
	loseReplies int
	// epoch counts the outages: a watch ends when its epoch does.
	epoch int
	// changed is closed and replaced whenever anything above changes.
	changed chan struct{}
}

// New makes an empty store at revision 1, as a new etcd is.
func New(reg *api.Registry) *Store {
	return &Store{
		codec:     record.NewCodec(reg),
		rev:       1,
		compacted: 1,
		pairs:     make(map[string]record.Pair),
		changed:   make(chan struct{}),
	}
}

// Revision is the present revision of the store.
func (s *Store) Revision() datastore.Revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev
}

// Compact forgets the history before rev: a watch that still needs it ends with
// datastore.ErrCompacted. A revision the store hasn't reached counts as the
// present one.
func (s *Store) Compact(rev datastore.Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted = max(s.compacted, min(rev, s.rev))
	s.history = slices.DeleteFunc(s.history, func(c record.Change) bool { return c.Revision < s.compacted })
	s.broadcast()
}

// SetUnavailable makes the store stop or resume answering, for all clients.
// Stopping ends all watches, as losing the connection does.
func (s *Store) SetUnavailable(unavailable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if unavailable && !s.unavailable {
		s.epoch++
	}
	s.unavailable = unavailable
	s.broadcast()
}

// LoseReplies makes the next n transactions take effect (or conflict) but answer
// datastore.ErrUnavailable: the caller can't know what happened.
func (s *Store) LoseReplies(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loseReplies = n
}

// Backup is the content of a store at one moment.
type Backup struct {
	rev   datastore.Revision
	pairs map[string]record.Pair
}

// Backup saves the content for a later Restore.
func (s *Store) Backup() Backup {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Backup{rev: s.rev, pairs: maps.Clone(s.pairs)}
}

// Restore takes the store back in time, as restoring etcd from a backup does:
// content and revision are those of the backup, the history before it is gone,
// and watches end with datastore.ErrUnavailable. The zero Backup is an empty
// store.
func (s *Store) Restore(b Backup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rev = max(b.rev, 1)
	s.pairs = make(map[string]record.Pair, len(b.pairs))
	maps.Copy(s.pairs, b.pairs)
	s.history = nil
	s.compacted = s.rev
	s.epoch++
	s.broadcast()
}

// RawPut writes bytes under a path, whatever they are, as a foreign program may.
func (s *Store) RawPut(path string, value []byte) datastore.Revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rev++
	s.put(path, slices.Clone(value))
	s.broadcast()
	return s.rev
}

// RawGet reads the stored bytes.
func (s *Store) RawGet(path string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.pairs[path]
	return slices.Clone(p.Value), ok
}

// RawDelete removes a path, whatever it is, and reports whether it was there.
func (s *Store) RawDelete(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.pairs[path]; !ok {
		return false
	}
	s.rev++
	s.remove(path)
	s.broadcast()
	return true
}

// Paths lists every path of the store that starts with prefix, sorted.
func (s *Store) Paths(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var paths []string
	for path := range s.pairs {
		if strings.HasPrefix(path, prefix) {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// Get implements datastore.Client.
func (s *Store) Get(ctx context.Context, key api.Key) (datastore.Entry, error) {
	path, err := s.codec.Path(key)
	if err != nil {
		return datastore.Entry{}, fmt.Errorf("get %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(ctx); err != nil {
		return datastore.Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	if p, ok := s.pairs[path]; ok {
		return s.codec.Get(key, &p)
	}
	return s.codec.Get(key, nil)
}

// List implements datastore.Client.
func (s *Store) List(ctx context.Context, r datastore.Range) (datastore.Snapshot, error) {
	prefix, err := s.codec.Prefix(r)
	if err != nil {
		return datastore.Snapshot{}, fmt.Errorf("list %s: %w", r, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(ctx); err != nil {
		return datastore.Snapshot{}, fmt.Errorf("list %s: %w", r, err)
	}
	var pairs []record.Pair
	for path, p := range s.pairs {
		if strings.HasPrefix(path, prefix) {
			pairs = append(pairs, p)
		}
	}
	record.Sort(pairs)
	return s.codec.Snapshot(r, pairs, s.rev), nil
}

// Txn implements datastore.Client.
func (s *Store) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	steps, err := s.codec.Plan(ops)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(ctx); err != nil {
		return 0, fmt.Errorf("transaction: %w", err)
	}
	datastore.Sent(ctx)
	rev, err := s.apply(steps)
	if s.loseReplies > 0 {
		s.loseReplies--
		return 0, fmt.Errorf("transaction: %w", datastore.ErrUnavailable)
	}
	return rev, err
}

// Close implements datastore.Client. A Store has nothing to release.
func (s *Store) Close() error { return nil }

// ready says why a request can't be answered now. The caller holds mu.
func (s *Store) ready(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%w: %w", datastore.ErrUnavailable, err)
	}
	if s.unavailable {
		return datastore.ErrUnavailable
	}
	return nil
}

// apply carries out a planned transaction. The caller holds mu.
func (s *Store) apply(steps []record.Step) (datastore.Revision, error) {
	current := make(map[string]record.Pair, len(steps))
	for _, step := range steps {
		if p, ok := s.pairs[step.Path]; ok {
			current[step.Path] = p
		}
	}
	if conflict := s.codec.Conflict(steps, current); conflict != nil {
		return 0, conflict
	}
	changes := func(step record.Step) bool {
		_, present := current[step.Path]
		return step.Writes() || (step.Deletes() && present)
	}
	if !slices.ContainsFunc(steps, changes) {
		return s.rev, nil // like etcd: what changes nothing takes no revision
	}
	s.rev++
	for _, step := range steps {
		switch {
		case step.Writes():
			s.put(step.Path, step.Value)
		case changes(step):
			s.remove(step.Path)
		}
	}
	s.broadcast()
	return s.rev, nil
}

// put stores a value at the present revision. The caller holds mu.
func (s *Store) put(path string, value []byte) {
	p := record.Pair{Path: path, Value: value, Revision: s.rev}
	s.pairs[path] = p
	s.history = append(s.history, record.Change{Pair: p})
}

// remove deletes a path at the present revision. The caller holds mu.
func (s *Store) remove(path string) {
	delete(s.pairs, path)
	s.history = append(s.history, record.Change{
		Pair:    record.Pair{Path: path, Revision: s.rev},
		Deleted: true,
	})
}

// broadcast wakes everything that waits for a change. The caller holds mu.
func (s *Store) broadcast() {
	close(s.changed)
	s.changed = make(chan struct{})
}
