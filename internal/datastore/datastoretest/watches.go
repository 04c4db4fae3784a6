package datastoretest

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

func testLists(s *suite) {
	for _, key := range []string{"pool-b", "pool-a", "other", "pool-a1"} {
		s.put(key, "10.0.0.0/16")
	}
	for _, o := range [][2]string{{"ns1", "x"}, {"ns1", "web-1"}, {"ns10", "web-2"}, {"ns2", "web-3"}} {
		obj := netset(o[0], o[1])
		s.txn(datastore.Create(api.Key{Kind: api.KindNetworkSet, Namespace: o[0], Name: o[1]}, obj))
	}
	affinity := func(name string) {
		key := api.Key{Kind: api.KindBlockAffinity, Name: name}
		s.txn(datastore.Put(key, &api.BlockAffinity{Spec: api.BlockAffinitySpec{State: api.AffinityPending}}))
	}
	affinity("host:node1/10.0.0.0/26")
	affinity("host:node1/fd00::/122")
	affinity("host:node10/10.0.0.64/26")
	affinity("virtual:load-balancer/10.0.0.128/26")
	s.txn(datastore.Put(api.HandleKey("h1"), handle(nil)))
	s.txn(datastore.Put(api.IPAMConfigKey(), &api.IPAMConfig{}))
	last := s.txn(datastore.Put(api.HandleKey("h2"), handle(nil)))

	tests := []struct {
		name string
		rng  datastore.Range
		want []string
	}{
		{"OneKind", datastore.Range{Kind: api.KindIPPool}, []string{"IPPool(other)", "IPPool(pool-a)", "IPPool(pool-a1)", "IPPool(pool-b)"}},
		{"NamePrefix", datastore.Range{Kind: api.KindIPPool, NamePrefix: "pool-a"}, []string{"IPPool(pool-a)", "IPPool(pool-a1)"}},
		{"AllNamespaces", datastore.Range{Kind: api.KindNetworkSet}, []string{"NetworkSet(ns1/web-1)", "NetworkSet(ns1/x)", "NetworkSet(ns10/web-2)", "NetworkSet(ns2/web-3)"}},
		{"OneNamespace", datastore.Range{Kind: api.KindNetworkSet, Namespace: "ns1"}, []string{"NetworkSet(ns1/web-1)", "NetworkSet(ns1/x)"}},
		{"NamePrefixInANamespace", datastore.Range{Kind: api.KindNetworkSet, Namespace: "ns1", NamePrefix: "web-"}, []string{"NetworkSet(ns1/web-1)"}},
		{"NamePrefixInAllNamespaces", datastore.Range{Kind: api.KindNetworkSet, NamePrefix: "web-"}, []string{"NetworkSet(ns1/web-1)", "NetworkSet(ns10/web-2)", "NetworkSet(ns2/web-3)"}},
		{"AffinitiesOfANode", datastore.Range{Kind: api.KindBlockAffinity, NamePrefix: "host:node1/"}, []string{"BlockAffinity(host:node1/10.0.0.0/26)", "BlockAffinity(host:node1/fd00::/122)"}},
		{"AllAffinities", datastore.Range{Kind: api.KindBlockAffinity}, []string{
			"BlockAffinity(host:node1/10.0.0.0/26)", "BlockAffinity(host:node1/fd00::/122)",
			"BlockAffinity(host:node10/10.0.0.64/26)", "BlockAffinity(virtual:load-balancer/10.0.0.128/26)",
		}},
		{"Handles", datastore.Range{Kind: api.KindIPAMHandle}, []string{"IPAMHandle(h1)", "IPAMHandle(h2)"}},
		{"IPAMConfig", datastore.Range{Kind: api.KindIPAMConfig}, []string{"IPAMConfig(default)"}},
		{"Nothing", datastore.Range{Kind: api.KindTier}, nil},
	}
	for _, tc := range tests {
		s.sub(tc.name, func(s *suite) {
			snap := s.list(tc.rng)
			if diff := cmp.Diff(tc.want, keys(snap)); diff != "" {
				s.Error(diff)
			}
			if snap.Revision != last || len(snap.Invalid) != 0 {
				s.Errorf("at revision %d with %v, want %d", snap.Revision, snap.Invalid, last)
			}
		})
	}
	s.sub("RefusesANamespaceForAClusterWideKind", func(s *suite) {
		if _, err := s.Client.List(s.ctx, datastore.Range{Kind: api.KindIPPool, Namespace: "ns1"}); err == nil {
			s.Error("no error")
		}
	})
}

// watch starts a watch that ends with the test.
func (s *suite) watch(r datastore.Range, after datastore.Revision) datastore.Watch {
	s.Helper()
	w, err := s.Client.Watch(s.ctx, r, after)
	if err != nil {
		s.Fatalf("Watch: %v", err)
	}
	s.Cleanup(w.Stop)
	return w
}

// next waits for one batch.
func (s *suite) next(w datastore.Watch) []datastore.Event {
	s.Helper()
	select {
	case batch, ok := <-w.Events():
		if !ok {
			s.Fatalf("watch ended: %v", w.Err())
		}
		return batch
	case <-s.ctx.Done():
		s.Fatal("no event")
	}
	return nil
}

// collect waits for n events, in however many batches.
func (s *suite) collect(w datastore.Watch, n int) []datastore.Event {
	s.Helper()
	var events []datastore.Event
	for len(events) < n {
		events = append(events, s.next(w)...)
	}
	return events
}

// ended waits for the end of a watch.
func (s *suite) ended(w datastore.Watch) error {
	s.Helper()
	for {
		select {
		case _, ok := <-w.Events():
			if !ok {
				return w.Err()
			}
		case <-s.ctx.Done():
			s.Fatal("the watch doesn't end")
		}
	}
}

func (s *suite) sees(events []datastore.Event, want ...string) {
	s.Helper()
	if diff := cmp.Diff(want, describe(events)); diff != "" {
		s.Error(diff)
	}
}

func testWatches(s *suite) {
	pools := datastore.Range{Kind: api.KindIPPool}
	s.sub("SeesCreationChangeAndDeletionInOrder", func(s *suite) {
		w := s.watch(pools, s.list(pools).Revision)
		s.txn(datastore.Create(poolKey("a"), pool("a", "10.0.0.0/16")))
		s.put("a", "10.1.0.0/16")
		last := s.txn(datastore.DeleteAny(poolKey("a")))
		events := s.collect(w, 3)
		s.sees(events, "+a 10.0.0.0/16", "+a 10.1.0.0/16", "-a")
		if ev := events[2]; ev.Revision != last || ev.Key != poolKey("a") {
			s.Errorf("deletion of %s at %d, want %s at %d", ev.Key, ev.Revision, poolKey("a"), last)
		}
		if ev := events[0]; ev.Entry.Revision != ev.Revision || ev.Entry.Object.GetResourceVersion() == "" {
			s.Errorf("entry at %d in an event at %d", ev.Entry.Revision, ev.Revision)
		}
	})
	s.sub("LeavesOutVersionsOfAKeyWhenAskedTo", func(s *suite) {
		coalesced := datastore.Range{Kind: api.KindIPPool, Coalesce: time.Second}
		w := s.watch(coalesced, s.list(coalesced).Revision)
		s.put("many", cidrOf(0))
		s.sees(s.next(w), "+many "+cidrOf(0))
		const changes = 100
		var last datastore.Revision
		for i := range changes {
			last = s.put("many", cidrOf(i))
		}
		n := 0
		for rev := datastore.Revision(0); rev != last; n++ {
			ev := s.collect(w, 1)[0]
			if ev.Revision <= rev {
				s.Fatalf("revision %d after %d", ev.Revision, rev)
			}
			rev = ev.Revision
		}
		if n > changes/2 {
			s.Errorf("%d events for %d changes", n, changes)
		}
	})
	s.sub("StartsJustAfterTheRevision", func(s *suite) {
		s.put("b", "10.0.0.0/16")
		rev := s.put("b", "10.1.0.0/16")
		s.put("b", "10.2.0.0/16")
		w := s.watch(pools, rev)
		s.sees(s.collect(w, 1), "+b 10.2.0.0/16")
	})
	s.sub("SeesOnlyItsRange", func(s *suite) {
		sets := datastore.Range{Kind: api.KindNetworkSet, Namespace: "ns1"}
		w := s.watch(sets, s.list(sets).Revision)
		s.put("c", "10.0.0.0/16")
		for _, ns := range []string{"ns10", "ns1"} {
			s.txn(datastore.Put(api.Key{Kind: api.KindNetworkSet, Namespace: ns, Name: "set-of-" + ns}, netset(ns, "set-of-"+ns)))
		}
		s.sees(s.next(w), "+set-of-ns1")
	})
	s.sub("ATransactionIsOneBatch", func(s *suite) {
		rev := s.list(pools).Revision
		w := s.watch(pools, rev)
		s.txn(manyPools(datastore.MaxTxnOps)...)
		if got := len(s.next(w)); got != datastore.MaxTxnOps {
			s.Errorf("a batch of %d events, want all %d of the transaction", got, datastore.MaxTxnOps)
		}
		// The same from history.
		if got := len(s.next(s.watch(pools, rev))); got != datastore.MaxTxnOps {
			s.Errorf("from history: a batch of %d events", got)
		}
	})
	s.sub("StopEndsItWithoutAnError", func(s *suite) {
		w := s.watch(pools, s.list(pools).Revision)
		w.Stop()
		if err := s.ended(w); err != nil {
			s.Error(err)
		}
		w.Stop() // again is harmless
	})
	s.sub("EndsWithItsContext", func(s *suite) {
		ctx, cancel := context.WithCancel(s.ctx)
		w, err := s.Client.Watch(ctx, pools, s.list(pools).Revision)
		if err != nil {
			s.Fatal(err)
		}
		cancel()
		if err := s.ended(w); err != nil {
			s.Error(err)
		}
	})
	s.sub("ASlowReaderLosesNothing", func(s *suite) {
		w := s.watch(pools, s.list(pools).Revision)
		const writes = 300
		for i := range writes {
			s.put("slow", cidrOf(i%250))
		}
		events := s.collect(w, writes)
		if got := describe(events)[writes-1]; got != "+slow "+cidrOf((writes-1)%250) {
			s.Errorf("last event is %s", got)
		}
	})
}

func testWatchLimits(s *suite) {
	pools := datastore.Range{Kind: api.KindIPPool}
	first := s.put("a", "10.0.0.0/16")
	s.put("a", "10.1.0.0/16")
	last := s.put("a", "10.2.0.0/16")
	s.Compact(last)

	s.sub("FromACompactedRevisionEndsWithErrCompacted", func(s *suite) {
		if err := s.ended(s.watch(pools, first-1)); !errors.Is(err, datastore.ErrCompacted) {
			s.Errorf("got %v", err)
		}
	})
	s.sub("FromTheCompactedRevisionOnGoesOn", func(s *suite) {
		w := s.watch(pools, last)
		s.put("a", "10.3.0.0/16")
		s.sees(s.next(w), "+a 10.3.0.0/16")
	})
	s.sub("FromARevisionNeverReachedEndsWithErrCompacted", func(s *suite) {
		if err := s.ended(s.watch(pools, last+1000)); !errors.Is(err, datastore.ErrCompacted) {
			s.Errorf("got %v", err)
		}
	})
	s.sub("ReadsStillSeeEverything", func(s *suite) {
		if snap := s.list(pools); len(snap.Entries) != 1 {
			s.Errorf("got %v", keys(snap))
		}
	})
}

func testForeignData(s *suite) {
	const root = "/calico/resources/v3/projectcalico.org/ippools/"
	pools := datastore.Range{Kind: api.KindIPPool}
	s.sub("FieldsOfANewerProgramSurviveAnUpdate", func(s *suite) {
		s.RawPut(root+"new", []byte(`{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"new"},"spec":{"cidr":"10.0.0.0/16","fromTheFuture":{"a":[1,2]}}}`))
		e := s.get(poolKey("new"))
		e.Object.SetLabels(map[string]string{"touched": "yes"})
		s.txn(datastore.Update(e))
		raw, _ := s.RawGet(root + "new")
		for _, want := range []string{`"fromTheFuture":{"a":[1,2]}`, `"touched":"yes"`} {
			if !strings.Contains(string(raw), want) {
				s.Errorf("stored %s lacks %s", raw, want)
			}
		}
	})
	rev := s.list(pools).Revision
	s.RawPut(root+"broken", []byte(`{"kind":"IPPool","spec":`))
	s.RawPut(root+"nested/name", []byte(`{}`))
	s.put("after", "10.5.0.0/16")
	s.sub("InvalidValuesDoNotStopAList", func(s *suite) {
		snap := s.list(pools)
		if diff := cmp.Diff([]string{"IPPool(after)", "IPPool(new)"}, keys(snap)); diff != "" {
			s.Error(diff)
		}
		got := map[string]string{}
		for _, inv := range snap.Invalid {
			got[inv.Path] = inv.Key.Name
			if inv.Err == nil || !errors.Is(&inv, datastore.ErrInvalid) {
				s.Errorf("%s: error is %v", inv.Path, inv.Err)
			}
		}
		if diff := cmp.Diff(map[string]string{root + "broken": "broken", root + "nested/name": ""}, got); diff != "" {
			s.Error(diff)
		}
	})
	s.sub("InvalidValuesDoNotStopAWatch", func(s *suite) {
		s.sees(s.collect(s.watch(pools, rev), 3), "?"+root+"broken", "?"+root+"nested/name", "+after 10.5.0.0/16")
	})
	s.sub("GetSaysWhereTheValueIs", func(s *suite) {
		_, err := s.Client.Get(s.ctx, poolKey("broken"))
		if !errors.Is(err, datastore.ErrInvalid) || !strings.Contains(err.Error(), root+"broken") {
			s.Errorf("got %v", err)
		}
	})
	s.sub("AConflictWithAnInvalidValueSaysSo", func(s *suite) {
		_, err := s.Client.Txn(s.ctx, datastore.Create(poolKey("broken"), pool("broken", "10.0.0.0/16")))
		var conflict *datastore.ConflictError
		if !errors.As(err, &conflict) || len(conflict.Invalid) != 1 || len(conflict.Current) != 0 {
			s.Fatalf("got %v", err)
		}
		if !strings.Contains(err.Error(), root+"broken") {
			s.Errorf("%v doesn't name the path", err)
		}
	})
	s.sub("AnInvalidValueCanBeReplacedAndDeleted", func(s *suite) {
		s.put("broken", "10.6.0.0/16")
		if got := s.cidr(s.get(poolKey("broken"))); got != "10.6.0.0/16" {
			s.Errorf("got %s", got)
		}
		s.RawPut(root+"broken", []byte("?"))
		s.txn(datastore.DeleteAny(poolKey("broken")))
		s.gone("broken")
	})
	s.sub("TheDeletionOfAPathThatIsNoKeyNamesThePath", func(s *suite) {
		w := s.watch(pools, s.list(pools).Revision)
		s.RawDelete(root + "nested/name")
		s.sees(s.next(w), "-"+root+"nested/name")
	})
}

func testAvailability(s *suite) {
	pools := datastore.Range{Kind: api.KindIPPool}
	requests := map[string]func(context.Context, datastore.Client) error{
		"Get":  func(ctx context.Context, c datastore.Client) error { _, err := c.Get(ctx, poolKey("a")); return err },
		"List": func(ctx context.Context, c datastore.Client) error { _, err := c.List(ctx, pools); return err },
		"Txn": func(ctx context.Context, c datastore.Client) error {
			_, err := c.Txn(ctx, datastore.DeleteAny(poolKey("a")))
			return err
		},
		"Watch": func(ctx context.Context, c datastore.Client) error { _, err := c.Watch(ctx, pools, 1); return err },
	}
	unreachable := s.Unreachable()
	for name, request := range requests {
		s.sub(name+"WithoutADeadlineFailsInTime", func(s *suite) {
			// Not s.ctx, which has a deadline.
			err := request(context.WithoutCancel(s.ctx), unreachable)
			if !errors.Is(err, datastore.ErrUnavailable) {
				s.Errorf("got %v", err)
			}
		})
		s.sub(name+"KeepsToItsDeadline", func(s *suite) {
			ctx, cancel := context.WithTimeout(s.ctx, 50*time.Millisecond)
			defer cancel()
			start := time.Now()
			err := request(ctx, unreachable)
			if took := time.Since(start); !errors.Is(err, datastore.ErrUnavailable) || took > 2*time.Second {
				s.Errorf("got %v after %v", err, took)
			}
		})
		s.sub(name+"WithACancelledContextSaysSo", func(s *suite) {
			ctx, cancel := context.WithCancel(s.ctx)
			cancel()
			err := request(ctx, s.Client)
			if !errors.Is(err, context.Canceled) || !errors.Is(err, datastore.ErrUnavailable) {
				s.Errorf("got %v", err)
			}
		})
	}
}
