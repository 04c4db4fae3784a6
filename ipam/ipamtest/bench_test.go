package ipamtest_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd/etcdtest"
	"tortie/ipam"
)

// bench is a real etcd with one node whose block is already claimed.
type bench struct {
	b      *testing.B
	ctx    context.Context
	client datastore.Client
	bare   *clientv3.Client
	alloc  *ipam.Allocator
	n      int
}

func newBench(b *testing.B) *bench {
	b.Helper()
	server := etcdtest.Start(b, etcdtest.Options{})
	s := &bench{b: b, ctx: context.Background(), client: connect(b, server), bare: server.Bare(context.Background())}
	populate(b, s.client, map[string]string{"p": "10.0.0.0/16"}, map[string]int{"p": 26}, "node1")
	s.alloc = start(b, s.client, "node1")
	s.assign("warm")
	return s
}

func (s *bench) assign(handle string) {
	if _, err := s.alloc.AutoAssign(s.ctx, ipam.Request{Handle: ipam.HandleID(handle), Num4: 1}); err != nil {
		s.b.Error(err)
	}
}

func (s *bench) release(handle string) {
	if _, err := s.alloc.ReleaseByHandle(s.ctx, ipam.HandleID(handle)); err != nil {
		s.b.Error(err)
	}
}

func (s *bench) name() string {
	s.n++
	return fmt.Sprintf("k8s-pod-network.%064d", s.n)
}

func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func median(times []time.Duration) float64 {
	slices.Sort(times)
	return float64(times[len(times)/2].Nanoseconds())
}

// BenchmarkAllocation measures one assignment and its release, each beside the
// floor: a bare etcd transaction of the same two keys with values of the same
// size, on the same server, in turn. The ratios are of the medians.
func BenchmarkAllocation(b *testing.B) {
	s := newBench(b)
	block, err := s.bare.Get(s.ctx, "/calico/ipam/v2/assignment/", clientv3.WithPrefix())
	if err != nil || len(block.Kvs) != 1 {
		b.Fatal(err)
	}
	key, value := "/bare/block", string(block.Kvs[0].Value)
	var rev int64
	if resp, err := s.bare.Put(s.ctx, key, value); err == nil {
		rev = resp.Header.Revision
	}
	floor := func() {
		handle := "/bare/handle/" + s.name()
		resp, err := s.bare.Txn(s.ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", rev), clientv3.Compare(clientv3.ModRevision(handle), "=", 0)).
			Then(clientv3.OpPut(handle, `{"block":{"10.20.166.128/26":1},"deleted":false}`), clientv3.OpPut(key, value)).
			Else(clientv3.OpGet(handle), clientv3.OpGet(key)).Commit()
		if err != nil || !resp.Succeeded {
			b.Fatalf("floor: %v", err)
		}
		rev = resp.Header.Revision
	}
	var bare, assigned, released []time.Duration
	for b.Loop() {
		handle := s.name()
		bare = append(bare, timed(floor))
		assigned = append(assigned, timed(func() { s.assign(handle) }))
		released = append(released, timed(func() { s.release(handle) }))
	}
	base := median(bare)
	b.ReportMetric(base, "floor-p50-ns")
	b.ReportMetric(median(assigned), "assign-p50-ns")
	b.ReportMetric(median(assigned)/base, "assign/floor")
	b.ReportMetric(median(released)/base, "release/floor")
}

// BenchmarkConcurrentAllocation compares the rate of 64 assignments one at a
// time with that of 64 at once, in turn.
func BenchmarkConcurrentAllocation(b *testing.B) {
	const calls = 64
	s := newBench(b)
	releaseAll := func(handles []string) {
		for _, handle := range handles {
			s.release(handle)
		}
	}
	// Own blocks for all of them, before anything is measured.
	var warm []string
	for range 2 * calls {
		warm = append(warm, s.name())
		s.assign(warm[len(warm)-1])
	}
	releaseAll(warm)
	var single, together []time.Duration
	for b.Loop() {
		var handles []string
		for range calls {
			handles = append(handles, s.name())
		}
		single = append(single, timed(func() {
			for _, handle := range handles {
				s.assign(handle)
			}
		}))
		releaseAll(handles)
		together = append(together, timed(func() {
			var wg sync.WaitGroup
			for _, handle := range handles {
				wg.Go(func() { s.assign(handle) })
			}
			wg.Wait()
		}))
		releaseAll(handles)
	}
	b.ReportMetric(calls/(median(single)/1e9), "one-at-a-time/s")
	b.ReportMetric(calls/(median(together)/1e9), "64-at-once/s")
	b.ReportMetric(median(single)/median(together), "rate-ratio")
}
