package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd/etcdtest"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

// meddler changes the store between the pages of a List.
type meddler struct {
	clientv3.KV
	calls  int
	meddle func(call int)
}

func (m *meddler) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	m.calls++
	resp, err := m.KV.Get(ctx, key, opts...)
	m.meddle(m.calls)
	return resp, err
}

// newPaged gives a store of seven handles and a client that lists three at once.
func newPaged(t *testing.T) (*Client, *etcdtest.Server, *clientv3.Client) {
	t.Helper()
	server := etcdtest.Start(t, etcdtest.Options{})
	c, err := New(context.Background(), Config{Config: server.Config()}, api.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	c.pageSize = 3
	for i := range 7 {
		if _, err := c.Txn(t.Context(), datastore.Create(handleKey(i), &api.IPAMHandle{})); err != nil {
			t.Fatal(err)
		}
	}
	return c, server, server.Bare(context.Background())
}

func handleKey(i int) api.Key { return api.HandleKey(fmt.Sprintf("h%d", i)) }

func listed(t *testing.T, c *Client) (n int, rev datastore.Revision) {
	t.Helper()
	snap, err := c.List(t.Context(), datastore.Range{Kind: api.KindIPAMHandle})
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range snap.Entries {
		if e.Key != handleKey(i) {
			t.Errorf("entry %d is %s", i, e.Key)
		}
	}
	return len(snap.Entries), snap.Revision
}

func TestAPagedListShowsOneRevision(t *testing.T) {
	c, _, bare := newPaged(t)
	_, before := listed(t, c)
	m := &meddler{KV: c.kv, meddle: func(int) {
		if _, err := bare.Delete(t.Context(), "/calico/ipam/v2/handle/h6"); err != nil {
			t.Error(err)
		}
	}}
	c.kv = m
	if n, rev := listed(t, c); n != 7 || rev != before || m.calls != 3 {
		t.Errorf("%d entries at %d in %d pages, want 7 at %d in 3", n, rev, m.calls, before)
	}
}

func TestAPagedListBeginsAgainWhenItsRevisionIsCompacted(t *testing.T) {
	c, server, bare := newPaged(t)
	m := &meddler{KV: c.kv, meddle: func(call int) {
		if call != 1 {
			return
		}
		resp, err := bare.Delete(t.Context(), "/calico/ipam/v2/handle/h6")
		if err != nil {
			t.Error(err)
			return
		}
		server.Compact(bare, datastore.Revision(resp.Header.Revision))
	}}
	c.kv = m
	if n, _ := listed(t, c); n != 6 || m.calls != 4 {
		t.Errorf("%d entries in %d calls, want 6 in 4", n, m.calls)
	}
}
