package fakekernel

import (
	"context"
	"errors"

	"tortie/internal/kernel"
)

// backlog is how many events wait for a reader before they are lost.
const backlog = 1024

type subscriber struct {
	topics kernel.Topics
	ignore kernel.Ignore
	events chan kernel.Event
	lost   bool // the next thing to say is that events were lost
}

// Subscribe is [kernel.Handle.Subscribe].
func (k *Kernel) Subscribe(ctx context.Context, topics kernel.Topics) (<-chan kernel.Event, error) {
	return k.SubscribeExcept(ctx, topics, kernel.Ignore{})
}

// SubscribeExcept is [kernel.Handle.SubscribeExcept], but for Self: a fake does not
// know who asks it, and tells of everything.
func (k *Kernel) SubscribeExcept(ctx context.Context, topics kernel.Topics, ignore kernel.Ignore) (<-chan kernel.Event, error) {
	s := &subscriber{topics: topics, ignore: ignore, events: make(chan kernel.Event, backlog)}
	err := k.do("subscribe to kernel events", "", func() error {
		if err := ignore.Validate(); err != nil {
			return err
		}
		k.subs[s] = struct{}{}
		return nil
	})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() {
		k.machine.mu.Lock()
		defer k.machine.mu.Unlock()
		delete(k.subs, s)
		close(s.events)
	})
	return s.events, nil
}

// LoseEvents has every subscriber told that events were lost.
func (k *Kernel) LoseEvents() {
	k.machine.mu.Lock()
	defer k.machine.mu.Unlock()
	for s := range k.subs {
		s.lost = true
		s.flush()
	}
}

// tell is called with the lock held, so it never waits for a reader.
func (k *Kernel) tell(topic kernel.Topics, ev kernel.Event) {
	for s := range k.subs {
		if s.topics&topic == 0 || s.ignore.Covers(ev) || !s.flush() {
			continue
		}
		select {
		case s.events <- ev:
		default:
			s.lost = true
		}
	}
}

// flush is true when nothing lost remains to be told.
func (s *subscriber) flush() bool {
	if !s.lost {
		return true
	}
	select {
	case s.events <- kernel.Resync{Reason: errors.New("kernel events were lost")}:
		s.lost = false
		return true
	default:
		return false
	}
}
