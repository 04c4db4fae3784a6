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

// remark is what the history has of a prefix.
type remark struct {
	kernel, carried, problem string
	peer                     netip.Addr // invalid: there is no path
	stale                    bool
}

// remark is that of now; of no path if d is nil.
func (d *dest) remark() remark {
	if d == nil {
		return remark{}
	}
	out := remark{kernel: d.kernel, carried: d.carried, problem: d.problem, peer: d.path.Peer, stale: d.path.Stale}
	if d.group != nil && d.problem == "" {
		out.kernel = d.group.words
	}
	return out
}

// remarked is the remark last made: a group may have moved on since.
func (d *dest) remarked() remark {
	out := d.remark()
	if d != nil && d.group != nil && d.group.noted != nil && d.problem == "" {
		out.kernel = d.group.noted.words
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
		if d := f.best[prefix]; moved[key] && !f.history.ends(prefix, d.remark().event()) {
			f.note(prefix, d, d.remarked())
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
func (f *FIB) note(prefix netip.Prefix, d *dest, old remark) {
	if f.history == nil {
		return
	}
	now := d.remark()
	if now == old {
		return
	}
	ev := now.event()
	ev.restarting = now.stale && !old.stale
	f.history.add(prefix, ev)
}

func (r remark) event() event {
	return event{kernel: r.kernel, carried: r.carried, problem: r.problem, peer: r.peer}
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
