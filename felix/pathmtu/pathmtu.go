// Package pathmtu finds out which other nodes large packets don't reach, though small
// ones do: a device on the way carries less and does not say so, or its message is
// filtered. Whoever sends to such a node hangs without an error.
//
// It asks by packets that nobody may break up and that every kernel answers, so nothing of
// ours is needed at the other end.
package pathmtu

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Target is a node's address that large packets should reach.
type Target struct {
	Node string
	Addr netip.Addr
	// Size is that of the largest packets which pods' traffic makes on the way there, in
	// bytes with all headers of IP.
	Size int
}

// Finding is a Target that its large packets don't reach.
type Finding struct {
	Target
	// Most is the largest size that was answered.
	Most int
}

// Echo asks an address by one packet of a size, and reports whether it answered in time.
// ErrTooLarge says that somebody has told that it can't be sent on whole.
type Echo interface {
	Ask(ctx context.Context, to netip.Addr, size int) (answered bool, err error)
}

// ErrTooLarge: the packet is larger than this node's device, or a router says so of its own.
var ErrTooLarge = errors.New("the packet is larger than a device on the way")

// Config is what a Prober works with; all of it is required.
type Config struct {
	Echo Echo
	// Targets are the ones at present, in any order.
	Targets func() []Target
	// Every is the pause between two looks, each at one target.
	Every time.Duration
	Log   *slog.Logger
}

// Stats count since the start.
type Stats struct {
	// Passed, Lost and Unknown are the looks that found that large packets arrive, that
	// they don't, and that nothing answers.
	Passed, Lost, Unknown uint64
	Findings              []Finding
}

// Prober looks at one target after the other.
type Prober struct {
	cfg Config

	// Owned by the goroutine of Run.
	looked map[netip.Addr]time.Time
	again  bool // the last look was at a finding
	mute   bool // that it can't ask has been said

	mu    sync.Mutex
	stats Stats
	found map[netip.Addr]Finding
}

// New makes a Prober that has found nothing yet.
func New(cfg Config) *Prober {
	return &Prober{cfg: cfg, looked: map[netip.Addr]time.Time{}, found: map[netip.Addr]Finding{}}
}

// Stats are safe to ask for at any time.
func (p *Prober) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	for _, a := range slices.SortedFunc(maps.Keys(p.found), netip.Addr.Compare) {
		s.Findings = append(s.Findings, p.found[a])
	}
	return s
}

// Run looks until ctx ends. Nodes that started together don't stay in step.
func (p *Prober) Run(ctx context.Context) error {
	for {
		pause := p.cfg.Every - p.cfg.Every/4 + rand.N(p.cfg.Every/2+1)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		p.Step(ctx)
	}
}

// Step looks at the target whose turn it is.
func (p *Prober) Step(ctx context.Context) {
	targets := p.cfg.Targets()
	p.forget(targets)
	t, ok := p.next(targets)
	if !ok {
		return
	}
	p.looked[t.Addr] = time.Now()
	verdict, most, err := p.look(ctx, t)
	if ctx.Err() != nil {
		return
	}
	if err != nil && !p.mute {
		p.mute = true
		p.cfg.Log.Warn("whether large packets reach other nodes can't be found out", "err", err)
	}
	p.note(t, verdict, most)
}

// forget drops what is known of addresses that are no targets any more.
func (p *Prober) forget(targets []Target) {
	now := make(map[netip.Addr]bool, len(targets))
	for _, t := range targets {
		now[t.Addr] = true
	}
	maps.DeleteFunc(p.looked, func(a netip.Addr, _ time.Time) bool { return !now[a] })
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.found, func(a netip.Addr, _ Finding) bool { return !now[a] })
}

// next is the target that was looked at the longest time ago; of several that never
// were, any. Every other look is at one of which something was found: its end is to be
// seen soon.
func (p *Prober) next(targets []Target) (next Target, ok bool) {
	p.mu.Lock()
	found := maps.Clone(p.found)
	p.mu.Unlock()
	p.again = !p.again && len(found) > 0
	ties := 0
	for _, t := range targets {
		if _, is := found[t.Addr]; is != p.again && len(found) < len(targets) {
			continue
		}
		switch at, best := p.looked[t.Addr], p.looked[next.Addr]; {
		case !ok || at.Before(best):
			next, ok, ties = t, true, 1
		case at.Equal(best):
			if ties++; rand.N(ties) == 0 {
				next = t
			}
		}
	}
	return next, ok
}

type verdict int

const (
	unknown verdict = iota
	passed
	lost
)

// The sizes every path carries: packets smaller than these tell nothing.
const (
	least4 = 576
	least6 = 1280
)

// tries is how often a size is asked for before it counts as lost: packets get lost for
// other reasons, too.
const tries = 3

// look finds out about one target. Large packets count as lost only when small ones are
// answered before and after.
func (p *Prober) look(ctx context.Context, t Target) (v verdict, most int, err error) {
	small := least4
	if t.Addr.Is6() {
		small = least6
	}
	if t.Size <= small {
		return unknown, 0, nil
	}
	if ok, err := p.ask(ctx, t.Addr, small); err != nil || !ok {
		return unknown, 0, err
	}
	ok, err := p.ask(ctx, t.Addr, t.Size)
	if err != nil || ok {
		return map[bool]verdict{true: passed, false: unknown}[ok], 0, err
	}
	most, err = p.bisect(ctx, t, small)
	if err != nil {
		return unknown, 0, err
	}
	if ok, err := p.ask(ctx, t.Addr, small); err != nil || !ok {
		return unknown, 0, err
	}
	return lost, most, nil
}

// bisect finds the largest size that is answered, from one that is to one that isn't.
// What was found before is tried first.
func (p *Prober) bisect(ctx context.Context, t Target, small int) (int, error) {
	good, bad := small, t.Size
	p.mu.Lock()
	former := p.found[t.Addr].Most
	p.mu.Unlock()
	for guesses := []int{former, former + 1}; bad-good > 1; {
		size := (good + bad) / 2
		if len(guesses) > 0 {
			guess := guesses[0]
			guesses = guesses[1:]
			if guess <= good || guess >= bad {
				continue
			}
			size = guess
		}
		ok, err := p.ask(ctx, t.Addr, size)
		if err != nil {
			return 0, err
		}
		if ok {
			good = size
		} else {
			bad = size
		}
	}
	return good, nil
}

func (p *Prober) ask(ctx context.Context, to netip.Addr, size int) (bool, error) {
	for range tries {
		answered, err := p.cfg.Echo.Ask(ctx, to, size)
		switch {
		case errors.Is(err, ErrTooLarge):
			return false, nil
		case err != nil || answered:
			return answered, err
		}
	}
	return false, ctx.Err()
}

// note keeps what was found. What can't be told at present leaves what is known.
func (p *Prober) note(t Target, v verdict, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch v {
	case passed:
		p.stats.Passed++
		delete(p.found, t.Addr)
	case lost:
		p.stats.Lost++
		p.found[t.Addr] = Finding{Target: t, Most: most}
	case unknown:
		p.stats.Unknown++
	}
}
