package leaks

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tortie/ipam"
)

// suspects is all that the Collector remembers: since when what seems to be
// nobody's. A restart forgets it, which only releases later.
type suspects struct {
	mu sync.Mutex
	by map[subject]suspect

	count, oldest *prometheus.Desc
}

type suspect struct {
	since time.Time
	seen  map[assignment]bool
}

func newSuspects() *suspects {
	return &suspects{
		by:     map[subject]suspect{},
		count:  prometheus.NewDesc("ipam_gc_candidates", "Handles and nodes whose addresses seem to be nobody's.", nil, nil),
		oldest: prometheus.NewDesc("ipam_gc_oldest_candidate_seconds", "For how long the oldest candidate has seemed to be nobody's.", nil, nil),
	}
}

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

// Describe implements prometheus.Collector.
func (s *suspects) Describe(ch chan<- *prometheus.Desc) {
	ch <- s.count
	ch <- s.oldest
}

// Collect implements prometheus.Collector.
func (s *suspects) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest time.Duration
	for _, known := range s.by {
		oldest = max(oldest, time.Since(known.since))
	}
	ch <- prometheus.MustNewConstMetric(s.count, prometheus.GaugeValue, float64(len(s.by)))
	ch <- prometheus.MustNewConstMetric(s.oldest, prometheus.GaugeValue, oldest.Seconds())
}
