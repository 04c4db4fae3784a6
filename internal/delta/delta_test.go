package delta_test

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tortie/internal/delta"
)

func diff(t rapid.TB, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("%s: want -, got +\n%s", what, d)
	}
}

func TestPartialFailureStaysPending(t *testing.T) {
	tr := delta.New[string, int]()
	tr.ReplaceActual(map[string]int{"same": 1, "other": 1, "gone": 1})
	tr.ReplaceDesired(map[string]int{"same": 1, "other": 2, "new": 3})
	diff(t, "updates", map[string]int{"other": 2, "new": 3}, maps.Collect(tr.PendingUpdates()))
	diff(t, "deletes", map[string]int{"gone": 1}, maps.Collect(tr.PendingDeletes()))

	tr.SetActual("new", 3) // "other" failed
	tr.DeleteActual("gone")
	diff(t, "updates", map[string]int{"other": 2}, maps.Collect(tr.PendingUpdates()))
	if tr.InSync() {
		t.Error("in sync although an update is pending")
	}
	tr.SetActual("other", 2)
	if !tr.InSync() {
		t.Error("not in sync although nothing is pending")
	}
}

// TestLoopMayRecordWhatItAchieves for each key at once, or for some together.
func TestLoopMayRecordWhatItAchieves(t *testing.T) {
	for _, together := range []int{1, 30, 100} {
		tr := delta.New[int, int]()
		for i := range 100 {
			tr.SetDesired(i, i)
			tr.SetActual(-1-i, i)
		}
		seen, done := 0, []int{}
		for k, v := range tr.PendingUpdates() {
			seen++
			if done = append(done, v); len(done) == together || k == 99 {
				for _, v := range done {
					tr.SetActual(v, v)
				}
				done = nil
			}
		}
		for k := range tr.PendingDeletes() {
			seen++
			if done = append(done, k); len(done) == together || k == -100 {
				for _, k := range done {
					tr.DeleteActual(k)
				}
				done = nil
			}
		}
		if seen != 200 || !tr.InSync() {
			t.Errorf("%d together: %d keys seen, in sync %v; want 200 and true", together, seen, tr.InSync())
		}
	}
}

// TestDifferenceIsAlwaysThatOfTheMaps compares the tracker, after any sequence of
// changes, with the difference worked out from two plain maps.
func TestDifferenceIsAlwaysThatOfTheMaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key, value := rapid.IntRange(0, 5), rapid.IntRange(0, 2)
		whole := rapid.MapOf(key, value)
		tr := delta.New[int, int]()
		desired, actual := map[int]int{}, map[int]int{}
		t.Repeat(map[string]func(*rapid.T){
			"set desired": func(t *rapid.T) {
				k, v := key.Draw(t, "key"), value.Draw(t, "value")
				desired[k] = v
				tr.SetDesired(k, v)
			},
			"delete desired": func(t *rapid.T) {
				k := key.Draw(t, "key")
				delete(desired, k)
				tr.DeleteDesired(k)
			},
			"replace desired": func(t *rapid.T) {
				desired = whole.Draw(t, "values")
				tr.ReplaceDesired(desired)
				desired = maps.Clone(desired)
			},
			"set actual": func(t *rapid.T) {
				k, v := key.Draw(t, "key"), value.Draw(t, "value")
				actual[k] = v
				tr.SetActual(k, v)
			},
			"delete actual": func(t *rapid.T) {
				k := key.Draw(t, "key")
				delete(actual, k)
				tr.DeleteActual(k)
			},
			"replace actual": func(t *rapid.T) {
				actual = whole.Draw(t, "values")
				tr.ReplaceActual(actual)
				actual = maps.Clone(actual)
			},
			"": func(t *rapid.T) {
				updates, deletes := map[int]int{}, map[int]int{}
				for k, v := range desired {
					if have, ok := actual[k]; !ok || have != v {
						updates[k] = v
					}
				}
				for k, v := range actual {
					if _, ok := desired[k]; !ok {
						deletes[k] = v
					}
				}
				diff(t, "desired", desired, maps.Collect(tr.AllDesired()))
				diff(t, "actual", actual, maps.Collect(tr.AllActual()))
				diff(t, "updates", updates, maps.Collect(tr.PendingUpdates()))
				diff(t, "deletes", deletes, maps.Collect(tr.PendingDeletes()))
				diff(t, "counts", []int{len(updates), len(deletes)}, []int{tr.NumUpdates(), tr.NumDeletes()})
			},
		})
	})
}
