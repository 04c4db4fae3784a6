package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"tortie/internal/datastore"
)

const (
	// lookEvery is how often a replica that stands by looks whether it could read
	// the datastore, and for how long it waits for an answer.
	lookEvery, lookTimeout = 10 * time.Second, 5 * time.Second
)

// standby knows whether a replica could work if it had to: following the datastore
// for that would cost as much as the work does.
type standby struct {
	client datastore.Client
	log    *slog.Logger
	first  chan struct{} // closed after the first answer

	mu      sync.Mutex
	problem error
}

var errNotAsked = errors.New("datastore not read yet")

func newStandby(client datastore.Client, log *slog.Logger) *standby {
	return &standby{client: client, log: log, first: make(chan struct{}), problem: errNotAsked}
}

// run looks until ctx ends.
func (s *standby) run(ctx context.Context) {
	answered := sync.OnceFunc(func() { close(s.first) })
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if s.look(ctx) {
			answered()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look reads something small.
func (s *standby) look(ctx context.Context) bool {
	asked, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	_, err := datastore.Ready(asked, s.client)
	if ctx.Err() != nil {
		return false
	}
	s.mu.Lock()
	before := s.problem
	s.problem = err
	s.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		s.log.Error("can't read the datastore: trying again", "err", err)
	}
	return err == nil
}

// waitForFirst waits for the first answer; false if ctx ended before.
func (s *standby) waitForFirst(ctx context.Context) bool {
	select {
	case <-s.first:
		return true
	case <-ctx.Done():
		return false
	}
}

// health is nil unless the datastore can't be read.
func (s *standby) health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}
