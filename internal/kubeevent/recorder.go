package kubeevent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"
)

// The pace of a Recorder.
const (
	// quiet is how long the same thing is not said again, though it went and came or
	// changed its words.
	quiet = time.Minute
	// again is how often it is said while it lasts: Events expire after an hour.
	again = 10 * time.Minute
	// pauseMin and pauseMax bound the pause after a failure.
	pauseMin, pauseMax = 2 * time.Second, time.Minute
)

// maxSeries bounds what is remembered.
const maxSeries = 64

// Recorder keeps the Events of one process as what is wrong there. It never makes
// anybody wait, and remembers a bounded number of things.
type Recorder struct {
	api   API
	about []Object
	role  string
	log   *slog.Logger

	mu      sync.Mutex
	series  []*series
	changed chan struct{} // holds one token when there may be work
}

// series is one thing that is, or was, wrong, and one object to which it is told.
type series struct {
	about   Object
	warning Warning
	holds   bool
	held    bool      // it held before Set was last called
	count   int       // how often it has been written
	sent    time.Time // when it was last written
	next    time.Time // when it is to be written next
	failed  error     // why it was not written the last time
}

// Config is what a Recorder works with.
type Config struct {
	API   API
	About []Object
	// Role is what has to allow the Events, for messages.
	Role string
	Log  *slog.Logger
}

// New makes a Recorder; Run starts it.
func New(cfg Config) *Recorder {
	return &Recorder{api: cfg.API, about: cfg.About, role: cfg.Role, log: cfg.Log, changed: make(chan struct{}, 1)}
}

// Set says what is wrong at present: all of it, the most important first.
func (r *Recorder) Set(now []Warning) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.series {
		s.held, s.holds = s.holds, false
	}
	news := false
	for _, w := range now[:min(len(now), maxSeries/max(len(r.about), 1))] {
		for _, about := range r.about {
			news = r.hold(about, w) || news
		}
	}
	r.forget()
	if !news {
		return
	}
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// hold notes that a Warning holds, and reports whether there is something new to say:
// that it is back is new, too.
func (r *Recorder) hold(about Object, w Warning) (news bool) {
	i := slices.IndexFunc(r.series, func(s *series) bool {
		return s.about == about && s.warning.Reason == w.Reason && s.warning.Topic == w.Topic
	})
	if i < 0 {
		r.series = append(r.series, &series{about: about, warning: w, holds: true})
		return true
	}
	s := r.series[i]
	news = !s.held && !s.holds || s.warning.Message != w.Message // not of one that is given twice
	if news && s.count > 0 {
		s.next = s.sent.Add(quiet)
	}
	s.holds, s.warning = true, w
	return news
}

// forget drops what holds no more, the oldest first, when there is too much.
func (r *Recorder) forget() {
	for len(r.series) > maxSeries {
		oldest := -1
		for i, s := range r.series {
			if !s.holds && (oldest < 0 || s.sent.Before(r.series[oldest].sent)) {
				oldest = i
			}
		}
		if oldest < 0 {
			return // Set holds no more than maxSeries
		}
		r.series = slices.Delete(r.series, oldest, oldest+1)
	}
}

// Run writes what is to be written until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	pause := pauseMin
	for {
		err := r.write(ctx)
		wait, changed := r.untilNext(), r.changed
		if err != nil {
			wait, changed = pause, nil // what is new meanwhile waits, too
			pause = min(2*pause, pauseMax)
		} else {
			pause = pauseMin
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-changed:
			timer.Stop()
		}
	}
}

// untilNext is how long nothing is to be written.
func (r *Recorder) untilNext() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait := again
	for _, s := range r.series {
		if s.holds {
			wait = min(wait, max(time.Until(s.next), 0))
		}
	}
	return wait
}

// write writes all that is due. An API server that can't be asked ends it; what it
// refuses is left out for a while.
func (r *Recorder) write(ctx context.Context) error {
	for {
		s, w, count := r.due()
		if s == nil {
			return nil
		}
		count, err := r.api.say(ctx, s.about, w, count, time.Now())
		if errors.Is(err, context.Canceled) {
			return err // nobody's failure
		}
		r.wrote(s, w, count, r.explain(err))
		if err != nil && !errors.As(err, new(*StatusError)) {
			return err
		}
	}
}

// explain adds what to do to what an operator can do something about.
func (r *Recorder) explain(err error) error {
	if isStatus(err, http.StatusForbidden) {
		return fmt.Errorf("events: RBAC forbids it: give the %s the verbs create and patch on events: %w", r.role, err)
	}
	return err
}

// due is something that is to be written now; nil when nothing is.
func (r *Recorder) due() (*series, Warning, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.series {
		if s.holds && !time.Now().Before(s.next) {
			return s, s.warning, s.count
		}
	}
	return nil, Warning{}, 0
}

// wrote notes what became of a Warning, and logs a failure that is news.
func (r *Recorder) wrote(s *series, w Warning, count int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && !r.met(s, err) {
		r.log.Warn("an Event can't be written: trying again", "err", err)
	}
	now := time.Now()
	s.failed = err
	switch {
	case errors.As(err, new(*StatusError)):
		s.next = now.Add(pauseMax)
	case err != nil: // Run waits
	case s.warning.Message != w.Message: // it has changed meanwhile
		s.count, s.sent, s.next = count, now, now.Add(quiet)
	default:
		s.count, s.sent, s.next = count, now, now.Add(again)
	}
}

// met reports whether a failure is known: of this series from the last time, or of
// another one that goes on. The words may differ between series, each keeping its own.
func (r *Recorder) met(of *series, err error) bool {
	return slices.ContainsFunc(r.series, func(s *series) bool {
		return (s == of || s.holds) && s.failed != nil && s.failed.Error() == err.Error()
	})
}

// Problem is why Events can't be written at present; nil when they can.
func (r *Recorder) Problem() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem()
}

func (r *Recorder) problem() error {
	for _, s := range r.series {
		if s.holds && s.failed != nil {
			return s.failed
		}
	}
	return nil
}

// Say writes a Warning about every object at once, for a program that is about to
// end.
func Say(ctx context.Context, api API, about []Object, w Warning) error {
	var failed error
	for _, o := range about {
		_, err := api.say(ctx, o, w, 0, time.Now())
		failed = errors.Join(failed, err)
	}
	return failed
}
