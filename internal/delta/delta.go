// Package delta tracks what is desired against what is there and yields the
// difference.
package delta

import "iter"

// Tracker holds the desired and the actual value of every key. The difference is
// kept up to date with each change, so asking for it costs what it is long, not
// what the maps are.
//
// Whoever applies the difference reports each key that was really achieved with
// SetActual or DeleteActual; what is not reported stays pending. A Tracker is not
// safe for concurrent use.
type Tracker[K, V comparable] struct {
	desired map[K]V
	actual  map[K]V
	updates map[K]struct{} // desired, and actual is missing or another
	deletes map[K]struct{} // actual, and not desired
}

// New makes an empty Tracker.
func New[K, V comparable]() *Tracker[K, V] {
	return &Tracker[K, V]{
		desired: map[K]V{}, actual: map[K]V{},
		updates: map[K]struct{}{}, deletes: map[K]struct{}{},
	}
}

// SetDesired wants key to be value.
func (t *Tracker[K, V]) SetDesired(key K, value V) {
	t.desired[key] = value
	t.compare(key)
}

// DeleteDesired wants key to be gone.
func (t *Tracker[K, V]) DeleteDesired(key K) {
	delete(t.desired, key)
	t.compare(key)
}

// ReplaceDesired wants exactly the given values.
func (t *Tracker[K, V]) ReplaceDesired(values map[K]V) {
	replace(t.desired, values, t.SetDesired, t.DeleteDesired)
}

// SetActual records that key is value.
func (t *Tracker[K, V]) SetActual(key K, value V) {
	t.actual[key] = value
	t.compare(key)
}

// DeleteActual records that key is gone.
func (t *Tracker[K, V]) DeleteActual(key K) {
	delete(t.actual, key)
	t.compare(key)
}

// ReplaceActual records that exactly the given values are there, as after
// reading them back.
func (t *Tracker[K, V]) ReplaceActual(values map[K]V) {
	replace(t.actual, values, t.SetActual, t.DeleteActual)
}

func replace[K, V comparable](have, want map[K]V, set func(K, V), remove func(K)) {
	for k := range have {
		if _, ok := want[k]; !ok {
			remove(k)
		}
	}
	for k, v := range want {
		if old, ok := have[k]; !ok || old != v {
			set(k, v)
		}
	}
}

// compare restores the invariant of updates and deletes for one key.
func (t *Tracker[K, V]) compare(key K) {
	want, wanted := t.desired[key]
	have, there := t.actual[key]
	setMember(t.updates, key, wanted && (!there || want != have))
	setMember(t.deletes, key, there && !wanted)
}

func setMember[K comparable](set map[K]struct{}, key K, member bool) {
	if member {
		set[key] = struct{}{}
	} else {
		delete(set, key)
	}
}

// Desired is what key is wanted to be.
func (t *Tracker[K, V]) Desired(key K) (V, bool) {
	v, ok := t.desired[key]
	return v, ok
}

// Actual is what key is known to be.
func (t *Tracker[K, V]) Actual(key K) (V, bool) {
	v, ok := t.actual[key]
	return v, ok
}

// AllDesired yields every desired value, in no order.
func (t *Tracker[K, V]) AllDesired() iter.Seq2[K, V] { return all(t.desired) }

// AllActual yields every actual value, in no order.
func (t *Tracker[K, V]) AllActual() iter.Seq2[K, V] { return all(t.actual) }

func all[K comparable, V any](m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for k, v := range m {
			if !yield(k, v) {
				return
			}
		}
	}
}

// PendingUpdates yields every key that is not as desired, with the value it is
// to have, in no order. The loop may record what it achieved for the key at hand.
func (t *Tracker[K, V]) PendingUpdates() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for k := range t.updates {
			if !yield(k, t.desired[k]) {
				return
			}
		}
	}
}

// PendingDeletes yields every key that is there and not desired, with the value
// it has, in no order. The loop may record what it achieved for the key at hand.
func (t *Tracker[K, V]) PendingDeletes() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for k := range t.deletes {
			if !yield(k, t.actual[k]) {
				return
			}
		}
	}
}

// NumUpdates is how many keys PendingUpdates yields.
func (t *Tracker[K, V]) NumUpdates() int { return len(t.updates) }

// NumDeletes is how many keys PendingDeletes yields.
func (t *Tracker[K, V]) NumDeletes() int { return len(t.deletes) }

// InSync reports that nothing is pending.
func (t *Tracker[K, V]) InSync() bool { return len(t.updates)+len(t.deletes) == 0 }
