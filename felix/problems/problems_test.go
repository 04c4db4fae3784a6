package problems

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestProblemIsToldOnceAndUntilItIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		var shown [][]Problem
		var now []Problem
		b := New(slog.New(slog.NewTextHandler(&log, nil)), func(list []Problem) { shown = append(shown, list) }, func() []Problem { return now })
		lines := func() int { n := strings.Count(log.String(), "\n"); log.Reset(); return n }
		look := func(n int) {
			for range n {
				b.Look()
				time.Sleep(every)
			}
		}
		away := Problem{Reason: "DatastoreUnavailable", Line: "etcd is away"}
		look(3)
		now = []Problem{away}
		look(1)
		if len(shown) > 0 || lines() > 0 {
			t.Errorf("told at once, though it may be over in a moment: %v", shown)
		}
		look(20)
		want := [][]Problem{{away}}
		if diff := cmp.Diff(want, shown); diff != "" || lines() != 1 {
			t.Error(diff)
		}
		now = []Problem{{Reason: away.Reason, Line: "etcd is away, for another reason"}}
		look(2)
		now = []Problem{now[0], {Reason: "ObjectNotHonoured", Line: "pool", Minor: true, Logged: true}}
		look(2)
		if len(shown) != 3 || len(shown[2]) != 2 || lines() != 0 {
			t.Errorf("%v\n%s", shown, log.String())
		}
		look(int(20*time.Minute/every) + 1)
		if n := lines(); n < 3 || n > 4 {
			t.Errorf("what goes on is said %d times in 20 minutes", n)
		}
		now = nil
		look(2)
		if last := shown[len(shown)-1]; len(last) > 0 || !strings.Contains(log.String(), "problem gone") || lines() != 1 {
			t.Errorf("%v", last)
		}
	})
}

func TestEveryProblemIsOneLine(t *testing.T) {
	var shown []Problem
	b := New(slog.New(slog.DiscardHandler), func(list []Problem) { shown = list }, func() []Problem {
		return []Problem{{Reason: "A", Line: "one\n\ttwo  three"}, {Reason: "A", Line: "the same thing again"}}
	})
	b.Look()
	b.Look()
	if len(shown) != 1 || shown[0].Line != "one two three" {
		t.Errorf("%v", shown)
	}
}
