package datastoretest

import (
	"errors"
	"strconv"
	"sync/atomic"

	"github.com/google/go-cmp/cmp"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

func testOperations(s *suite) {
	s.sub("CreateThenGetGivesTheObjectWithItsRevision", func(s *suite) {
		rev := s.txn(datastore.Create(poolKey("a"), pool("a", "10.0.0.0/16")))
		e := s.get(poolKey("a"))
		if s.cidr(e) != "10.0.0.0/16" || e.Key != poolKey("a") || e.Revision != rev {
			s.Errorf("got %s %s at %d, want 10.0.0.0/16 at %d", e.Key, s.cidr(e), e.Revision, rev)
		}
		if got, want := e.Object.GetResourceVersion(), strconv.Itoa(int(rev)); got != want {
			s.Errorf("resourceVersion is %q, want %q", got, want)
		}
		if e.Digest == 0 {
			s.Error("the entry has no digest")
		}
	})
	s.sub("GetOfNothingIsNotFound", func(s *suite) {
		_, err := s.Client.Get(s.ctx, poolKey("absent"))
		if !errors.Is(err, datastore.ErrNotFound) {
			s.Errorf("got %v", err)
		}
	})
	s.sub("TellsWhenATransactionIsSent", func(s *suite) {
		var sent atomic.Int32
		ctx := datastore.WithSent(s.ctx, func() { sent.Add(1) })
		if _, err := s.Client.Txn(ctx, datastore.Create(poolKey("sent"), pool("sent", "10.9.0.0/16"))); err != nil {
			s.Fatal(err)
		}
		if sent.Load() == 0 {
			s.Error("a transaction was carried out and never sent")
		}
		before := sent.Load()
		if _, err := s.Client.Txn(ctx); err == nil || sent.Load() != before {
			s.Errorf("one that can't be sent: %v, told %d times", err, sent.Load()-before)
		}
	})
	s.sub("RevisionsGrow", func(s *suite) {
		first, second := s.put("b", "10.1.0.0/16"), s.put("b", "10.2.0.0/16")
		if second <= first {
			s.Errorf("second write at %d, first at %d", second, first)
		}
	})
	s.sub("UpdateWritesBackWhatWasRead", func(s *suite) {
		s.put("c", "10.3.0.0/16")
		e := s.get(poolKey("c"))
		e.Object.SetLabels(map[string]string{"x": "y"})
		rev := s.txn(datastore.Update(e))
		after := s.get(poolKey("c"))
		if after.Revision != rev || after.Object.GetLabels()["x"] != "y" {
			s.Errorf("got %v at %d, want the label at %d", after.Object.GetLabels(), after.Revision, rev)
		}
	})
	s.sub("PutWritesWhateverWasThere", func(s *suite) {
		s.put("d", "10.4.0.0/16")
		s.put("d", "10.5.0.0/16")
		if got := s.cidr(s.get(poolKey("d"))); got != "10.5.0.0/16" {
			s.Errorf("got %s", got)
		}
	})
	s.sub("DeleteRemovesTheRevisionThatWasRead", func(s *suite) {
		rev := s.put("e", "10.6.0.0/16")
		s.txn(datastore.Delete(poolKey("e"), rev))
		s.gone("e")
	})
	s.sub("DeleteAnyRemovesWhatIsThereAndAcceptsNothing", func(s *suite) {
		s.put("f", "10.7.0.0/16")
		s.txn(datastore.DeleteAny(poolKey("f")))
		s.gone("f")
		s.txn(datastore.DeleteAny(poolKey("f")))
	})
	s.sub("ATransactionThatChangesNothingTakesNoRevision", func(s *suite) {
		rev := s.put("g", "10.8.0.0/16")
		got := s.txn(datastore.Check(poolKey("g"), rev), datastore.DeleteAny(poolKey("absent")))
		if got != rev {
			s.Errorf("at %d, want %d", got, rev)
		}
	})
	s.sub("IPAMRecordsKeepTheirKeysAndBareValues", func(s *suite) {
		key := api.HandleKey("net1.c0ffee")
		s.txn(datastore.Create(key, handle(map[string]int{"10.0.0.0/26": 1})))
		raw, ok := s.RawGet("/calico/ipam/v2/handle/net1.c0ffee")
		if want := `{"block":{"10.0.0.0/26":1},"deleted":false}`; !ok || string(raw) != want {
			s.Errorf("stored %s, want %s", raw, want)
		}
		got, ok := s.get(key).Object.(*api.IPAMHandle)
		if !ok {
			s.Fatal("not a handle")
		}
		if diff := cmp.Diff(map[string]int{"10.0.0.0/26": 1}, got.Spec.Block); diff != "" {
			s.Error(diff)
		}
	})
	s.sub("TheResourceVersionIsNotStored", func(s *suite) {
		s.put("h", "10.9.0.0/16")
		e := s.get(poolKey("h"))
		before, _ := s.RawGet(s.path(e.Key))
		s.txn(datastore.Update(e))
		after, _ := s.RawGet(s.path(e.Key))
		if diff := cmp.Diff(string(before), string(after)); diff != "" {
			s.Errorf("reading and writing back changed the stored value:\n%s", diff)
		}
	})
}

func (s *suite) gone(name string) {
	s.Helper()
	if _, err := s.Client.Get(s.ctx, poolKey(name)); !errors.Is(err, datastore.ErrNotFound) {
		s.Errorf("%s: got %v, want not found", name, err)
	}
}

func testConflicts(s *suite) {
	s.put("present", "10.0.0.0/16")
	stale := s.get(poolKey("present"))
	present := s.put("present", "10.1.0.0/16")
	absent := datastore.Entry{Key: poolKey("absent"), Object: pool("absent", "10.2.0.0/16"), Revision: present}

	tests := []struct {
		name  string
		op    datastore.Op
		class error
	}{
		{"CreateOfWhatExists", datastore.Create(poolKey("present"), pool("present", "10.9.0.0/16")), datastore.ErrAlreadyExists},
		{"UpdateOfAnOldRevision", datastore.Update(stale), datastore.ErrConflict},
		{"UpdateOfNothing", datastore.Update(absent), datastore.ErrNotFound},
		{"DeleteOfAnOldRevision", datastore.Delete(poolKey("present"), stale.Revision), datastore.ErrConflict},
		{"DeleteOfNothing", datastore.Delete(poolKey("absent"), present), datastore.ErrNotFound},
		{"CheckOfAnOldRevision", datastore.Check(poolKey("present"), stale.Revision), datastore.ErrConflict},
		{"CheckOfNothing", datastore.Check(poolKey("absent"), present), datastore.ErrNotFound},
		{"CheckForNothing", datastore.Check(poolKey("present"), 0), datastore.ErrAlreadyExists},
	}
	for _, tc := range tests {
		s.sub(tc.name, func(s *suite) {
			// A second, unconditional operation must not be applied, and its key is
			// part of Current too.
			_, err := s.Client.Txn(s.ctx, datastore.DeleteAny(poolKey("bystander")), tc.op)
			var conflict *datastore.ConflictError
			if !errors.As(err, &conflict) {
				s.Fatalf("got %v, want a ConflictError", err)
			}
			if !errors.Is(err, tc.class) || !errors.Is(err, datastore.ErrConflict) || conflict.Key != tc.op.Key {
				s.Errorf("got %v, want %v of %s", err, tc.class, tc.op.Key)
			}
			for _, other := range []error{datastore.ErrNotFound, datastore.ErrAlreadyExists, datastore.ErrUnavailable} {
				if other != tc.class && errors.Is(err, other) { //nolint:errorlint // identity is meant
					s.Errorf("%v also matches %v", err, other)
				}
			}
			got := map[string]string{}
			for k, e := range conflict.Current {
				got[k.Name] = s.cidr(e) + "@" + strconv.Itoa(int(e.Revision))
			}
			want := map[string]string{}
			if tc.op.Key.Name == "present" {
				want["present"] = "10.1.0.0/16@" + strconv.Itoa(int(present))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				s.Errorf("Current:\n%s", diff)
			}
		})
	}
	s.sub("CurrentAllowsARetryWithoutReading", func(s *suite) {
		_, err := s.Client.Txn(s.ctx, datastore.Update(stale))
		var conflict *datastore.ConflictError
		if !errors.As(err, &conflict) {
			s.Fatalf("got %v", err)
		}
		s.txn(datastore.Update(conflict.Current[poolKey("present")]))
	})
}

// A store may tell the state of many new keys in another way than that of a few.
func testConflictAmongManyCreates(s *suite) {
	present := s.put("pool7", "10.1.0.0/16")
	ops := []datastore.Op{datastore.DeleteAny(poolKey("bystander"))}
	for n := range datastore.MaxTxnOps - 1 {
		name := "pool" + strconv.Itoa(n)
		ops = append(ops, datastore.Create(poolKey(name), pool(name, "10.0.0.0/16")))
	}
	_, err := s.Client.Txn(s.ctx, ops...)
	var conflict *datastore.ConflictError
	if !errors.As(err, &conflict) || !errors.Is(err, datastore.ErrAlreadyExists) || conflict.Key != poolKey("pool7") {
		s.Fatalf("got %v, want that pool7 exists", err)
	}
	if e, ok := conflict.Current[poolKey("pool7")]; !ok || e.Revision != present || len(conflict.Current) != 1 {
		s.Errorf("Current is %v, want pool7 at %d alone", conflict.Current, present)
	}
	s.gone("pool6")
	s.txn(datastore.DeleteAny(poolKey("pool7")))
	s.txn(ops...)
}

func testTransactions(s *suite) {
	s.sub("AllKeysAreWrittenAtOneRevision", func(s *suite) {
		rev := s.txn(
			datastore.Create(poolKey("a"), pool("a", "10.0.0.0/16")),
			datastore.Put(poolKey("b"), pool("b", "10.1.0.0/16")),
			datastore.Create(api.HandleKey("h"), handle(map[string]int{"10.0.0.0/26": 1})),
			datastore.Check(poolKey("c"), 0),
		)
		for _, key := range []api.Key{poolKey("a"), poolKey("b"), api.HandleKey("h")} {
			if e := s.get(key); e.Revision != rev {
				s.Errorf("%s at %d, want %d", key, e.Revision, rev)
			}
		}
	})
	s.sub("AFailedConditionLeavesEverythingAsItWas", func(s *suite) {
		a := s.get(poolKey("a"))
		_, err := s.Client.Txn(s.ctx,
			datastore.Put(poolKey("new"), pool("new", "10.2.0.0/16")),
			datastore.Delete(poolKey("a"), a.Revision),
			datastore.Create(poolKey("b"), pool("b", "10.3.0.0/16")),
		)
		if !errors.Is(err, datastore.ErrAlreadyExists) {
			s.Fatalf("got %v", err)
		}
		s.gone("new")
		if after := s.get(poolKey("a")); after.Revision != a.Revision {
			s.Errorf("a was written at %d", after.Revision)
		}
	})
	s.sub("TheFirstFailedOperationIsReported", func(s *suite) {
		a := s.get(poolKey("a"))
		_, err := s.Client.Txn(s.ctx,
			datastore.Check(poolKey("a"), a.Revision),
			datastore.Check(poolKey("nowhere"), a.Revision),
			datastore.Create(poolKey("b"), pool("b", "10.3.0.0/16")),
		)
		var conflict *datastore.ConflictError
		if !errors.As(err, &conflict) || conflict.Key != poolKey("nowhere") || !errors.Is(err, datastore.ErrNotFound) {
			s.Errorf("got %v", err)
		}
		if len(conflict.Current) != 2 {
			s.Errorf("Current has %d keys, want a and b", len(conflict.Current))
		}
	})
	s.sub("TheLargestTransactionFits", func(s *suite) {
		s.txn(manyPools(datastore.MaxTxnOps)...)
	})
	refused := map[string][]datastore.Op{
		"None":             nil,
		"TooMany":          manyPools(datastore.MaxTxnOps + 1),
		"OneKeyTwice":      {datastore.DeleteAny(poolKey("a")), datastore.Check(poolKey("a"), 0)},
		"AnotherName":      {datastore.Create(poolKey("x"), pool("y", "10.0.0.0/16"))},
		"NoObject":         {datastore.Put(poolKey("x"), nil)},
		"NeverRead":        {datastore.Update(datastore.Entry{Key: poolKey("a"), Object: pool("a", "10.0.0.0/16")})},
		"DeleteUnread":     {datastore.Delete(poolKey("a"), 0)},
		"NoName":           {datastore.Put(poolKey(""), pool("", "10.0.0.0/16"))},
		"UnknownOperation": {{Key: poolKey("a")}},
	}
	for name, ops := range refused {
		s.sub("Refused"+name, func(s *suite) {
			_, err := s.Client.Txn(s.ctx, ops...)
			if err == nil || errors.Is(err, datastore.ErrConflict) || errors.Is(err, datastore.ErrUnavailable) {
				s.Errorf("got %v, want an error of no class", err)
			}
		})
	}
}

func manyPools(n int) []datastore.Op {
	ops := make([]datastore.Op, n)
	for i := range ops {
		name := "many-" + strconv.Itoa(i)
		ops[i] = datastore.Put(poolKey(name), pool(name, cidrOf(i)))
	}
	return ops
}
