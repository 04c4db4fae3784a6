package memory_test

import (
	"errors"
	"testing"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/datastoretest"
	"tortie/internal/datastore/memory"
)

func TestConformance(t *testing.T) {
	reg := api.NewRegistry()
	datastoretest.Run(t, reg, func(*testing.T) datastoretest.Store {
		store := memory.New(reg)
		return datastoretest.Store{
			Client:    store.Client(),
			RawPut:    func(path string, value []byte) { store.RawPut(path, value) },
			RawGet:    store.RawGet,
			RawDelete: func(path string) { store.RawDelete(path) },
			Compact:   store.Compact,
			Unreachable: func() datastore.Client {
				c := store.Client()
				c.SetUnavailable(true)
				return c
			},
		}
	})
}

func TestALostReplyHidesAWriteThatTookEffect(t *testing.T) {
	store := memory.New(api.NewRegistry())
	key := api.HandleKey("h")
	store.LoseReplies(1)
	if _, err := store.Txn(t.Context(), datastore.Create(key, &api.IPAMHandle{})); !errors.Is(err, datastore.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := store.Txn(t.Context(), datastore.Create(key, &api.IPAMHandle{})); !errors.Is(err, datastore.ErrAlreadyExists) {
		t.Errorf("the write was lost too: %v", err)
	}
}

func TestCuttingOffOneClientLeavesTheOthers(t *testing.T) {
	store := memory.New(api.NewRegistry())
	a, b := store.Client(), store.Client()
	pools := datastore.Range{Kind: api.KindIPPool}
	watch := func(c *memory.Client) datastore.Watch {
		w, err := c.Watch(t.Context(), pools, store.Revision())
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	wa, wb := watch(a), watch(b)
	a.SetUnavailable(true)
	if _, ok := <-wa.Events(); ok || !errors.Is(wa.Err(), datastore.ErrUnavailable) {
		t.Errorf("a's watch: %v", wa.Err())
	}
	if _, err := a.List(t.Context(), pools); !errors.Is(err, datastore.ErrUnavailable) {
		t.Errorf("a: %v", err)
	}
	store.RawPut("/calico/resources/v3/projectcalico.org/ippools/p", []byte("{"))
	if batch := <-wb.Events(); len(batch) != 1 || batch[0].Invalid == nil {
		t.Errorf("b's watch: %v", batch)
	}
	a.SetUnavailable(false)
	if _, err := a.List(t.Context(), pools); err != nil {
		t.Errorf("a again: %v", err)
	}
}

func TestRestoreTakesTheStoreBackInTime(t *testing.T) {
	store := memory.New(api.NewRegistry())
	key := api.HandleKey("h")
	backup := store.Backup()
	if _, err := store.Txn(t.Context(), datastore.Create(key, &api.IPAMHandle{})); err != nil {
		t.Fatal(err)
	}
	store.Restore(backup)
	if _, err := store.Get(t.Context(), key); !errors.Is(err, datastore.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if got, want := store.Revision(), datastore.Revision(1); got != want {
		t.Errorf("revision %d, want %d", got, want)
	}
}
