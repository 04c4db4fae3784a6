// Package problems keeps the list of what is wrong on this node at present: one line
// each, in the log once, and handed on whole to whoever shows it.
package problems

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// Problem is one thing that someone should look at.
type Problem struct {
	// Reason and Topic make it the same thing as before, though its words change.
	Reason string // for machines: "DatastoreUnavailable"
	Topic  string // which of several with one Reason
	// Line says what, where, why, and what to do.
	Line string
	// Logged: whoever found it has it in the log already.
	Logged bool
	// Minor: it is not worth an Event.
	Minor bool
}

func (p Problem) same(o Problem) bool { return p.Reason == o.Reason && p.Topic == o.Topic }

// Source tells what is wrong with one part of felix now.
type Source func() []Problem

// Board asks its sources now and then.
type Board struct {
	sources []Source
	show    func([]Problem)
	log     *slog.Logger

	seen  []Problem // at the last look
	shown []Problem
	said  map[string]time.Time
}

// New makes a Board that calls show, from one goroutine, whenever the list is another.
func New(log *slog.Logger, show func([]Problem), sources ...Source) *Board {
	return &Board{sources: sources, show: show, log: log, said: map[string]time.Time{}}
}

const (
	// every is how often the sources are asked. What holds for less than that is
	// nobody's business: a problem counts when it is seen twice in a row.
	every = 3 * time.Second
	// sayAgain is how long a problem that goes on is not logged again.
	sayAgain = 5 * time.Minute
)

// Run asks until ctx ends.
func (b *Board) Run(ctx context.Context) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		b.Look()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Look asks all sources once.
func (b *Board) Look() {
	var found []Problem
	for _, ask := range b.sources {
		for _, p := range ask() {
			p.Line = strings.Join(strings.Fields(p.Line), " ")
			found = append(found, p)
		}
	}
	var now []Problem
	for _, p := range found {
		if slices.ContainsFunc(b.seen, p.same) && !slices.ContainsFunc(now, p.same) {
			now = append(now, p)
		}
	}
	b.seen = found
	b.say(now)
	if !slices.Equal(now, b.shown) {
		b.shown = now
		b.show(now)
	}
}

// say logs what is new, or has not been said for long, and what is gone.
func (b *Board) say(now []Problem) {
	for _, p := range now {
		key := p.Reason + "/" + p.Topic
		if at, told := b.said[key]; p.Logged || told && time.Since(at) < sayAgain {
			continue
		}
		b.said[key] = time.Now()
		b.log.Error("problem", "reason", p.Reason, "problem", p.Line)
	}
	for _, p := range b.shown {
		if key := p.Reason + "/" + p.Topic; !p.Logged && !slices.ContainsFunc(now, p.same) {
			delete(b.said, key)
			b.log.Info("problem gone", "reason", p.Reason, "was", p.Line)
		}
	}
}
