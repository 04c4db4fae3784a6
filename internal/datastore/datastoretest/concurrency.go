package datastoretest

import (
	"errors"
	"sync"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

func testConcurrency(s *suite) {
	s.sub("CompareAndSwapLosesNoIncrement", concurrentCounters)
	s.sub("OnlyOneOfManyCreatorsWins", concurrentCreators)
}

// concurrentCounters has several writers count in two records at once, each
// retrying from the state in the conflict.
func concurrentCounters(s *suite) {
	const writers, increments, block = 6, 20, "10.0.0.0/26"
	a, b := api.HandleKey("count-a"), api.HandleKey("count-b")
	s.txn(datastore.Create(a, handle(map[string]int{block: 0})), datastore.Create(b, handle(map[string]int{block: 0})))

	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range increments {
				if err := s.increment(block, a, b); err != nil {
					s.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, key := range []api.Key{a, b} {
		if got := s.get(key).Object.(*api.IPAMHandle).Spec.Block[block]; got != writers*increments {
			s.Errorf("%s counted %d, want %d", key, got, writers*increments)
		}
	}
}

// increment counts one more in two handles at once.
func (s *suite) increment(block string, a, b api.Key) error {
	update := func(e datastore.Entry) datastore.Op {
		e.Object.(*api.IPAMHandle).Spec.Block[block]++
		return datastore.Update(e)
	}
	var current map[api.Key]datastore.Entry
	for {
		if current[a].Object == nil {
			current = map[api.Key]datastore.Entry{a: s.read(a), b: s.read(b)}
		}
		_, err := s.Client.Txn(s.ctx, update(current[a]), update(current[b]))
		var conflict *datastore.ConflictError
		if !errors.As(err, &conflict) {
			return err
		}
		current = conflict.Current
	}
}

// read is get for use outside the test's own goroutine.
func (s *suite) read(key api.Key) datastore.Entry {
	e, err := s.Client.Get(s.ctx, key)
	if err != nil {
		s.Error(err)
		e.Object = handle(map[string]int{})
	}
	return e
}

func concurrentCreators(s *suite) {
	const creators = 8
	errs := make([]error, creators)
	var wg sync.WaitGroup
	for i := range creators {
		wg.Go(func() {
			_, errs[i] = s.Client.Txn(s.ctx, datastore.Create(poolKey("contested"), pool("contested", cidrOf(i))))
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case err == nil:
			s.Errorf("both %d and %d created it", winner, i)
		case !errors.Is(err, datastore.ErrAlreadyExists):
			s.Error(err)
		}
	}
	if winner < 0 {
		s.Fatal("nobody created it")
	}
	if got := s.cidr(s.get(poolKey("contested"))); got != cidrOf(winner) {
		s.Errorf("stored %s, but %d won", got, winner)
	}
}
