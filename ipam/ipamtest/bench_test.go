package ipamtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd/etcdtest"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

// gcPercent is felix's: at Go's default its few megabytes are collected every few calls.
const gcPercent = 400

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
	before := debug.SetGCPercent(gcPercent)
	b.Cleanup(func() { debug.SetGCPercent(before) })
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

// floor is a bare etcd transaction of the keys of an assignment, with values of their
// size, on the same server.
type floor struct {
	*bench
	block, handle string // the values
	rev           int64
}

func (s *bench) floor() *floor {
	f := &floor{bench: s}
	name := s.name()
	s.assign(name)
	f.block, f.handle = s.only("/calico/ipam/v2/assignment/"), s.only("/calico/ipam/v2/handle/"+name)
	s.release(name)
	return f
}

// only is the value of the one key below a prefix.
func (s *bench) only(prefix string) string {
	s.b.Helper()
	resp, err := s.bare.Get(s.ctx, prefix, clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) != 1 {
		s.b.Fatalf("%s: %v", prefix, err)
	}
	return string(resp.Kvs[0].Value)
}

func (f *floor) assign() {
	key, handle := "/bare/ipam/v2/assignment/ipv4/block/10.0.0.0-26", "/bare/ipam/v2/handle/"+f.name()
	resp, err := f.bare.Txn(f.ctx).
		If(clientv3.Compare(clientv3.ModRevision(handle), "=", 0), clientv3.Compare(clientv3.ModRevision(key), "=", f.rev)).
		Then(clientv3.OpPut(handle, f.handle), clientv3.OpPut(key, f.block)).
		Else(clientv3.OpGet(handle), clientv3.OpGet(key)).Commit()
	if err != nil || !resp.Succeeded {
		f.b.Fatalf("floor: %v", err)
	}
	f.rev = resp.Header.Revision
}

// BenchmarkAllocation measures one assignment and its release, each beside the floor, in
// turn. The ratios are of the medians.
func BenchmarkAllocation(b *testing.B) {
	s := newBench(b)
	floor := s.floor()
	var bare, assigned, released []time.Duration
	for b.Loop() {
		handle := s.name()
		bare = append(bare, timed(floor.assign))
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
	b.ReportMetric(float64(s.alloc.Stats(s.ctx).Work.Conflicts), "conflicts")
}

// fill stores count blocks of a pool that a node has, without a free address.
func (s *bench) fill(node string, pool netip.Prefix, bits, count int, skip netip.Addr) {
	s.b.Helper()
	var ops []clientv3.Op
	flush := func() {
		if _, err := s.bare.Txn(s.ctx).Then(ops...).Commit(); err != nil {
			s.b.Fatal(err)
		}
		ops = nil
	}
	size := 1 << (pool.Addr().BitLen() - bits)
	addr := pool.Addr()
	for range count {
		block := netip.PrefixFrom(addr, bits)
		if !block.Contains(skip) {
			text := fmt.Sprintf(`{"cidr":"%s","affinity":"host:%s","allocations":[%s],"unallocated":[],"attributes":[{"handle_id":"h-%s","secondary":{"node":"%s"}}],"sequenceNumber":7,"sequenceNumberForAllocation":{},"deleted":false}`,
				block, node, strings.TrimSuffix(strings.Repeat("0,", size), ","), addr, node)
			name := strings.Replace(block.String(), "/", "-", 1)
			ops = append(ops, clientv3.OpPut("/calico/ipam/v2/assignment/ipv4/block/"+name, text),
				clientv3.OpPut("/calico/ipam/v2/host/"+node+"/ipv4/block/"+name, `{"state":"confirmed","deleted":false}`))
		}
		for range size {
			addr = addr.Next()
		}
		if len(ops) == 100 {
			flush()
		}
	}
	if len(ops) > 0 {
		flush()
	}
}

// BenchmarkLastBlockOfMany finds the one free block among 4,096: by one list and the two
// transactions of the claim.
func BenchmarkLastBlockOfMany(b *testing.B) {
	server := etcdtest.Start(b, etcdtest.Options{})
	s := &bench{b: b, ctx: context.Background(), client: connect(b, server), bare: server.Bare(context.Background())}
	populate(b, s.client, map[string]string{"p": "10.0.0.0/14"}, map[string]int{"p": 26}, "node1")
	s.fill("full", netip.MustParsePrefix("10.0.0.0/14"), 26, 4096, netip.MustParseAddr("10.1.2.3"))
	var found []time.Duration
	trips := 0
	for b.Loop() {
		client := &ipamtest.Faulty{Client: s.client}
		a := start(b, client, "node1")
		if _, err := a.ReleaseByHandle(s.ctx, "nobody"); err != nil { // reads the node's affinities
			b.Fatal(err)
		}
		before := client.Operations()
		found = append(found, timed(func() {
			if _, err := a.EnsureBlock(s.ctx, ipam.Request{Num4: 1}); err != nil {
				b.Fatal(err)
			}
		}))
		trips = client.Operations() - before
		a.Close()
		if _, err := ipam.ReleaseHost(s.ctx, s.client, "node1"); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(trips), "round-trips")
	b.ReportMetric(median(found)/1e6, "found-p50-ms")
}

// BenchmarkLastBlockOfSixteen has 16 nodes want the one block there is, which they may
// not share: how long until each of them knows, and how many transactions that took.
func BenchmarkLastBlockOfSixteen(b *testing.B) {
	const nodes = 16
	server := etcdtest.Start(b, etcdtest.Options{})
	s := &bench{b: b, ctx: context.Background(), client: connect(b, server), bare: server.Bare(context.Background())}
	var names []string
	for i := range nodes {
		names = append(names, fmt.Sprint("node", i))
	}
	populate(b, s.client, map[string]string{"p": "10.0.0.0/26"}, map[string]int{"p": 26}, names...)
	put(b, s.client, &api.IPAMConfig{
		TypeMeta:   metav1.TypeMeta{Kind: string(api.KindIPAMConfig), APIVersion: api.GroupVersion},
		ObjectMeta: metav1.ObjectMeta{Name: api.IPAMConfigKey().Name},
		Spec:       api.IPAMConfigSpec{AutoAllocateBlocks: true, StrictAffinity: true},
	})
	clients, allocs := make([]*ipamtest.Faulty, nodes), make([]*ipam.Allocator, nodes)
	var told []time.Duration
	operations, rounds := 0, 0
	for b.Loop() {
		for i, name := range names {
			clients[i] = &ipamtest.Faulty{Client: s.client}
			allocs[i] = start(b, clients[i], name)
			if _, err := allocs[i].ReleaseByHandle(s.ctx, "nobody"); err != nil {
				b.Fatal(err)
			}
		}
		var won atomic.Int64
		told = append(told, timed(func() {
			var wg sync.WaitGroup
			for i, name := range names {
				wg.Go(func() {
					_, err := allocs[i].AutoAssign(s.ctx, ipam.Request{Handle: ipam.HandleID(name), Num4: 1})
					switch {
					case err == nil:
						won.Add(1)
					case !errors.Is(err, ipam.ErrPoolFull):
						b.Error(err)
					}
				})
			}
			wg.Wait()
		}))
		if won.Load() != 1 {
			b.Fatalf("%d nodes got an address of the one block", won.Load())
		}
		rounds++
		for i, name := range names {
			operations += clients[i].Operations()
			allocs[i].Close()
			if _, err := ipam.ReleaseNode(s.ctx, s.client, name); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(median(told)/1e6, "all-told-p50-ms")
	b.ReportMetric(float64(operations)/float64(rounds*nodes), "operations/node")
}

// BenchmarkAllocationAmongManyBlocks compares an assignment among 10 blocks with one among
// 10,000, in turn: blocks of another node, and of the node itself. All of them are full
// but the one that is assigned from.
func BenchmarkAllocationAmongManyBlocks(b *testing.B) {
	b.Run("others", func(b *testing.B) { compareSizes(b, "full") })
	b.Run("own", func(b *testing.B) { compareSizes(b, "node1") })
}

func compareSizes(b *testing.B, owner string) {
	b.Helper()
	sizes, times := []int{10, 10000}, make([][]time.Duration, 2)
	var benches []*bench
	for _, count := range sizes {
		server := etcdtest.Start(b, etcdtest.Options{})
		s := &bench{b: b, ctx: context.Background(), client: connect(b, server), bare: server.Bare(context.Background())}
		populate(b, s.client, map[string]string{"p": "10.0.0.0/12"}, map[string]int{"p": 26}, "node1")
		put(b, s.client, &api.IPAMConfig{
			TypeMeta:   metav1.TypeMeta{Kind: string(api.KindIPAMConfig), APIVersion: api.GroupVersion},
			ObjectMeta: metav1.ObjectMeta{Name: api.IPAMConfigKey().Name},
			Spec:       api.IPAMConfigSpec{AutoAllocateBlocks: true, MaxBlocksPerHost: 1 << 20},
		})
		s.fill(owner, netip.MustParsePrefix("10.0.0.0/12"), 26, count, netip.Addr{})
		s.alloc = start(b, s.client, "node1")
		s.assign("warm")
		benches = append(benches, s)
	}
	for b.Loop() {
		for i, s := range benches {
			handle := s.name()
			times[i] = append(times[i], timed(func() { s.assign(handle) }))
			s.release(handle)
		}
	}
	b.ReportMetric(median(times[0]), "10-blocks-p50-ns")
	b.ReportMetric(median(times[1]), "10000-blocks-p50-ns")
	b.ReportMetric(median(times[1])/median(times[0]), "ratio")
}
