// Package delta tracks what is desired against what is there and yields the
// difference.
package delta

import (
	"iter"
	"slices"
)

// Tracker holds the desired and the actual value of every key. The difference is
// kept up to date with each change, so asking for it costs what it is long, not
// what the maps are.
//
// Whoever applies the difference reports each key that was really achieved with
// SetActual or DeleteActual; what is not reported stays pending. A Tracker is not
// safe for concurrent use.
type Tracker[K, V comparable] struct {
	items   map[K]*item[K, V]
	pending []*item[K, V] // each item that may be pending, and some that no longer are
	updates int           // items that are desired, and actual is missing or another
	deletes int           // items that are actual, and not desired
}

// item is one key that is desired or actual.
type item[K, V comparable] struct {
	key             K
	desired, actual V
	wanted, there   bool
	listed          bool // in pending
}

func (i *item[K, V]) update() bool { return i.wanted && (!i.there || i.desired != i.actual) }
func (i *item[K, V]) remove() bool { return i.there && !i.wanted }

// New makes an empty Tracker.
func New[K, V comparable]() *Tracker[K, V] { return &Tracker[K, V]{items: map[K]*item[K, V]{}} }

// SetDesired wants key to be value.
func (t *Tracker[K, V]) SetDesired(key K, value V) {
	t.change(key, true, func(i *item[K, V]) { i.desired, i.wanted = value, true })
}

// DeleteDesired wants key to be gone.
func (t *Tracker[K, V]) DeleteDesired(key K) {
	t.change(key, false, func(i *item[K, V]) { i.wanted = false })
}

// ReplaceDesired wants exactly the given values.
func (t *Tracker[K, V]) ReplaceDesired(values map[K]V) {
	replace(t.AllDesired(), t.Desired, values, t.SetDesired, t.DeleteDesired)
}

// SetActual records that key is value.
func (t *Tracker[K, V]) SetActual(key K, value V) {
	t.change(key, true, func(i *item[K, V]) { i.actual, i.there = value, true })
}

// DeleteActual records that key is gone.
func (t *Tracker[K, V]) DeleteActual(key K) {
	t.change(key, false, func(i *item[K, V]) { i.there = false })
}

// ReplaceActual records that exactly the given values are there, as after
// reading them back.
func (t *Tracker[K, V]) ReplaceActual(values map[K]V) {
	replace(t.AllActual(), t.Actual, values, t.SetActual, t.DeleteActual)
}

func replace[K, V comparable](have iter.Seq2[K, V], get func(K) (V, bool), want map[K]V, set func(K, V), remove func(K)) {
	for k := range have {
		if _, ok := want[k]; !ok {
			remove(k)
		}
	}
	for k, v := range want {
		if old, ok := get(k); !ok || old != v {
			set(k, v)
		}
	}
}

// change changes a key's item, which may be a new one, and keeps the counts. An item
// that is neither desired nor actual any more goes.
func (t *Tracker[K, V]) change(key K, mayBeNew bool, f func(*item[K, V])) {
	i, ok := t.items[key]
	if !ok {
		if !mayBeNew {
			return
		}
		i = &item[K, V]{key: key}
		t.items[key] = i
	}
	t.count(i, -1)
	f(i)
	t.count(i, 1)
	if !i.wanted && !i.there {
		delete(t.items, key)
	}
	if !i.listed && (i.update() || i.remove()) {
		i.listed = true
		t.pending = append(t.pending, i)
		// What comes and goes while nobody asks must not pile up.
		if len(t.pending) > minPending && len(t.pending) > 2*(t.updates+t.deletes) {
			t.list()
		}
	}
}

// minPending is how many items pending may have without anyone caring.
const minPending = 1024

func (t *Tracker[K, V]) count(i *item[K, V], by int) {
	switch {
	case i.update():
		t.updates += by
	case i.remove():
		t.deletes += by
	}
}

// Desired is what key is wanted to be.
func (t *Tracker[K, V]) Desired(key K) (v V, ok bool) {
	if i := t.items[key]; i != nil && i.wanted {
		return i.desired, true
	}
	return v, false
}

// Actual is what key is known to be.
func (t *Tracker[K, V]) Actual(key K) (v V, ok bool) {
	if i := t.items[key]; i != nil && i.there {
		return i.actual, true
	}
	return v, false
}

// AllDesired yields every desired value, in no order.
func (t *Tracker[K, V]) AllDesired() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for k, i := range t.items {
			if i.wanted && !yield(k, i.desired) {
				return
			}
		}
	}
}

// AllActual yields every actual value, in no order.
func (t *Tracker[K, V]) AllActual() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for k, i := range t.items {
			if i.there && !yield(k, i.actual) {
				return
			}
		}
	}
}

// PendingUpdates yields every key that is not as desired, with the value it is
// to have, in the order they became so. The loop may record what it achieved for the
// key at hand and for those before it.
func (t *Tracker[K, V]) PendingUpdates() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, i := range t.list() {
			if i.update() && !yield(i.key, i.desired) {
				return
			}
		}
	}
}

// PendingDeletes yields every key that is there and not desired, with the value
// it has, in the order they became so. The loop may record what it achieved for the
// key at hand and for those before it.
func (t *Tracker[K, V]) PendingDeletes() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, i := range t.list() {
			if i.remove() && !yield(i.key, i.actual) {
				return
			}
		}
	}
}

// list is what is pending, without what no longer is.
func (t *Tracker[K, V]) list() []*item[K, V] {
	if t.updates+t.deletes == 0 {
		for _, i := range t.pending {
			i.listed = false
		}
		t.pending = nil
		return nil
	}
	t.pending = slices.DeleteFunc(t.pending, func(i *item[K, V]) bool {
		i.listed = i.update() || i.remove()
		return !i.listed
	})
	return t.pending
}

// NumUpdates is how many keys PendingUpdates yields.
func (t *Tracker[K, V]) NumUpdates() int { return t.updates }

// NumDeletes is how many keys PendingDeletes yields.
func (t *Tracker[K, V]) NumDeletes() int { return t.deletes }

// InSync reports that nothing is pending.
func (t *Tracker[K, V]) InSync() bool { return t.updates+t.deletes == 0 }
