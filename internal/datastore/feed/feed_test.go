package feed_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/feed"
	"tortie/internal/datastore/record"
)

const window = 100 * time.Millisecond

// told is one event as the reader got it.
type told struct {
	name string
	rev  datastore.Revision
	gone bool
	at   time.Duration // since the start
}

// bench is a feed whose changes and events are counted in simulated time.
type bench struct {
	feed  *feed.Feed
	rev   datastore.Revision
	start time.Time
	seen  []told
	done  chan struct{}
	stop  context.CancelFunc
}

// newBench reads a feed, each batch after a pause.
func newBench(coalesce time.Duration, pause func() time.Duration) *bench {
	return newBenchOf(datastore.Range{Coalesce: coalesce}, pause)
}

func newBenchOf(r datastore.Range, pause func() time.Duration) *bench {
	r.Kind = api.KindIPAMHandle
	ctx, stop := context.WithCancel(context.Background())
	b := &bench{start: time.Now(), done: make(chan struct{}), stop: stop}
	b.feed = feed.New(ctx, record.NewCodec(api.NewRegistry()), r)
	go func() {
		defer close(b.done)
		for events := range b.feed.Events() {
			for _, ev := range events {
				b.seen = append(b.seen, told{ev.Key.Name, ev.Revision, ev.Deleted, time.Since(b.start)})
			}
			time.Sleep(pause())
		}
	}()
	return b
}

func (b *bench) put(names ...string) bool {
	var changes []record.Change
	for _, name := range names {
		b.rev++
		changes = append(changes, record.Change{Pair: record.Pair{
			Path: "/calico/ipam/v2/handle/" + name, Value: []byte(`{"block":{}}`), Revision: b.rev,
		}})
	}
	return b.feed.Put(changes)
}

func (b *bench) remove(name string) {
	b.rev++
	b.feed.Put([]record.Change{{Pair: record.Pair{Path: "/calico/ipam/v2/handle/" + name, Revision: b.rev}, Deleted: true}})
}

func (b *bench) end() {
	b.stop()
	b.feed.Close()
	<-b.done
}

// expect compares what was told until now.
func (b *bench) expect(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	var got []string
	for _, s := range b.seen {
		text := fmt.Sprintf("%s@%d after %s", s.name, s.rev, s.at)
		if s.gone {
			text = "no " + text
		}
		got = append(got, text)
	}
	if !slices.Equal(got, want) {
		t.Errorf("told of\n%q, want\n%q", got, want)
	}
}

func promptly() time.Duration { return 0 }

func TestTheFirstChangeIsToldAtOnceAndThenTheLastOfEachWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(window, promptly)
		defer b.end()
		for range 25 { // at 0, 9, … 216 ms
			b.put("a")
			time.Sleep(9 * time.Millisecond)
		}
		time.Sleep(time.Second)
		b.expect(t, "a@1 after 0s", "a@12 after 100ms", "a@23 after 200ms", "a@25 after 300ms")
		b.put("a") // quiet again
		b.expect(t, "a@1 after 0s", "a@12 after 100ms", "a@23 after 200ms", "a@25 after 300ms", "a@26 after 1.225s")
	})
}

func TestAnotherKeyIsNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(window, promptly)
		defer b.end()
		b.put("a")
		b.put("a")
		time.Sleep(10 * time.Millisecond)
		b.put("b", "a", "c", "c")
		b.expect(t, "a@1 after 0s", "b@3 after 10ms", "c@5 after 10ms")
		b.remove("c")
		time.Sleep(time.Second)
		b.expect(t, "a@1 after 0s", "b@3 after 10ms", "c@5 after 10ms", "a@4 after 100ms", "no c@7 after 110ms")
	})
}

func TestNothingIsHeldWithoutCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, promptly)
		defer b.end()
		b.put("a", "a")
		b.put("a")
		b.expect(t, "a@1 after 0s", "a@2 after 0s", "a@3 after 0s")
	})
}

func TestADelayGathersWhatComesWithinIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBenchOf(datastore.Range{Delay: window}, promptly)
		b.put("a", "b")
		b.expect(t)
		time.Sleep(window - time.Millisecond)
		b.put("a", "c")
		b.remove("b")
		time.Sleep(time.Millisecond)
		b.expect(t, "a@3 after 100ms", "c@4 after 100ms", "no b@5 after 100ms")
		b.put("a")
		time.Sleep(time.Second)
		told := []string{"a@3 after 100ms", "c@4 after 100ms", "no b@5 after 100ms", "a@6 after 200ms"}
		b.expect(t, told...)
		b.put("a")
		b.end() // what waits is lost with the watch
		b.expect(t, told...)
	})
}

// TestADelayWhileTheReaderIsSlow: what comes while it reads waits, and is told after
// it with the last version of each key.
func TestADelayWhileTheReaderIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBenchOf(datastore.Range{Delay: window}, func() time.Duration { return time.Second })
		defer b.end()
		for range 200 {
			b.put("a")
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := len(b.seen); n < 3 || n > 6 || b.seen[n-1].rev != 200 {
			t.Errorf("told of %v", b.seen)
		}
	})
}

// TestWhatIsNotOfTheRangeSetsNoTimer: the store sends more than is wanted where a range has
// no prefix of its own.
func TestWhatIsNotOfTheRangeSetsNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBenchOf(datastore.Range{Delay: window, NamePrefix: "a"}, promptly)
		defer b.end()
		b.put("b")
		time.Sleep(window / 2)
		b.put("a1", "c") // were it for b, it would be told in half the time
		time.Sleep(window - time.Millisecond)
		b.expect(t)
		time.Sleep(time.Millisecond)
		b.expect(t, "a1@2 after 150ms")
	})
}

func TestWhatIsHeldDoesNotOutliveTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(window, promptly)
		b.put("a")
		b.put("a")
		b.end() // synctest fails should a goroutine stay
		if b.put("a") {
			t.Error("Put succeeds after the end")
		}
		b.expect(t, "a@1 after 0s")
	})
}

// TestAFeedEndsWhileNobodyReads: neither Put nor the timer waits for a reader who
// has gone.
func TestAFeedEndsWhileNobodyReads(t *testing.T) {
	asleep := func() time.Duration { return time.Hour }
	synctest.Test(t, func(t *testing.T) {
		b := newBench(window, asleep)
		b.put("a") // the reader takes it and reads no more
		put := make(chan bool)
		go func() { put <- b.put("b") }()
		synctest.Wait()
		b.stop()
		if <-put {
			t.Error("Put succeeds after the end")
		}
		b.end()
	})
	synctest.Test(t, func(*testing.T) {
		b := newBench(window, asleep)
		b.put("a", "a")
		time.Sleep(2 * window) // the timer waits for the reader
		b.put("b")             // and this for the timer
		b.end()
	})
}

// TestEveryReaderEndsUpWithTheLastOfEachKey whatever the pace of changes and of the
// reader: in the order of each key, no key twice within a window, and without delay
// beyond it when the reader is prompt.
func TestEveryReaderEndsUpWithTheLastOfEachKey(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ms := rapid.Map(rapid.IntRange(0, 250), func(n int) time.Duration { return time.Duration(n) * time.Millisecond })
		names := rapid.SliceOfN(rapid.StringMatching(`[a-d]`), 1, 4)
		gaps := rapid.SliceOfN(ms, 1, 60).Draw(rt, "gaps")
		pauses := rapid.SliceOfN(ms, 1, 10).Draw(rt, "pauses")
		prompt := rapid.Bool().Draw(rt, "prompt reader")
		batches := make([][]string, len(gaps))
		for i := range batches {
			batches[i] = names.Draw(rt, "batch")
		}
		synctest.Test(t, func(t *testing.T) {
			reads := 0
			b := newBench(window, func() time.Duration {
				reads++
				if prompt {
					return 0
				}
				return pauses[reads%len(pauses)]
			})
			changed := map[string][]told{}
			for i, batch := range batches {
				for j, name := range batch {
					changed[name] = append(changed[name], told{name, b.rev + datastore.Revision(j) + 1, false, time.Since(b.start)})
				}
				b.put(batch...)
				time.Sleep(gaps[i])
			}
			time.Sleep(time.Minute)
			b.end()
			for name, all := range changed {
				checkKey(t, name, all, b.seen, prompt)
			}
		})
	})
}

func checkKey(t *testing.T, name string, changed, seen []told, prompt bool) {
	t.Helper()
	seen = slices.DeleteFunc(slices.Clone(seen), func(s told) bool { return s.name != name })
	if len(seen) == 0 || seen[len(seen)-1].rev != changed[len(changed)-1].rev {
		t.Errorf("%s: told %v of %v: the last is missing", name, seen, changed)
		return
	}
	for i, s := range seen {
		if i > 0 && s.rev <= seen[i-1].rev {
			t.Errorf("%s: told %v: not in order", name, seen)
		}
		if prompt && i > 0 && s.at-seen[i-1].at < window {
			t.Errorf("%s: told %v: twice within %s", name, seen, window)
		}
	}
	if !prompt {
		return
	}
	for _, c := range changed { // it, or a later one, is told in time
		next := slices.IndexFunc(seen, func(s told) bool { return s.rev >= c.rev })
		if late := seen[next].at - c.at; late > window {
			t.Errorf("%s: %v is told after %s", name, c, late)
		}
	}
	if seen[0].at != changed[0].at {
		t.Errorf("%s: the first change waited from %s to %s", name, changed[0].at, seen[0].at)
	}
}
