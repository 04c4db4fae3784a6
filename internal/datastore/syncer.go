package datastore

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
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
// What is stored under a path that is no key at all has the zero Key and is
// identified by its Path: with Invalid while it is there, alone when it is gone.
type SyncUpdate struct {
	Key api.Key
	// Path is the raw key in the store; only when Key is zero.
	Path    string
	Entry   *Entry
	Invalid *Invalid
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
	// Ranges to follow; they must not overlap.
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
	cfg SyncerConfig

	mu   sync.Mutex
	lost map[int]error // by range, why it isn't being followed
}

// NewSyncer makes a Syncer; Run starts it.
func NewSyncer(cfg SyncerConfig) *Syncer {
	if cfg.Backoff == nil {
		cfg.Backoff = DefaultBackoff
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Syncer{cfg: cfg, lost: make(map[int]error, len(cfg.Ranges))}
	for i := range cfg.Ranges {
		s.lost[i] = errNotYetRead
	}
	return s
}

var errNotYetRead = errors.New("datastore not read yet")

// Health is nil while every range is being followed, else why one is not.
func (s *Syncer) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.cfg.Ranges {
		if err := s.lost[i]; err != nil {
			return err
		}
	}
	return nil
}

// Run follows the ranges until ctx ends, and then returns nil. It may be called
// once.
func (s *Syncer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	news := make(chan news, len(s.cfg.Ranges))
	var followers sync.WaitGroup
	for i, r := range s.cfg.Ranges {
		f := follower{id: i, rng: r, client: s.cfg.Client, backoff: s.cfg.Backoff, log: s.cfg.Log, news: news}
		followers.Go(func() { f.run(ctx) })
	}
	defer followers.Wait()
	defer cancel()

	d := newDelivery(s.cfg.Sink, s.cfg.Log, len(s.cfg.Ranges))
	outage := newOutage(s.cfg.Log)
	d.start()
	for {
		select {
		case <-ctx.Done():
			return nil
		case n := <-news:
			s.take(n, d, outage)
		}
		for more := true; more; { // what else is there already goes along
			select {
			case n := <-news:
				s.take(n, d, outage)
			default:
				more = false
			}
		}
		d.flush()
	}
}

// take records one piece of news.
func (s *Syncer) take(n news, d *delivery, outage *outage) {
	switch {
	case n.lost != nil:
		s.setLost(n.id, n.lost)
		outage.begin(n.lost)
	case n.snapshot != nil:
		d.snapshot(n.id, *n.snapshot)
	case n.following:
		s.setLost(n.id, nil)
		if s.Health() == nil {
			outage.end()
		}
	default:
		d.events(n.id, n.events)
	}
}

func (s *Syncer) setLost(id int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[id] = err
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
