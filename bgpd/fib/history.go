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
	displaced                string     // the route of another program that holds the place
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
		e = h.enter(prefix)
	}
	h.byAge.MoveToBack(e)
	p := e.Value.(*prefixHistory)
	if len(p.events) == historyChanges {
		p.events = slices.Delete(p.events, 0, 1)
	}
	p.events = append(p.events, ev)
}

// enter begins with a prefix, in the place of the one that changed longest ago when there
// are very many.
func (h *History) enter(prefix netip.Prefix) *list.Element {
	var e *list.Element
	if h.byAge.Len() < historyPrefixes {
		e = h.byAge.PushBack(&prefixHistory{})
	} else {
		e = h.byAge.Front()
		delete(h.of, e.Value.(*prefixHistory).prefix)
	}
	p := e.Value.(*prefixHistory)
	clear(p.events)
	p.prefix, p.events = prefix, p.events[:0]
	h.of[prefix] = e
	return e
}

// standing is what the history compares of a prefix. It holds words that were made
// already and makes none: it is taken with each decision, of which few change anything.
type standing struct {
	event
	stale bool
}

func (f *FIB) standing(prefix netip.Prefix) standing {
	d, ok := f.best[prefix]
	if f.history == nil || !ok {
		return standing{}
	}
	s := f.present(prefix, d)
	// A group may have moved on from what the history has.
	if d.group != nil && d.group.noted != nil && s.problem == "" {
		s.kernel = d.group.noted.words
	}
	return s
}

// present is the standing of a prefix as it is now.
func (f *FIB) present(prefix netip.Prefix, d *dest) standing {
	s := standing{event: event{kernel: d.words(), carried: d.carried, problem: d.problem, peer: d.path.Peer}, stale: d.path.Stale}
	if holder := f.displaced[prefix]; holder != "" && s.kernel != "" && s.carried == "" {
		s.kernel, s.displaced = "", holder
	}
	return s
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
		if d, ok := f.best[prefix]; moved[key] && ok && !f.history.ends(prefix, f.present(prefix, d).event) {
			f.note(prefix, f.standing(prefix))
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
func (f *FIB) note(prefix netip.Prefix, old standing) {
	if f.history == nil {
		return
	}
	var now standing
	if d, ok := f.best[prefix]; ok {
		now = f.present(prefix, d)
	}
	if now == old {
		return
	}
	now.restarting = now.stale && !old.stale
	f.history.add(prefix, now.event)
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
	case e.displaced != "":
		words = "not installed: " + displacedBy(e.displaced)
	}
	if e.restarting {
		words = "kept while the peer restarts: " + words
	}
	return fmt.Sprintf("%s, from peer %s", words, e.peer)
}
