package addresses

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// descs are the metrics: those of upstream under its names, and our own.
type descs struct {
	blocks, used, borrowed, size                    *prometheus.Desc // upstream's
	nodeBlocks, nodeUsed, nodeBorrowed              *prometheus.Desc // upstream's older ones
	free, cooling, room, claimed, nearlyFull, atEnd *prometheus.Desc
	problems                                        *prometheus.Desc
}

func newDescs() descs {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("ipam_"+name, help, labels, nil)
	}
	return descs{
		blocks:       desc("blocks", "Blocks of the pool that the node has.", "ippool", "node"),
		used:         desc("allocations_in_use", "Addresses of the pool in use on the node.", "ippool", "node"),
		borrowed:     desc("allocations_borrowed", "Addresses of the pool in use on the node, of blocks that it doesn't have.", "ippool", "node"),
		size:         desc("ippool_size", "Addresses of the pool.", "ippool"),
		nodeBlocks:   desc("blocks_per_node", "Blocks that the node has.", "node"),
		nodeUsed:     desc("allocations_per_node", "Addresses in use on the node.", "node"),
		nodeBorrowed: desc("allocations_borrowed_per_node", "Addresses in use on the node, of blocks that it doesn't have.", "node"),
		free:         desc("allocations_free", "Addresses of the node's blocks that nobody has; those that rest or are reserved, too.", "ippool", "node"),
		cooling:      desc("allocations_cooling", "Addresses of the node's blocks that were released less than ipCooldownSeconds ago, as far as this process has seen it.", "ippool", "node"),
		room:         desc("ippool_blocks", "Blocks that the pool has room for.", "ippool"),
		claimed:      desc("ippool_blocks_claimed", "Blocks of the pool that exist.", "ippool"),
		nearlyFull:   desc("ippool_nearly_full", "1 when blocks of the pool are 80 % of what it has room for.", "ippool"),
		atEnd:        desc("node_nearly_at_block_limit", "1 for a node with 80 % of the blocks of an IP version that it may have; absent for others.", "node", "ip_version"),
		problems:     desc("block_problems", "Blocks with something wrong: unreadable, contradictory, outside_pools, owner_unknown. calicoctl ipam check says more.", "problem"),
	}
}

// Describe implements prometheus.Collector.
func (c *Counter) Describe(out chan<- *prometheus.Desc) {
	d := c.descs
	for _, desc := range []*prometheus.Desc{
		d.blocks, d.used, d.borrowed, d.size, d.nodeBlocks, d.nodeUsed, d.nodeBorrowed,
		d.free, d.cooling, d.room, d.claimed, d.nearlyFull, d.atEnd, d.problems,
	} {
		out <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *Counter) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	s := c.sum(time.Now())
	pools, warnings := c.sortedPools(), c.warnings(s)
	c.mu.Unlock()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	nodes := map[string]count{}
	for p, n := range s.places {
		gauge(c.descs.blocks, float64(n.blocks), p.pool, p.node)
		gauge(c.descs.used, float64(n.used), p.pool, p.node)
		gauge(c.descs.borrowed, float64(n.borrowed), p.pool, p.node)
		gauge(c.descs.free, float64(n.free), p.pool, p.node)
		gauge(c.descs.cooling, float64(n.cooling), p.pool, p.node)
		all := nodes[p.node]
		nodes[p.node] = count{blocks: all.blocks + n.blocks, used: all.used + n.used, borrowed: all.borrowed + n.borrowed}
	}
	for node, n := range nodes {
		gauge(c.descs.nodeBlocks, float64(n.blocks), node)
		gauge(c.descs.nodeUsed, float64(n.used), node)
		gauge(c.descs.nodeBorrowed, float64(n.borrowed), node)
	}
	for _, p := range pools {
		_, full := warnings[warning{pool: p.name}]
		gauge(c.descs.size, p.size(), p.name)
		gauge(c.descs.room, p.blocks, p.name)
		gauge(c.descs.claimed, float64(s.claimed[p.name]), p.name)
		gauge(c.descs.nearlyFull, map[bool]float64{true: 1}[full], p.name)
	}
	for w := range warnings {
		if w.pool == "" {
			gauge(c.descs.atEnd, 1, w.node, map[bool]string{false: "4", true: "6"}[w.six])
		}
	}
	for problem, n := range s.problems {
		gauge(c.descs.problems, float64(n), problem)
	}
}
