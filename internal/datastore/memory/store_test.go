package memory_test

import (
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
