package etcd_test

import (
	"context"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd"
	"tortie/internal/datastore/etcd/etcdtest"
)

// BenchmarkGet and BenchmarkTxn report, beside their own time, that of the bare
// etcd client doing the same on the same keys in turn, and the ratio of the
// medians: what our codec, classes and limits cost.

func BenchmarkGet(b *testing.B) {
	s := newBenchStore(b)
	s.compare(b,
		func() error { _, err := s.bare.Get(s.ctx, s.blockPath); return err },
		func() error { _, err := s.client.Get(s.ctx, s.block); return err },
	)
}

// BenchmarkTxn is an address assignment: a block by compare-and-swap and a new
// handle.
func BenchmarkTxn(b *testing.B) {
	s := newBenchStore(b)
	value, err := s.bare.Get(s.ctx, s.blockPath)
	if err != nil {
		b.Fatal(err)
	}
	text := string(value.Kvs[0].Value)
	handlePath, handle := "/calico/ipam/v2/handle/bare", api.HandleKey("ours")
	entry, err := s.client.Get(s.ctx, s.block)
	if err != nil {
		b.Fatal(err)
	}
	barePath := s.blockPath + "-bare"
	put, err := s.bare.Put(s.ctx, barePath, text)
	if err != nil {
		b.Fatal(err)
	}
	bareRev := put.Header.Revision
	s.compare(b,
		func() error {
			resp, err := s.bare.Txn(s.ctx).
				If(clientv3.Compare(clientv3.ModRevision(barePath), "=", bareRev)).
				Then(clientv3.OpPut(barePath, text), clientv3.OpPut(handlePath, `{"block":{"10.0.0.0/26":1},"deleted":false}`)).
				Else(clientv3.OpGet(barePath), clientv3.OpGet(handlePath)).
				Commit()
			if err == nil {
				bareRev = resp.Header.Revision
			}
			return err
		},
		func() error {
			rev, err := s.client.Txn(s.ctx, datastore.Update(entry),
				datastore.Put(handle, &api.IPAMHandle{Spec: api.IPAMHandleSpec{Block: map[string]int{"10.0.0.0/26": 1}}}))
			entry.Revision = rev
			return err
		},
	)
}

type benchStore struct {
	ctx       context.Context
	client    *etcd.Client
	bare      *clientv3.Client
	block     api.Key
	blockPath string
}

func newBenchStore(b *testing.B) *benchStore {
	b.Helper()
	server := etcdtest.Start(b, etcdtest.Options{})
	s := &benchStore{
		ctx:       context.Background(),
		client:    newClient(b, etcd.Config{Config: server.Config()}),
		bare:      server.Bare(context.Background()),
		block:     api.Key{Kind: api.KindIPAMBlock, Name: "10.0.0.0/26"},
		blockPath: "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26",
	}
	affinity := "host:node1"
	block := &api.IPAMBlock{Spec: api.IPAMBlockSpec{
		CIDR: "10.0.0.0/26", Affinity: &affinity, Allocations: make([]*int, 64), Attributes: []api.BlockAttributes{},
		SequenceNumberForAllocation: map[string]uint64{},
	}}
	for i := range 64 {
		block.Spec.Unallocated = append(block.Spec.Unallocated, i)
	}
	if _, err := s.client.Txn(s.ctx, datastore.Create(s.block, block)); err != nil {
		b.Fatal(err)
	}
	return s
}

// compare runs both in turn and reports the medians.
func (s *benchStore) compare(b *testing.B, bare, ours func() error) {
	b.Helper()
	var bareTimes, ourTimes []time.Duration
	timed := func(f func() error) time.Duration {
		start := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	for b.Loop() {
		bareTimes = append(bareTimes, timed(bare))
		ourTimes = append(ourTimes, timed(ours))
	}
	bareMedian, ourMedian := median(bareTimes), median(ourTimes)
	b.ReportMetric(float64(bareMedian.Nanoseconds()), "bare-p50-ns")
	b.ReportMetric(float64(ourMedian.Nanoseconds()), "ours-p50-ns")
	b.ReportMetric(float64(ourMedian)/float64(bareMedian), "ours/bare")
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}
