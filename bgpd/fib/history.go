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
	f.history.add(prefix, event{
		kernel: now.Kernel, carried: now.Carried, problem: now.Problem, peer: now.Path.Peer, restarting: now.Path.Stale && !old.Path.Stale,
	})
}

func (e event) words() string {
	if !e.peer.IsValid() {
		return "gone: no peer announces it any more"
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
