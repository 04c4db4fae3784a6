package datastore

import (
	"context"
	"slices"
	"sync"
)

// fleet is the followers of a Syncer that runs: those of its configuration, which stay,
// and those that Follow asks for.
type fleet struct {
	s       *Syncer
	news    chan news
	running sync.WaitGroup
	d       *delivery
	outage  *outage

	members map[int]member
	next    int // the next member
}

type member struct {
	rng   Range
	fixed bool // of the configuration
	stop  context.CancelFunc
}

func (f *fleet) start(ctx context.Context, r Range, fixed bool) {
	f.d.open(f.next, r)
	f.launch(ctx, r, fixed)
}

func (f *fleet) launch(ctx context.Context, r Range, fixed bool) {
	ctx, stop := context.WithCancel(ctx)
	m := follower{id: f.next, rng: r, client: f.s.cfg.Client, backoff: f.s.cfg.Backoff, log: f.s.cfg.Log, news: f.news}
	f.members[f.next] = member{rng: r, fixed: fixed, stop: stop}
	f.next++
	f.running.Go(func() { m.run(ctx) })
}

// hear waits for news and takes in all there is; false when ctx has ended.
func (f *fleet) hear(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case n := <-f.news:
		f.take(n)
	case <-f.s.changed:
	}
	for { // what else is there already goes along
		select {
		case n := <-f.news:
			f.take(n)
		default:
			return true
		}
	}
}

// tell hands everything on, and with it whoever is told may have asked for other ranges.
func (f *fleet) tell(ctx context.Context) {
	f.d.flush()
	for f.arrange(ctx) {
		f.d.flush()
	}
	f.renew(ctx)
	f.d.advance()
}

// arrange follows what is wanted. What isn't goes when all that is has been read. It
// reports whether something went.
func (f *fleet) arrange(ctx context.Context) bool {
	f.s.mu.Lock()
	wanted := slices.Clone(f.s.wanted)
	f.s.mu.Unlock()
	complete := true
	var left []int
	for id, m := range f.members {
		if m.fixed {
			continue
		}
		at := slices.Index(wanted, m.rng)
		if at < 0 {
			left = append(left, id)
			continue
		}
		wanted = slices.Delete(wanted, at, at+1)
		complete = complete && f.d.wasRead(id)
	}
	for _, r := range wanted {
		f.start(ctx, r, false)
		complete = false
	}
	if !complete {
		return false
	}
	for _, id := range left {
		f.end(id)
		f.d.drop(id)
	}
	return len(left) > 0
}

func (f *fleet) end(id int) {
	f.members[id].stop()
	delete(f.members, id)
	f.s.forget(id)
}

// renew lists the ranges again of which something is in doubt.
func (f *fleet) renew(ctx context.Context) {
	for id, c := range f.d.ranges {
		if c.stale {
			m := f.members[id]
			f.end(id)
			f.d.again(id, f.next)
			f.launch(ctx, m.rng, m.fixed)
		}
	}
}

// take records one piece of news, unless it is of a range that was given up.
func (f *fleet) take(n news) {
	if _, ok := f.members[n.id]; !ok {
		return
	}
	switch {
	case n.lost != nil:
		f.s.setLost(n.id, n.lost)
		f.outage.begin(n.lost)
	case n.snapshot != nil:
		f.d.snapshot(n.id, *n.snapshot)
	case n.following:
		f.s.setLost(n.id, nil)
		if f.s.Health() == nil {
			f.outage.end()
		}
	default:
		f.d.events(n.id, n.events)
	}
}
