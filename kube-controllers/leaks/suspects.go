package leaks

import (
	"sync"
	"time"

	"tortie/ipam"
)

// suspects is all that the Collector remembers: since when what seems to be
// nobody's. A restart forgets it, which only releases later.
type suspects struct {
	mu sync.Mutex
	by map[subject]suspect
}

type suspect struct {
	since time.Time
	seen  map[assignment]bool
}

func newSuspects() *suspects { return &suspects{by: map[subject]suspect{}} }

// since is when a subject came under suspicion: now, if it wasn't yet, or if it
// holds something else than then.
func (s *suspects) since(sub subject, seen []ipam.Allocation) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.by[sub]
	same := ok && len(known.seen) == len(seen)
	for _, a := range seen {
		same = same && known.seen[assignmentOf(a)]
	}
	if same {
		return known.since
	}
	now := suspect{since: time.Now(), seen: make(map[assignment]bool, len(seen))}
	for _, a := range seen {
		now.seen[assignmentOf(a)] = true
	}
	s.by[sub] = now
	return now.since
}

func (s *suspects) forget(sub subject) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, sub)
}

func (s *suspects) all() []subject {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]subject, 0, len(s.by))
	for sub := range s.by {
		out = append(out, sub)
	}
	return out
}

// oldest is for how long the oldest of them has been one.
func (s *suspects) oldest() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest time.Duration
	for _, known := range s.by {
		oldest = max(oldest, time.Since(known.since))
	}
	return oldest
}
