package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd"
	"tortie/internal/datastore/etcd/etcdtest"
)

const limit = 60 * time.Second

func newPool(name, cidr string) *v3.IPPool {
	return &v3.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v3.IPPoolSpec{CIDR: cidr}}
}

func poolKey(name string) api.Key { return api.Key{Kind: api.KindIPPool, Name: name} }

func put(t testing.TB, c datastore.Client, name, cidr string) datastore.Revision {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		rev, err := c.Txn(ctx, datastore.Put(poolKey(name), newPool(name, cidr)))
		if err == nil {
			return rev
		}
		if !errors.Is(err, datastore.ErrUnavailable) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// mirror is a Sink that keeps the pools it was told of and lets a test wait for
// a state of them.
type mirror struct {
	states chan map[string]string // a copy after each change; the newest only
	state  map[string]string
	inSync chan struct{}
	sent   int
}

func newMirror() *mirror {
	return &mirror{states: make(chan map[string]string, 1), state: map[string]string{}, inSync: make(chan struct{})}
}

func (m *mirror) OnStatus(s datastore.Status) {
	if s == datastore.InSync {
		close(m.inSync)
	}
}

func (m *mirror) OnUpdates(updates []datastore.SyncUpdate) {
	m.sent += len(updates)
	for _, u := range updates {
		if u.Entry == nil {
			delete(m.state, u.Key.Name)
			continue
		}
		m.state[u.Key.Name] = u.Entry.Object.(*v3.IPPool).Spec.CIDR
	}
	published := maps.Clone(m.state)
	select {
	case <-m.states: // replace the one nobody took
	default:
	}
	m.states <- published
}

// await waits until the mirror is in the state wanted.
func (m *mirror) await(t *testing.T, want map[string]string) {
	t.Helper()
	timeout := time.After(limit)
	var last map[string]string
	for {
		select {
		case last = <-m.states:
			if cmp.Equal(want, last) {
				return
			}
		case <-timeout:
			t.Fatalf("the sink doesn't get there (-want +got):\n%s", cmp.Diff(want, last))
		}
	}
}

// follow runs a Syncer of all pools until the test ends.
func follow(t *testing.T, c datastore.Client) *mirror {
	t.Helper()
	m := newMirror()
	s := datastore.NewSyncer(datastore.SyncerConfig{
		Client: c, Ranges: []datastore.Range{{Kind: api.KindIPPool}}, Sink: m,
		Backoff: func(int) time.Duration { return 20 * time.Millisecond },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-m.inSync:
	case <-time.After(limit):
		t.Fatal("not in sync")
	}
	return m
}

func TestSyncerSurvivesKillAndRestartOfEtcd(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Options{})
	c := newClient(t, etcd.Config{Config: server.Config()})
	put(t, c, "a", "10.0.0.0/16")
	m := follow(t, c)
	for i := range 3 {
		server.Kill()
		server.Restart()
		cidr := fmt.Sprintf("10.%d.0.0/16", i+1)
		put(t, c, "a", cidr)
		m.await(t, map[string]string{"a": cidr})
	}
}

func TestSyncerSurvivesCompactionWhileEtcdIsAway(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	c := newClient(t, etcd.Config{Config: server.Config()})
	put(t, c, "a", "10.0.0.0/16")
	put(t, c, "b", "10.1.0.0/16")
	m := follow(t, c)
	m.await(t, map[string]string{"a": "10.0.0.0/16", "b": "10.1.0.0/16"})

	// Only a restart ends the watch. Before the syncer's own client can be back, the
	// history it would need is gone: a second client on the same server compacts it.
	server.Kill()
	server.Restart()
	bare := server.Bare(context.Background())
	if _, err := bare.Delete(t.Context(), poolPath("a")); err != nil {
		t.Fatal(err)
	}
	server.Compact(bare, put(t, newClient(t, etcd.Config{Config: server.Config()}), "c", "10.2.0.0/16"))
	m.await(t, map[string]string{"b": "10.1.0.0/16", "c": "10.2.0.0/16"})
}

func TestSyncerFollowsAnEtcdRestoredFromABackup(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Options{})
	c := newClient(t, etcd.Config{Config: server.Config()})
	put(t, c, "a", "10.0.0.0/16")
	server.Kill()
	backup := server.Backup()
	server.Restart()
	for i := range 50 {
		put(t, c, "later", fmt.Sprintf("10.%d.0.0/16", 100+i))
	}
	m := follow(t, c)
	m.await(t, map[string]string{"a": "10.0.0.0/16", "later": "10.149.0.0/16"})

	server.Kill()
	server.Restore(backup)
	server.Restart()
	m.await(t, map[string]string{"a": "10.0.0.0/16"})
	put(t, c, "a", "10.7.0.0/16")
	m.await(t, map[string]string{"a": "10.7.0.0/16"})

	server.Kill()
	server.Restore("")
	server.Restart()
	m.await(t, map[string]string{})
	put(t, c, "new", "10.8.0.0/16")
	m.await(t, map[string]string{"new": "10.8.0.0/16"})
}

func TestSyncerOfTenThousandObjects(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Options{})
	c := newClient(t, etcd.Config{Config: server.Config()})
	want := make(map[string]string, 10_000)
	for i := 0; i < 10_000; i += 100 {
		ops := make([]datastore.Op, 0, 100)
		for j := i; j < i+100; j++ {
			name, cidr := fmt.Sprintf("p%05d", j), fmt.Sprintf("10.%d.%d.0/24", j/256, j%256)
			ops = append(ops, datastore.Create(poolKey(name), newPool(name, cidr)))
			want[name] = cidr
		}
		if _, err := c.Txn(t.Context(), ops...); err != nil {
			t.Fatal(err)
		}
	}
	snap, err := c.List(t.Context(), datastore.Range{Kind: api.KindIPPool})
	if err != nil || len(snap.Entries) != len(want) {
		t.Fatalf("listed %d objects, %v", len(snap.Entries), err)
	}
	for i := 1; i < len(snap.Entries); i++ {
		if snap.Entries[i-1].Key.Name >= snap.Entries[i].Key.Name {
			t.Fatalf("%s before %s", snap.Entries[i-1].Key, snap.Entries[i].Key)
		}
	}

	m := follow(t, c)
	m.await(t, want)
	server.Kill()
	server.Restart()
	put(t, c, "p00000", "192.0.2.0/24")
	want["p00000"] = "192.0.2.0/24"
	m.await(t, want)
	if m.sent != 10_001 {
		t.Errorf("%d updates sent, want the 10000 objects and the one that changed", m.sent)
	}
}

func TestAnUnresponsiveEtcdIsNoticedInSeconds(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Options{})
	c := newClient(t, etcd.Config{Config: server.Config(), KeepAliveTimeout: time.Second})
	rev := put(t, c, "a", "10.0.0.0/16")
	w, err := c.Watch(t.Context(), datastore.Range{Kind: api.KindIPPool}, rev)
	if err != nil {
		t.Fatal(err)
	}
	server.Freeze()
	defer server.Thaw()
	start := time.Now()
	select {
	case _, ok := <-w.Events():
		if ok || !errors.Is(w.Err(), datastore.ErrUnavailable) {
			t.Errorf("watch ended with %v", w.Err())
		}
	case <-time.After(limit):
		t.Fatal("the watch waits on")
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("noticed after %v", took)
	}
}

func TestRequestsGoToAnotherEndpointWhenOneIsDown(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	cfg := etcd.Config{Config: server.Config()}
	cfg.Endpoints = []string{"http://127.0.0.1:1", server.Endpoint()}
	c := newClient(t, cfg)
	for range 5 {
		put(t, c, "a", "10.0.0.0/16")
		if _, err := c.Get(t.Context(), poolKey("a")); err != nil {
			t.Error(err)
		}
	}
}

func TestARestartIsSatOut(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	c := newClient(t, etcd.Config{Config: server.Config(), Patience: limit, RequestTimeout: limit})
	put(t, c, "a", "10.0.0.0/16")
	server.Kill()
	got := make(chan error, 1)
	go func() {
		_, err := c.List(context.Background(), datastore.Range{Kind: api.KindIPPool})
		got <- err
	}()
	server.Restart()
	if err := <-got; err != nil {
		t.Errorf("a read during the restart: %v", err)
	}
}

func TestAnUnreachableEtcdIsReportedWithItsAddressAndCause(t *testing.T) {
	t.Parallel()
	cfg := etcd.Config{Patience: 200 * time.Millisecond}
	cfg.Endpoints = []string{"http://127.0.0.1:1", "http://127.0.0.1:2"}
	c := newClient(t, cfg)
	start := time.Now()
	_, err := c.Get(context.Background(), poolKey("a"))
	if !errors.Is(err, datastore.ErrUnavailable) || time.Since(start) > 8*time.Second {
		t.Fatalf("got %v after %v", err, time.Since(start))
	}
	for _, want := range []string{"get IPPool(a)", "etcd http://127.0.0.1:1", "etcd http://127.0.0.1:2", "connection refused"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

// TestAnEtcdThatKeepsSilentIsReportedInTime: before the time that gRPC gives an
// attempt to connect is over.
func TestAnEtcdThatKeepsSilentIsReportedInTime(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	cfg := etcd.Config{RequestTimeout: 5 * time.Second, DialTimeout: limit}
	cfg.Endpoints = []string{"http://" + l.Addr().String()}
	_, err = newClient(t, cfg).Get(context.Background(), poolKey("a"))
	if want := "etcd " + cfg.Endpoints[0] + ": it takes the connection and says nothing"; !errors.Is(err, datastore.ErrUnavailable) ||
		!strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an ErrUnavailable with %q", err, want)
	}
}

func TestClosingEndsRequestsAndWatchesAndLeavesNothingRunning(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	c, err := etcd.New(t.Context(), etcd.Config{Config: server.Config()}, api.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.Watch(t.Context(), datastore.Range{Kind: api.KindIPPool}, put(t, c, "a", "10.0.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for range w.Events() { // only its end matters
	}
	if !errors.Is(w.Err(), datastore.ErrUnavailable) {
		t.Errorf("the watch ended with %v", w.Err())
	}
	if _, err := c.Get(t.Context(), poolKey("a")); !errors.Is(err, datastore.ErrUnavailable) {
		t.Errorf("Get: %v", err)
	}
}

func poolPath(name string) string { return "/calico/resources/v3/projectcalico.org/ippools/" + name }

func TestALargeHistoryNeverSplitsATransaction(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	c := newClient(t, etcd.Config{Config: server.Config()})
	first := put(t, c, "start", "10.0.0.0/16")
	big := func(name string) datastore.Op {
		p := newPool(name, "10.0.0.0/16")
		p.Annotations = map[string]string{"filler": strings.Repeat("x", 200<<10)}
		return datastore.Put(poolKey(name), p)
	}
	const transactions = 24 // 14 MB in all, several times what one message holds
	for range transactions {
		if _, err := c.Txn(t.Context(), big("a"), big("b"), big("c")); err != nil {
			t.Fatal(err)
		}
	}
	w, err := c.Watch(t.Context(), datastore.Range{Kind: api.KindIPPool}, first)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	timeout := time.After(limit)
	for seen := 0; seen < transactions; {
		select {
		case batch, ok := <-w.Events():
			if !ok {
				t.Fatal(w.Err())
			}
			byRevision := map[datastore.Revision]int{}
			for _, ev := range batch {
				byRevision[ev.Revision]++
			}
			for rev, n := range byRevision {
				if n != 3 {
					t.Errorf("revision %d: %d of 3 events in one batch", rev, n)
				}
			}
			seen += len(byRevision)
		case <-timeout:
			t.Fatal("the history doesn't arrive")
		}
	}
}
