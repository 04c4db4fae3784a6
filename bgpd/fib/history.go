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
	prefix  netip.Prefix
	changes []Change
}

// NewHistory makes an empty one.
func NewHistory(now func() time.Time) *History {
	return &History{now: now, byAge: list.New(), of: map[netip.Prefix]*list.Element{}}
}

// Of are the last changes of a prefix, the newest last.
func (h *History) Of(prefix netip.Prefix) []Change {
	if e, ok := h.of[prefix]; ok {
		return slices.Clone(e.Value.(*prefixHistory).changes)
	}
	return nil
}

func (h *History) add(prefix netip.Prefix, text string) {
	e, known := h.of[prefix]
	if !known {
		e = h.byAge.PushBack(&prefixHistory{prefix: prefix})
		h.of[prefix] = e
	}
	h.byAge.MoveToBack(e)
	p := e.Value.(*prefixHistory)
	if len(p.changes) == historyChanges {
		p.changes = slices.Delete(p.changes, 0, 1)
	}
	p.changes = append(p.changes, Change{Time: h.now(), Text: text})
	if h.byAge.Len() > historyPrefixes {
		oldest := h.byAge.Remove(h.byAge.Front()).(*prefixHistory)
		delete(h.of, oldest.prefix)
	}
}

// Record makes the FIB note its changes in h.
func (f *FIB) Record(h *History) { f.history = h }

// note tells the history what has become of a prefix that was old before.
func (f *FIB) note(prefix netip.Prefix, old Entry) {
	if f.history == nil {
		return
	}
	now := f.entries[prefix]
	if text := became(old, now); text != "" {
		f.history.add(prefix, text)
	}
}

// became says how an entry changed; empty when forwarding is as it was.
func became(old, now Entry) string {
	from := fmt.Sprintf(", from peer %s", now.Path.Peer)
	switch {
	case !now.Path.Prefix.IsValid() && !old.Path.Prefix.IsValid():
		return ""
	case !now.Path.Prefix.IsValid():
		return "gone: no peer announces it any more"
	case now.Kernel == old.Kernel && now.Problem == old.Problem && now.Carried == old.Carried &&
		now.Path.Peer == old.Path.Peer && now.Path.NextHop == old.Path.NextHop && now.Path.Stale == old.Path.Stale:
		return ""
	case now.Path.Stale && !old.Path.Stale:
		return "kept while the peer restarts: " + outcome(now) + from
	}
	return outcome(now) + from
}

func outcome(e Entry) string {
	switch {
	case e.Carried != "" && e.Problem != "":
		return e.Carried + ", but " + e.Problem
	case e.Carried != "":
		return e.Carried
	case e.Problem != "":
		return "not installed: " + e.Problem
	}
	return e.Kernel
}
