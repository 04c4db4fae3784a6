package datastore_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
)

func newPool(name, cidr string) *v3.IPPool {
	return &v3.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v3.IPPoolSpec{CIDR: cidr}}
}

func poolKey(name string) api.Key { return api.Key{Kind: api.KindIPPool, Name: name} }

const poolRoot = "/calico/resources/v3/projectcalico.org/ippools/"

// recorder is a Sink that keeps the state it was told and how it was told.
type recorder struct {
	mu     sync.Mutex
	state  map[string]string // key → "cidr@revision" or "invalid"
	log    []string          // statuses and updates in order
	hold   chan struct{}     // when set, OnUpdates waits for it
	broken []string          // breaches of the Sink contract
}

func newRecorder() *recorder { return &recorder{state: map[string]string{}} }

func (r *recorder) OnStatus(s datastore.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, s.String())
}

func (r *recorder) OnUpdates(updates []datastore.SyncUpdate) {
	if r.hold != nil {
		<-r.hold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	for _, u := range updates {
		key := nameOf(u.Key, u.Path)
		switch {
		case u.Invalid != nil:
			r.state[key] = "invalid"
			mark := "?"
			if u.Kept {
				mark = "~" // what was told before holds on
			}
			if u.Entry != nil {
				mark += describeEntry(*u.Entry) + " "
			}
			r.log = append(r.log, mark+key)
		case u.Entry != nil:
			r.state[key] = describeEntry(*u.Entry)
			r.log = append(r.log, "+"+key)
		default:
			delete(r.state, key)
			r.log = append(r.log, "-"+key)
		}
		if seen[key] {
			r.broken = append(r.broken, key+" twice in one batch")
		}
		seen[key] = true
	}
}

// nameOf is a key, or the path of what has none.
func nameOf(key api.Key, path string) string {
	if key == (api.Key{}) {
		return path
	}
	return key.String()
}

func describeEntry(e datastore.Entry) string {
	if p, ok := e.Object.(*v3.IPPool); ok {
		return fmt.Sprintf("%s@%d", p.Spec.CIDR, e.Revision)
	}
	return fmt.Sprintf("@%d", e.Revision)
}

// drain gives what was recorded since the last call.
func (r *recorder) drain() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	log := r.log
	r.log = nil
	return log
}

// syncing is one Syncer on a memory store, inside a synctest bubble.
type syncing struct {
	*testing.T
	store    *memory.Store
	client   *memory.Client // the Syncer's
	sink     *recorder
	syncer   *datastore.Syncer
	mu       sync.Mutex
	attempts []int
	log      *bytes.Buffer
	ranges   []datastore.Range
}

// withSyncer runs a test in which time is simulated: synctest.Wait returns when
// the Syncer has nothing more to do.
func withSyncer(t *testing.T, prepare, run func(*syncing)) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(api.NewRegistry())
		s := &syncing{T: t, store: store, client: store.Client(), sink: newRecorder(), log: &bytes.Buffer{}}
		s.ranges = []datastore.Range{{Kind: api.KindIPPool}, {Kind: api.KindTier}}
		if prepare != nil {
			prepare(s)
		}
		s.syncer = datastore.NewSyncer(datastore.SyncerConfig{
			Client: s.client, Ranges: s.ranges, Sink: s.sink,
			Log: slog.New(slog.NewTextHandler(s.log, nil)),
			Backoff: func(attempt int) time.Duration {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.attempts = append(s.attempts, attempt)
				return time.Second
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.syncer.Run(ctx) }()
		synctest.Wait()
		run(s)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		for _, b := range s.sink.broken {
			t.Error(b)
		}
	})
}

func (s *syncing) put(name, cidr string) {
	s.Helper()
	if _, err := s.store.Txn(context.Background(), datastore.Put(poolKey(name), newPool(name, cidr))); err != nil {
		s.Fatal(err)
	}
}

func (s *syncing) remove(name string) {
	s.Helper()
	if _, err := s.store.Txn(context.Background(), datastore.DeleteAny(poolKey(name))); err != nil {
		s.Fatal(err)
	}
}

// settle lets the Syncer finish, backoff included.
func (s *syncing) settle() {
	time.Sleep(10 * time.Second) // simulated
	synctest.Wait()
}

func (s *syncing) sees(want ...string) {
	s.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, s.sink.drain()); diff != "" {
		s.Errorf("the sink was told (-want +got):\n%s", diff)
	}
}

// converged checks that the sink has exactly what the store holds.
func (s *syncing) converged() {
	s.Helper()
	want := map[string]string{}
	for _, r := range s.ranges {
		snap, err := s.store.List(context.Background(), r)
		if err != nil {
			s.Fatal(err)
		}
		for _, e := range snap.Entries {
			want[e.Key.String()] = describeEntry(e)
		}
		for _, inv := range snap.Invalid {
			want[nameOf(inv.Key, inv.Path)] = "invalid"
		}
	}
	if diff := cmp.Diff(want, s.sink.state); diff != "" {
		s.Errorf("the sink differs from the store (-store +sink):\n%s", diff)
	}
}

func TestSyncerSendsSnapshotThenInSyncThenUpdates(t *testing.T) {
	withSyncer(t, func(s *syncing) {
		s.put("a", "10.0.0.0/16")
		s.put("b", "10.1.0.0/16")
	}, func(s *syncing) {
		s.sees("wait-for-datastore", "resync", "+IPPool(a)", "+IPPool(b)", "in-sync")
		s.put("a", "10.2.0.0/16")
		s.sees("+IPPool(a)")
		s.remove("b")
		s.sees("-IPPool(b)")
		s.converged()
		if err := s.syncer.Health(); err != nil {
			t.Errorf("Health: %v", err)
		}
	})
}

func TestSyncerOfAnEmptyStoreIsInSync(t *testing.T) {
	withSyncer(t, nil, func(s *syncing) { s.sees("wait-for-datastore", "resync", "in-sync") })
}

func TestSyncerWaitsForADatastoreThatIsDown(t *testing.T) {
	withSyncer(t, func(s *syncing) {
		s.put("a", "10.0.0.0/16")
		s.store.SetUnavailable(true)
	}, func(s *syncing) {
		s.sees("wait-for-datastore")
		if s.syncer.Health() == nil {
			t.Error("healthy without a datastore")
		}
		s.settle()
		s.store.SetUnavailable(false)
		s.settle()
		s.sees("resync", "+IPPool(a)", "in-sync")
	})
}

func TestSyncerSendsOnlyTheDifferenceAfterAnOutage(t *testing.T) {
	withSyncer(t, func(s *syncing) {
		s.put("kept", "10.0.0.0/16")
		s.put("changed", "10.1.0.0/16")
		s.put("deleted", "10.2.0.0/16")
		s.store.RawPut(poolRoot+"broken", []byte("?"))
		s.store.RawPut(poolRoot+"a/b", []byte("?"))
	}, func(s *syncing) {
		s.sink.drain()
		s.client.SetUnavailable(true)
		s.put("changed", "10.3.0.0/16")
		s.remove("deleted")
		s.put("created", "10.4.0.0/16")
		s.put("brief", "10.5.0.0/16")
		s.remove("brief")
		s.settle()
		s.sees()
		s.client.SetUnavailable(false)
		s.settle()
		s.sees("+IPPool(changed)", "+IPPool(created)", "-IPPool(deleted)")
	})
}

func TestSyncerSurvivesCompactionDuringAnOutage(t *testing.T) {
	withSyncer(t, nil, func(s *syncing) {
		s.put("a", "10.0.0.0/16")
		synctest.Wait()
		s.client.SetUnavailable(true)
		s.remove("a")
		s.put("b", "10.1.0.0/16")
		s.store.Compact(s.store.Revision())
		s.client.SetUnavailable(false)
		s.settle()
		s.converged()
	})
}

func TestSyncerFollowsAStoreThatWentBackInTime(t *testing.T) {
	withSyncer(t, func(s *syncing) {
		s.put("a", "10.0.0.0/16")
		s.put("b", "10.1.0.0/16")
	}, func(s *syncing) {
		backup := s.store.Backup()
		s.put("a", "10.2.0.0/16")
		s.put("new", "10.3.0.0/16")
		synctest.Wait()
		s.sink.drain()
		s.store.Restore(backup)
		// In the new history the same revision writes the same key differently.
		s.put("a", "10.9.0.0/16")
		s.settle()
		s.sees("+IPPool(a)", "-IPPool(new)")
		s.converged()
		s.store.Restore(memory.Backup{})
		s.settle()
		s.converged()
	})
}

func TestSyncerDeliversInvalidValuesAndTheirRepair(t *testing.T) {
	withSyncer(t, func(s *syncing) {
		s.store.RawPut(poolRoot+"x", []byte("{"))
		s.put("y", "10.0.0.0/16")
	}, func(s *syncing) {
		s.sees("wait-for-datastore", "resync", "+IPPool(y)", "?IPPool(x)", "in-sync")
		s.put("x", "10.1.0.0/16")
		s.sees("+IPPool(x)")
		s.store.RawPut(poolRoot+"x", []byte("{"))
		s.sees("~IPPool(x)")
		s.remove("x")
		s.sees("-IPPool(x)")
		s.store.RawPut(poolRoot+"not/a/key", []byte("{}"))
		s.sees("?" + poolRoot + "not/a/key")
		s.store.RawDelete(poolRoot + "not/a/key")
		s.sees("-" + poolRoot + "not/a/key")
		if !strings.Contains(s.log.String(), "path="+poolRoot+"x") {
			t.Errorf("the log doesn't name the path:\n%s", s.log)
		}
	})
}

// TestSyncerSaysWhetherWhatCantBeReadWasToldBefore: whoever was told what an object said goes
// on by that for as long as the object is there, through outages and new lists.
func TestSyncerSaysWhetherWhatCantBeReadWasToldBefore(t *testing.T) {
	withSyncer(t, func(s *syncing) {
		s.put("x", "10.0.0.0/16")
		s.store.RawPut(poolRoot+"never", []byte("{"))
	}, func(s *syncing) {
		s.sees("wait-for-datastore", "resync", "+IPPool(x)", "?IPPool(never)", "in-sync")
		s.store.RawPut(poolRoot+"x", []byte("{"))
		s.sees("~IPPool(x)")
		s.client.SetUnavailable(true)
		s.store.RawPut(poolRoot+"x", []byte("["))
		s.store.RawPut(poolRoot+"never", []byte("["))
		s.client.SetUnavailable(false)
		s.settle()
		s.sees("?IPPool(never)", "~IPPool(x)")
		s.client.SetUnavailable(true)
		s.client.SetUnavailable(false)
		s.settle()
		s.sees()
		s.store.RawDelete(poolRoot + "x")
		s.sees("-IPPool(x)")
		s.store.RawPut(poolRoot+"x", []byte("{"))
		s.sees("?IPPool(x)")
	})
}

// TestSyncerTellsTheLastReadableVersionOfWhatCantBeRead: one that was overtaken before it was
// told is not lost, but for one that had been deleted since.
func TestSyncerTellsTheLastReadableVersionOfWhatCantBeRead(t *testing.T) {
	withSyncer(t, func(s *syncing) { s.put("gone", "10.0.0.0/16") }, func(s *syncing) {
		synctest.Wait()
		s.sink.drain()
		s.sink.hold = make(chan struct{})
		s.put("first", "10.1.0.0/16") // the sink is busy with it
		synctest.Wait()
		s.put("x", "10.2.0.0/16")
		synctest.Wait()
		s.store.RawPut(poolRoot+"x", []byte("{"))
		s.remove("gone")
		synctest.Wait()
		s.store.RawPut(poolRoot+"gone", []byte("{"))
		synctest.Wait()
		close(s.sink.hold)
		synctest.Wait()
		log := strings.Join(s.sink.drain(), " ")
		if !strings.Contains(log, "~10.2.0.0/16@") || !strings.Contains(log, "?IPPool(gone)") {
			t.Errorf("told %s, want x as it was before and nothing of what is gone", log)
		}
	})
}

func TestSyncerTellsWhichUnreadablePathIsGoneAfterAnOutage(t *testing.T) {
	withSyncer(t, func(s *syncing) {
		s.store.RawPut(poolRoot+"a/b/c", []byte("{}"))
	}, func(s *syncing) {
		s.sees("wait-for-datastore", "resync", "?"+poolRoot+"a/b/c", "in-sync")
		s.client.SetUnavailable(true)
		s.store.RawDelete(poolRoot + "a/b/c")
		s.client.SetUnavailable(false)
		s.settle()
		s.sees("-" + poolRoot + "a/b/c")
	})
}

func TestSyncerLogsOneLineOnLossAndOneOnRecovery(t *testing.T) {
	withSyncer(t, nil, func(s *syncing) {
		if s.log.Len() != 0 {
			t.Errorf("logged before anything went wrong:\n%s", s.log)
		}
		s.client.SetUnavailable(true)
		s.settle()
		s.client.SetUnavailable(false)
		s.settle()
		lines := strings.Split(strings.TrimSpace(s.log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "datastore unavailable") || !strings.Contains(lines[1], "datastore back") {
			t.Errorf("got %d lines:\n%s", len(lines), s.log)
		}
		if len(s.attempts) < 5 {
			t.Errorf("only %d attempts", len(s.attempts))
		}
	})
}

func TestSyncerBacksOffLongerWithEachFailure(t *testing.T) {
	withSyncer(t, func(s *syncing) { s.ranges = s.ranges[:1] }, func(s *syncing) {
		s.client.SetUnavailable(true)
		time.Sleep(2500 * time.Millisecond) // simulated
		synctest.Wait()
		if diff := cmp.Diff([]int{0, 1, 2}, s.attempts); diff != "" {
			t.Error(diff)
		}
	})
}

func TestDefaultBackoffIsBoundedAndRandom(t *testing.T) {
	seen := map[time.Duration]bool{}
	for attempt := range 100 {
		d := datastore.DefaultBackoff(attempt)
		if d < 125*time.Millisecond || d > 3*time.Second {
			t.Errorf("attempt %d: %v", attempt, d)
		}
		seen[d] = true
	}
	if len(seen) < 50 {
		t.Errorf("only %d different pauses in 100", len(seen))
	}
}

func TestSyncerCoalescesWhileTheSinkIsBusy(t *testing.T) {
	withSyncer(t, func(s *syncing) {
		s.sink.hold = make(chan struct{})
		s.put("a", "10.0.0.0/16")
	}, func(s *syncing) {
		for i := range 100 {
			s.put("a", fmt.Sprintf("10.%d.0.0/16", i))
			synctest.Wait()
		}
		close(s.sink.hold)
		synctest.Wait()
		s.converged()
		if n := len(s.sink.drain()); n > 20 {
			t.Errorf("%d calls for 100 changes of one object", n)
		}
	})
}

func TestSyncerTellsTheFirstAndTheLastOfManyChangesWhenAskedTo(t *testing.T) {
	withSyncer(t, func(s *syncing) { s.ranges[0].Coalesce = time.Second }, func(s *syncing) {
		s.sink.drain()
		s.put("a", "10.0.0.0/16")
		s.sees("+IPPool(a)")
		for i := range 100 {
			s.put("a", fmt.Sprintf("10.%d.0.0/16", i))
			synctest.Wait()
		}
		s.put("b", "10.0.0.0/16")
		s.sees("+IPPool(b)")
		time.Sleep(time.Second)
		s.sees("+IPPool(a)")
		s.converged()
	})
}

// TestSyncerConvergesWhateverHappens does random things to a store and its
// connection and compares the sink with the store once all is calm.
func TestSyncerConvergesWhateverHappens(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0)) // reproducible
			withSyncer(t, nil, func(s *syncing) { s.disturb(rnd, func() {}) })
		})
		t.Run(fmt.Sprint(seed, " coalescing"), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			coalesce := time.Duration(1+rnd.IntN(1000)) * time.Millisecond
			withSyncer(t, func(s *syncing) { s.ranges[0].Coalesce = coalesce }, func(s *syncing) { s.disturb(rnd, func() {}) })
		})
	}
}

// disturb also does what it is given, before each disturbance.
func (s *syncing) disturb(rnd *rand.Rand, also func()) {
	backup := s.store.Backup()
	name := func() string { return fmt.Sprintf("p%d", rnd.IntN(4)) }
	for range 60 {
		also()
		switch rnd.IntN(12) {
		case 0, 1, 2:
			s.put(name(), fmt.Sprintf("10.%d.0.0/16", rnd.IntN(200)))
		case 3:
			s.remove(name())
		case 4:
			s.store.RawPut(poolRoot+name(), []byte("{"))
		case 5:
			s.client.SetUnavailable(true)
		case 6:
			s.client.SetUnavailable(false)
		case 7:
			s.store.Compact(s.store.Revision())
		case 8:
			if rnd.IntN(2) == 0 {
				backup = s.store.Backup()
			} else {
				s.store.Restore(backup)
			}
		case 10:
			s.store.RawPut(poolRoot+"not/"+name(), []byte("{}"))
		case 11:
			s.store.RawDelete(poolRoot + "not/" + name())
		case 9:
			synctest.Wait()
			time.Sleep(time.Duration(rnd.IntN(1500)) * time.Millisecond) // simulated
		}
	}
	s.client.SetUnavailable(false)
	s.settle()
	s.converged()
}
