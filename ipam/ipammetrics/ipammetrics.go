// Package ipammetrics shows an allocator's statistics to Prometheus.
package ipammetrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tortie/ipam"
)

// patience is how long a scrape waits for an allocator that is at work.
const patience = 500 * time.Millisecond

// Source is *ipam.Allocator.
type Source interface {
	Stats(ctx context.Context) ipam.Stats
}

// Collector is a prometheus.Collector over an allocator. Its labels are pools and a few
// words, nothing that grows with pods.
type Collector struct {
	source Source
	descs  descs
}

type descs struct {
	blocks, limit, addresses, claimed, total, nearly, latency, transactions *prometheus.Desc
}

// New makes a Collector.
func New(source Source) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("ipam_"+name, help, labels, nil)
	}
	return &Collector{source: source, descs: descs{
		blocks:       desc("node_blocks", "Blocks of this node.", "pool"), // ipam_blocks is kube-controllers', of all nodes
		limit:        desc("block_limit", "How many blocks of one IP version this node may have."),
		addresses:    desc("addresses", "Addresses of this node's blocks by what they are: in_use, free, reserved, cooling. Of those in use, lent are on other nodes. Borrowed are this node's in blocks of others, as far as seen.", "pool", "state"),
		claimed:      desc("pool_blocks_claimed", "Blocks of the pool that some node has, as far as this node has seen them; it looks when it needs a block.", "pool"),
		total:        desc("pool_blocks", "Blocks of the pool.", "pool"),
		nearly:       desc("nearly_used_up", "1 for what is used up by 80 %: a pool, or the blocks of an IP version that this node may have; absent for others.", "what"),
		latency:      desc("allocation_seconds", "How long assignments took that succeeded."),
		transactions: desc("transactions_total", "Transactions on addresses by their ends: committed, conflict (repeated with what is now known), failed.", "result"),
	}}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	d := c.descs
	for _, desc := range []*prometheus.Desc{d.blocks, d.limit, d.addresses, d.claimed, d.total, d.nearly, d.latency, d.transactions} {
		out <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s := c.source.Stats(ctx)
	gauge := func(desc *prometheus.Desc, value int, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), labels...)
	}
	gauge(c.descs.limit, s.Limit)
	for _, p := range s.Pools {
		gauge(c.descs.blocks, p.Blocks, p.Pool)
		gauge(c.descs.total, p.Total, p.Pool)
		gauge(c.descs.claimed, p.Claimed, p.Pool)
		for state, n := range map[string]int{
			"in_use": p.Used, "free": p.Free, "reserved": p.Reserved, "cooling": p.Cooling, "lent": p.Lent, "borrowed": p.Borrowed,
		} {
			gauge(c.descs.addresses, n, p.Pool, state)
		}
	}
	for _, w := range s.Warnings() {
		gauge(c.descs.nearly, 1, w.Topic)
	}
	for result, n := range map[string]uint64{"committed": s.Committed, "conflict": s.Conflicts, "failed": s.Failures} {
		out <- prometheus.MustNewConstMetric(c.descs.transactions, prometheus.CounterValue, float64(n), result)
	}
	out <- histogram(c.descs.latency, s.Latency)
}

// histogram has its buckets cumulative, as Prometheus wants them.
func histogram(desc *prometheus.Desc, h ipam.Histogram) prometheus.Metric {
	buckets, count := make(map[float64]uint64, len(h.Bounds)), uint64(0)
	for i, n := range h.Counts {
		count += n
		if i < len(h.Bounds) {
			buckets[h.Bounds[i].Seconds()] = count
		}
	}
	return prometheus.MustNewConstHistogram(desc, count, h.Sum.Seconds(), buckets)
}
