package fib

import (
	"container/list"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// What a History remembers at most: of so many prefixes, those that changed last, so
// many changes each.
const (
	historyPrefixes = 10_000
	historyChanges  = 10
)

// Change is one change of what becomes of a prefix.
type Change struct {
	Time time.Time
	Text string
}

// History holds the last changes of each prefix, bounded however many prefixes flap.
type History struct {
	now   func() time.Time
	byAge *list.List // of *prefixHistory, the latest changed last
	of    map[netip.Prefix]*list.Element
}

type prefixHistory struct {
	prefix netip.Prefix
	events []event
}

// event is a change as it is held: put into words only when asked for, as a hundred
// thousand routes may change at once.
type event struct {
	at                       time.Time
	kernel, carried, problem string
	peer                     netip.Addr // invalid: no path any more
	restarting               bool       // kept since the peer restarts
}

// NewHistory makes an empty one.
func NewHistory(now func() time.Time) *History {
	return &History{now: now, byAge: list.New(), of: map[netip.Prefix]*list.Element{}}
}

// Of are the last changes of a prefix, the newest last.
func (h *History) Of(prefix netip.Prefix) []Change {
	e, ok := h.of[prefix]
	if !ok {
		return nil
	}
	var out []Change
	for _, ev := range e.Value.(*prefixHistory).events {
		out = append(out, Change{Time: ev.at, Text: ev.words()})
	}
	return out
}

func (h *History) add(prefix netip.Prefix, ev event) {
	ev.at = h.now()
	e, known := h.of[prefix]
	if !known {
		e = h.byAge.PushBack(&prefixHistory{prefix: prefix})
		h.of[prefix] = e
	}
	h.byAge.MoveToBack(e)
	p := e.Value.(*prefixHistory)
	if len(p.events) == historyChanges {
		p.events = slices.Delete(p.events, 0, 1)
	}
	p.events = append(p.events, ev)
	if h.byAge.Len() > historyPrefixes {
		oldest := h.byAge.Remove(h.byAge.Front()).(*prefixHistory)
		delete(h.of, oldest.prefix)
	}
}

// before is what the history has of a prefix: its entry, of which a group may have moved on.
func (f *FIB) before(prefix netip.Prefix) Entry {
	out := f.entryOf(prefix)
	if d, ok := f.best[prefix]; ok && d.group != nil && d.group.noted != nil && d.problem == "" {
		out.Kernel = d.group.noted.words
	}
	return out
}

// noteMoved tells the history of the prefixes whose group has moved to other next hops,
// which is after the kernel has been told: they may be very many.
func (f *FIB) noteMoved() {
	moved := f.groups.moved()
	if len(moved) == 0 {
		return
	}
	for prefix, key := range f.groups.of {
		// One that was decided anew meanwhile has been noted.
		if moved[key] && !f.history.ends(prefix, eventOf(f.entryOf(prefix))) {
			f.note(prefix, f.before(prefix))
		}
	}
	for key := range moved {
		f.groups.byKey[key].noted = nil
	}
}

// moved are the groups of which the history has another outcome.
func (gs *groups) moved() map[string]bool {
	out := map[string]bool{}
	for key, g := range gs.byKey {
		if g.noted != nil {
			out[key] = true
		}
	}
	return out
}

// Record makes the FIB note its changes in h.
func (f *FIB) Record(h *History) { f.history = h }

// note tells the history what has become of a prefix that was old before, if forwarding
// is another.
func (f *FIB) note(prefix netip.Prefix, old Entry) {
	if f.history == nil {
		return
	}
	now := f.entryOf(prefix)
	if now.Kernel == old.Kernel && now.Problem == old.Problem && now.Carried == old.Carried && now.Path.Peer == old.Path.Peer && now.Path.Stale == old.Path.Stale {
		return
	}
	ev := eventOf(now)
	ev.restarting = now.Path.Stale && !old.Path.Stale
	f.history.add(prefix, ev)
}

func eventOf(e Entry) event {
	return event{kernel: e.Kernel, carried: e.Carried, problem: e.Problem, peer: e.Path.Peer}
}

// ends reports whether the last change of a prefix was to what ev says.
func (h *History) ends(prefix netip.Prefix, ev event) bool {
	e, ok := h.of[prefix]
	if !ok {
		return false
	}
	events := e.Value.(*prefixHistory).events
	last := events[len(events)-1]
	ev.at, ev.restarting = last.at, last.restarting
	return last == ev
}

func (e event) words() string {
	if !e.peer.IsValid() {
		return "gone: no path is accepted any more"
	}
	words := e.kernel
	switch {
	case e.carried != "" && e.problem != "":
		words = e.carried + ", but " + e.problem
	case e.carried != "":
		words = e.carried
	case e.problem != "":
		words = "not installed: " + e.problem
	}
	if e.restarting {
		words = "kept while the peer restarts: " + words
	}
	return fmt.Sprintf("%s, from peer %s", words, e.peer)
}
