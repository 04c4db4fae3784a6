package datastore_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

var (
	tiers    = datastore.Range{Kind: api.KindTier}
	allPools = datastore.Range{Kind: api.KindIPPool}
)

func poolsNamed(prefix string) datastore.Range {
	return datastore.Range{Kind: api.KindIPPool, NamePrefix: prefix}
}

// follow has the Syncer follow ranges beside tiers.
func (s *syncing) follow(ranges ...datastore.Range) {
	s.ranges = append([]datastore.Range{tiers}, ranges...)
	s.syncer.Follow(ranges)
}

func onlyTiers(s *syncing) { s.ranges = []datastore.Range{tiers} }

func TestRangesComeAndGo(t *testing.T) {
	withSyncer(t, onlyTiers, func(s *syncing) {
		s.put("a", "10.0.0.0/16")
		s.put("b", "10.1.0.0/16")
		s.sees("wait-for-datastore", "resync", "in-sync")
		s.follow(allPools)
		s.sees("+IPPool(a)", "+IPPool(b)")
		s.put("a", "10.2.0.0/16")
		s.sees("+IPPool(a)")
		s.follow(allPools)
		s.sees()
		s.follow()
		synctest.Wait()
		s.converged() // both are gone
		s.sink.drain()
		s.put("a", "10.3.0.0/16")
		s.sees()
		s.follow(poolsNamed("a"))
		s.sees("+IPPool(a)")
		s.converged()
		if err := s.syncer.Health(); err != nil {
			t.Errorf("Health: %v", err)
		}
	})
}

// TestWhatIsStillWantedIsNeverToldOfAsGone when one range takes the place of another, in
// either direction.
func TestWhatIsStillWantedIsNeverToldOfAsGone(t *testing.T) {
	withSyncer(t, onlyTiers, func(s *syncing) {
		s.put("a", "10.0.0.0/16")
		s.put("b", "10.1.0.0/16")
		s.follow(allPools)
		synctest.Wait()
		s.sink.drain()
		s.follow(poolsNamed("a"))
		s.sees("-IPPool(b)")
		s.put("a", "10.2.0.0/16")
		s.put("b", "10.3.0.0/16")
		s.sees("+IPPool(a)")
		s.follow(allPools)
		s.sees("+IPPool(b)")
		s.converged()
	})
}

// TestARangeStaysUntilThatInItsPlaceHasBeenRead: also while the datastore is away.
func TestARangeStaysUntilThatInItsPlaceHasBeenRead(t *testing.T) {
	withSyncer(t, onlyTiers, func(s *syncing) {
		s.put("a", "10.0.0.0/16")
		s.put("b", "10.1.0.0/16")
		s.follow(allPools)
		synctest.Wait()
		s.sink.drain()
		s.store.SetUnavailable(true)
		s.follow(poolsNamed("a"))
		s.settle()
		s.sees()
		if s.syncer.Health() == nil {
			t.Error("healthy without a datastore")
		}
		s.store.SetUnavailable(false)
		s.settle()
		s.sees("-IPPool(b)")
		s.converged()
		if err := s.syncer.Health(); err != nil {
			t.Errorf("Health: %v", err)
		}
	})
}

// asking asks for pools when it hears of a tier.
type asking struct {
	*recorder
	syncer *datastore.Syncer
}

func (a *asking) OnUpdates(updates []datastore.SyncUpdate) {
	a.recorder.OnUpdates(updates)
	for _, u := range updates {
		if u.Key.Kind == api.KindTier {
			a.syncer.Follow([]datastore.Range{allPools})
		}
	}
}

func TestInSyncWaitsForWhatTheSinkAsksForWhileItIsTold(t *testing.T) {
	withSyncer(t, func(s *syncing) {
		s.put("a", "10.0.0.0/16")
		s.store.RawPut("/calico/resources/v3/projectcalico.org/tiers/t", []byte("?"))
	}, func(s *syncing) {
		sink := &asking{recorder: newRecorder()}
		sink.syncer = datastore.NewSyncer(datastore.SyncerConfig{Client: s.client, Ranges: []datastore.Range{tiers}, Sink: sink})
		go func() { _ = sink.syncer.Run(s.Context()) }()
		s.sink.drain()
		s.sink = sink.recorder
		s.sees("wait-for-datastore", "resync", "?Tier(t)", "+IPPool(a)", "in-sync")
	})
}

// TestRangesThatComeAndGoConvergeWhateverHappens: they overlap, the store changes, goes
// away, comes back from a backup, and its watches are behind one another.
func TestRangesThatComeAndGoConvergeWhateverHappens(t *testing.T) {
	p0, p1 := poolsNamed("p0"), poolsNamed("p1")
	coalescing, late := allPools, p1
	coalescing.Coalesce, late.Delay = 300*time.Millisecond, 500*time.Millisecond
	sets := [][]datastore.Range{{}, {allPools}, {p0}, {p1, p0}, {allPools, p1}, {coalescing}, {late, p0}}
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 7))
			withSyncer(t, onlyTiers, func(s *syncing) {
				s.disturb(rnd, func() {
					if rnd.IntN(6) == 0 {
						s.follow(sets[rnd.IntN(len(sets))]...)
					}
				})
			})
		})
	}
}
