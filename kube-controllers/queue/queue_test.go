package queue

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func start(t *testing.T, workers int, reconcile func(context.Context, string) error) *Queue[string] {
	q := New(Config[string]{
		Name: "test", Workers: workers, Reconcile: reconcile, Log: slog.New(slog.DiscardHandler),
		Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { q.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done; q.Close() })
	return q
}

func TestFailuresAreRepeatedAfterGrowingPausesOnTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		looks := map[string][]time.Duration{}
		q := start(t, 1, func(_ context.Context, key string) error {
			looks[key] = append(looks[key], time.Since(began))
			if key == "bad" && len(looks[key]) < 4 {
				return errors.New("no")
			}
			return nil
		})
		q.Add("bad")
		q.Add("good")
		q.Add("good")
		time.Sleep(time.Minute) // simulated
		synctest.Wait()
		if len(looks["good"]) != 1 {
			t.Errorf("good was looked at %d times", len(looks["good"]))
		}
		want := []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond}
		if got := looks["bad"]; len(got) != len(want) || got[3] < want[3] {
			t.Errorf("looks at %v, want %v", got, want)
		}
	})
}

func TestStuckWorkerFailsLiveness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		q := start(t, 2, func(context.Context, string) error { <-release; return nil })
		q.Add("k")
		time.Sleep(4 * time.Minute)
		if err := q.Health(); err != nil {
			t.Errorf("after 4 minutes: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if err := q.Health(); err == nil || !strings.Contains(err.Error(), "k") || !strings.Contains(err.Error(), "test") {
			t.Errorf("after 6 minutes: %v", err)
		}
		close(release)
		synctest.Wait()
		if err := q.Health(); err != nil {
			t.Errorf("after it came back: %v", err)
		}
	})
}

func TestALookIsCancelledWhenItTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took time.Duration
		q := start(t, 1, func(ctx context.Context, _ string) error {
			begin := time.Now()
			<-ctx.Done()
			took = time.Since(begin)
			return nil
		})
		q.Add("k")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if took != time.Minute {
			t.Errorf("cancelled after %s", took)
		}
	})
}

func TestKeysWaitBetweenTwoRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks []string
		q := New(Config[string]{Name: "test", Log: slog.New(slog.DiscardHandler), Reconcile: func(_ context.Context, key string) error {
			looks = append(looks, key)
			return nil
		}})
		defer q.Close()
		run := func(during func()) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { q.Run(ctx); close(done) }()
			during()
			synctest.Wait()
			cancel()
			<-done
		}
		q.Add("a")
		run(func() { q.Add("b") })
		q.Add("c")
		q.Add("d")
		synctest.Wait()
		if len(looks) != 2 {
			t.Errorf("worked while nothing ran: %v", looks)
		}
		run(func() {})
		if len(looks) != 4 {
			t.Errorf("%v", looks)
		}
	})
}
