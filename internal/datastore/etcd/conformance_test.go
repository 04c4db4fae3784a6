package etcd_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/datastoretest"
	"tortie/internal/datastore/etcd"
	"tortie/internal/datastore/etcd/etcdtest"
)

func TestConformance(t *testing.T) {
	reg := api.NewRegistry()
	server := etcdtest.Start(t, etcdtest.Options{})
	bare := server.Bare(context.Background())
	datastoretest.Run(t, reg, func(t *testing.T) datastoretest.Store {
		if _, err := bare.Delete(t.Context(), "", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		return datastoretest.Store{
			Client: newClient(t, etcd.Config{Config: server.Config()}),
			RawPut: func(path string, value []byte) {
				if _, err := bare.Put(t.Context(), path, string(value)); err != nil {
					t.Fatal(err)
				}
			},
			RawGet: func(path string) ([]byte, bool) {
				resp, err := bare.Get(t.Context(), path)
				if err != nil {
					t.Fatal(err)
				}
				if len(resp.Kvs) == 0 {
					return nil, false
				}
				return resp.Kvs[0].Value, true
			},
			RawDelete: func(path string) {
				if _, err := bare.Delete(t.Context(), path); err != nil {
					t.Fatal(err)
				}
			},
			Compact: func(rev datastore.Revision) { server.Compact(bare, rev) },
			Unreachable: func() datastore.Client {
				return newClient(t, etcd.Config{
					Config:   datastore.Config{Endpoints: []string{"http://127.0.0.1:1"}},
					Patience: 300 * time.Millisecond,
				})
			},
		}
	})
}

func newClient(t testing.TB, cfg etcd.Config) *etcd.Client {
	t.Helper()
	c, err := etcd.New(context.Background(), cfg, api.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
