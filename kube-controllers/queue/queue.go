// Package queue is the work of one controller: keys that want to be looked at,
// each at most once in the queue and by one worker at a time, tried again after
// growing pauses while looking at it fails.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/workqueue"

	"tortie/internal/datastore"
)

const (
	// firstRetry and lastRetry bound the pause before a key that failed.
	firstRetry, lastRetry = 100 * time.Millisecond, 2 * time.Minute
	// patience is how long one look at a key may take before it is cancelled, and
	// stalled how long until its worker counts as stuck: cancelling didn't help.
	patience, stalled = time.Minute, 5 * time.Minute
)

// Config says what a Queue does.
type Config[K comparable] struct {
	// Name of the controller, in logs and metrics.
	Name string
	// Workers is how many keys are looked at at the same time; 1 when less.
	Workers int
	// Reconcile brings about what should be for a key, whatever happened to it. It
	// must return soon after its context ends.
	Reconcile func(ctx context.Context, key K) error
	Log       *slog.Logger
	Metrics   *Metrics
}

// Queue is the work of one controller. Its methods are safe for concurrent use.
type Queue[K comparable] struct {
	cfg  Config[K]
	work workqueue.TypedRateLimitingInterface[K]
	keys chan K // from the feeder to the workers

	feeding sync.Once
	closed  chan struct{}

	mu   sync.Mutex
	busy map[K]time.Time // since when a worker is at a key
}

// New makes a Queue; Run does the work, and Close has to end it. Keys added before
// it runs wait.
func New[K comparable](cfg Config[K]) *Queue[K] {
	cfg.Workers = max(cfg.Workers, 1)
	retry := workqueue.NewTypedItemExponentialFailureRateLimiter[K](firstRetry, lastRetry)
	return &Queue[K]{
		cfg: cfg, work: workqueue.NewTypedRateLimitingQueue[K](retry), keys: make(chan K),
		closed: make(chan struct{}), busy: map[K]time.Time{},
	}
}

// Add asks for a look at a key.
func (q *Queue[K]) Add(key K) {
	q.work.Add(key)
	q.cfg.Metrics.setDepth(q.cfg.Name, q.work.Len())
}

// AddAfter asks for a look at a key after d.
func (q *Queue[K]) AddAfter(key K, d time.Duration) { q.work.AddAfter(key, d) }

// Run works until ctx ends and then waits for what is under way. It may be called
// again then: keys are kept, and new ones taken, in between.
func (q *Queue[K]) Run(ctx context.Context) {
	q.feeding.Do(func() { go q.feed() })
	var workers sync.WaitGroup
	for range q.cfg.Workers {
		workers.Go(func() {
			for q.next(ctx) {
			}
		})
	}
	workers.Wait()
}

// Close ends the Queue for good. Nothing may run any more.
func (q *Queue[K]) Close() {
	q.work.ShutDown()
	close(q.closed)
}

// feed hands keys to the workers while there are any.
func (q *Queue[K]) feed() {
	for {
		key, end := q.work.Get()
		if end {
			return
		}
		select {
		case q.keys <- key:
		case <-q.closed:
			return
		}
	}
}

// next looks at one key; false when ctx has ended.
func (q *Queue[K]) next(ctx context.Context) bool {
	var key K
	select {
	case <-ctx.Done():
		return false
	case key = <-q.keys:
	}
	defer q.work.Done(key)
	q.cfg.Metrics.setDepth(q.cfg.Name, q.work.Len())
	start := time.Now()
	q.setBusy(key, start)
	err := q.reconcile(ctx, key)
	q.setBusy(key, time.Time{})
	q.cfg.Metrics.done(q.cfg.Name, time.Since(start), err)
	switch {
	case err == nil:
		q.work.Forget(key)
	case ctx.Err() != nil:
		q.work.Add(key) // for the next Run
	default:
		q.report(ctx, key, err)
		q.work.AddRateLimited(key)
	}
	return true
}

func (q *Queue[K]) reconcile(ctx context.Context, key K) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return q.cfg.Reconcile(ctx, key)
}

// report logs what failed. That somebody else was faster is part of normal
// operation.
func (q *Queue[K]) report(ctx context.Context, key K, err error) {
	level := slog.LevelWarn
	if errors.Is(err, datastore.ErrConflict) {
		level = slog.LevelDebug
	}
	q.cfg.Log.Log(ctx, level, "will try again", "controller", q.cfg.Name, "key", fmt.Sprint(key),
		"failures", q.work.NumRequeues(key)+1, "err", err)
}

func (q *Queue[K]) setBusy(key K, since time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if since.IsZero() {
		delete(q.busy, key)
		return
	}
	q.busy[key] = since
}

// Health is nil unless a worker is stuck.
func (q *Queue[K]) Health() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key, since := range q.busy {
		if d := time.Since(since); d > stalled {
			return fmt.Errorf("controller %s: stuck at %v for %s", q.cfg.Name, key, d.Round(time.Second))
		}
	}
	return nil
}

// Metrics counts the work of all queues; nil counts nothing.
type Metrics struct {
	depth    *prometheus.GaugeVec
	seconds  *prometheus.HistogramVec
	failures *prometheus.CounterVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	label := []string{"controller"}
	m := &Metrics{
		depth: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kube_controllers_queue_depth", Help: "Keys that wait to be looked at.",
		}, label),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kube_controllers_reconcile_seconds", Help: "How long looking at a key took.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}, label),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kube_controllers_reconcile_failures_total", Help: "Looks at a key that failed and are repeated.",
		}, label),
	}
	reg.MustRegister(m.depth, m.seconds, m.failures)
	return m
}

func (m *Metrics) setDepth(name string, n int) {
	if m != nil {
		m.depth.WithLabelValues(name).Set(float64(n))
	}
}

func (m *Metrics) done(name string, d time.Duration, err error) {
	if m == nil {
		return
	}
	m.seconds.WithLabelValues(name).Observe(d.Seconds())
	if err != nil {
		m.failures.WithLabelValues(name).Inc()
	}
}
