package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"tortie/internal/api"
)

// Status is how far a Syncer has come. It only ever grows: what happens to the
// connection after InSync changes nothing about what the Sink was told.
type Status int

// The states of a Syncer.
const (
	// WaitForDatastore: nothing has been read yet.
	WaitForDatastore Status = iota
	// Resync: some ranges have been read.
	Resync
	// InSync: all ranges have been read at least once.
	InSync
)

// String is the form used in logs.
func (s Status) String() string {
	switch s {
	case WaitForDatastore:
		return "wait-for-datastore"
	case Resync:
		return "resync"
	default:
		return "in-sync"
	}
}

// SyncUpdate is the present state of one object: Entry when it exists, neither
// Entry nor Invalid when it is gone, Invalid when its stored value can't be read.
// With Invalid, Kept says that a version of it was told before, which holds on; Entry is
// that version when it hasn't been told yet.
// What is stored under a path that is no key at all has the zero Key and is
// identified by its Path: with Invalid while it is there, alone when it is gone.
type SyncUpdate struct {
	Key api.Key
	// Path is the raw key in the store; only when Key is zero.
	Path    string
	Entry   *Entry
	Invalid *Invalid
	Kept    bool
}

// Stands reports that nothing is to be done but to say that the object can't be read: what
// was told of it before holds on.
func (u SyncUpdate) Stands() bool { return u.Invalid != nil && u.Kept && u.Entry == nil }

// What holds meanwhile of an object that can't be read.
const unreadKept, unreadNothing = "what it said before holds on", "nothing of it counts"

// UnreadMatter is what a line with an Unread is about, without what holds meanwhile, in which
// programs may differ; any other line is its own matter.
func UnreadMatter(line string) string {
	for _, meanwhile := range []string{unreadKept, unreadNothing} {
		if matter, _, ok := strings.Cut(line, "; "+meanwhile+"; "); ok {
			return matter
		}
	}
	return line
}

// Unread is what an operator is told of an object that can't be read, after its name; all
// programs say the same.
func (u SyncUpdate) Unread() string {
	meanwhile := unreadNothing
	if u.Kept {
		meanwhile = unreadKept
	}
	return fmt.Sprintf("can't be read: %s; %s; %s", u.Invalid.Cause(), meanwhile, u.Invalid.Remedy())
}

// Sink receives what a Syncer finds. Its methods are called from one goroutine.
// The entries are shared and must not be changed.
type Sink interface {
	OnStatus(Status)
	// OnUpdates gives the updates of one or several transactions; each key, or
	// path that is none, occurs at most once.
	OnUpdates([]SyncUpdate)
}

// SyncerConfig says what to follow.
type SyncerConfig struct {
	Client Client
	// Ranges to follow; they must not overlap. Follow adds others.
	Ranges []Range
	Sink   Sink
	Log    *slog.Logger
	// Backoff is the pause before the next attempt after attempt failed ones in a
	// row, counted from 0. It should be random, so that the nodes of a cluster
	// don't return all at once. It is called from several goroutines. Default:
	// DefaultBackoff.
	Backoff func(attempt int) time.Duration
}

// DefaultBackoff grows from a quarter of a second to three seconds, half of it
// random.
func DefaultBackoff(attempt int) time.Duration {
	const first, last = 250 * time.Millisecond, 3 * time.Second
	d := min(first<<min(attempt, 10), last)
	return d/2 + rand.N(d/2)
}

// Syncer keeps a Sink up to date with ranges of the datastore: a snapshot, then
// InSync, then updates, for ever. See DESIGN.md for what it promises.
type Syncer struct {
	cfg     SyncerConfig
	changed chan struct{} // capacity 1: Follow was called

	mu     sync.Mutex
	lost   map[int]error // by range, why it isn't being followed
	wanted []Range       // of Follow
}

// NewSyncer makes a Syncer; Run starts it.
func NewSyncer(cfg SyncerConfig) *Syncer {
	if cfg.Backoff == nil {
		cfg.Backoff = DefaultBackoff
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Syncer{cfg: cfg, changed: make(chan struct{}, 1), lost: make(map[int]error, len(cfg.Ranges))}
	for i := range cfg.Ranges {
		s.lost[i] = ErrNotRead
	}
	return s
}

// ErrNotRead is the Health of a Syncer whose first reading is under way.
var ErrNotRead = errors.New("datastore not read yet")

// Health is nil while every range is being followed, else why one is not.
func (s *Syncer) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.lost)) {
		if err := s.lost[id]; err != nil {
			return err
		}
	}
	return nil
}

// Follow says which ranges are followed from now on beside those of the configuration, all
// of them; they may depend on what the Sink was told. What is no longer among them is
// followed until all that are have been read, so that what is in both is never told of as
// gone; then what was in it alone is gone. InSync waits for them if Follow is called in
// time: before Run, or by the Sink while it is told of what was read. Follow returns at
// once. It must not be called by several goroutines at a time.
func (s *Syncer) Follow(ranges []Range) {
	s.mu.Lock()
	s.wanted = slices.Clone(ranges)
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Run follows the ranges until ctx ends, and then returns nil. It may be called
// once.
func (s *Syncer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	f := &fleet{
		s: s, news: make(chan news, max(1, len(s.cfg.Ranges))), d: newDelivery(s.cfg.Sink, s.cfg.Log),
		members: map[int]member{}, outage: newOutage(s.cfg.Log),
	}
	defer f.running.Wait()
	defer cancel()
	for _, r := range s.cfg.Ranges {
		f.start(ctx, r, true)
	}
	f.d.sink.OnStatus(f.d.status)
	for f.tell(ctx); f.hear(ctx); {
		f.tell(ctx)
	}
	return nil
}

func (s *Syncer) setLost(id int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[id] = err
}

func (s *Syncer) forget(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.lost, id)
}

// outage logs one line when the datastore is lost, one when what is wrong with
// it changes in kind, and one when it is back.
type outage struct {
	log   *slog.Logger
	since time.Time
	class error
}

func newOutage(log *slog.Logger) *outage { return &outage{log: log} }

func (o *outage) begin(err error) {
	class := ErrUnavailable
	if errors.Is(err, ErrUnauthorized) {
		class = ErrUnauthorized
	}
	if errors.Is(o.class, class) {
		return
	}
	if o.class == nil {
		o.since = time.Now()
	}
	o.class = class
	o.log.Warn("datastore can't be read: going on with what is known, trying again", "err", err)
}

func (o *outage) end() {
	if o.class == nil {
		return
	}
	o.log.Info("datastore back", "after", time.Since(o.since).Round(time.Millisecond))
	o.class = nil
}
