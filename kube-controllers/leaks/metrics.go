package leaks

import (
	"cmp"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tortie/internal/api"
	"tortie/ipam"
)

// unknownNode is upstream's label for an address that doesn't say on which node it is.
const unknownNode = "unknown_node"

// forgetAfter is for how long what was released of a node that is gone is shown: nodes
// come and go, and must not leave a series each.
const forgetAfter = time.Hour

// metrics tell what the Collector suspects and what it has released, under upstream's
// names by pool and node, under ours in all.
type metrics struct {
	collector *Collector

	mu       sync.Mutex
	by       map[place]reclaimed
	released float64

	candidates, reclamations, subjects, oldest, total *prometheus.Desc
}

// place is what addresses are counted by.
type place struct{ pool, node string }

type reclaimed struct {
	n    float64
	last time.Time
}

func newMetrics(c *Collector) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("ipam_"+name, help, labels, nil)
	}
	return &metrics{
		collector: c, by: map[place]reclaimed{},
		candidates:   desc("allocations_gc_candidates", "Addresses that seem to be nobody's. It returns to zero when they are released, or turn out to be somebody's.", "ippool", "node"),
		reclamations: desc("allocations_gc_reclamations", "Addresses that were nobody's, released since this replica leads; of a node that is gone, for an hour.", "ippool", "node"),
		subjects:     desc("gc_candidates", "Handles and nodes whose addresses seem to be nobody's."),
		oldest:       desc("gc_oldest_candidate_seconds", "For how long the oldest candidate has seemed to be nobody's."),
		total:        desc("gc_released_total", "Addresses that were nobody's, released since this replica leads."),
	}
}

// add counts addresses of a node that were released.
func (m *metrics) add(node string, addrs []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range addrs {
		p := m.placeOf(node, a)
		m.by[p] = reclaimed{m.by[p].n + 1, time.Now()}
		m.released++
	}
}

func (m *metrics) placeOf(node string, addr netip.Addr) place {
	p := place{node: cmp.Or(node, unknownNode)}
	if m.collector.cfg.PoolOf != nil {
		p.pool = m.collector.cfg.PoolOf(addr)
	}
	return p
}

// suspected counts the addresses under suspicion. A place where any was released keeps
// its count of none.
func (m *metrics) suspected() map[place]int {
	addrs := map[ipam.HandleID][]ipam.Allocation{}
	subjects := m.collector.suspects.all()
	for _, s := range subjects {
		if s.node == "" {
			addrs[s.handle] = m.collector.holdings(s.handle)
			continue
		}
		for _, a := range m.collector.heldOn(s.node) { // its handles may be suspects, too
			addrs[a.Handle] = m.collector.holdings(a.Handle)
		}
	}
	counts := map[place]int{}
	for p := range m.by {
		counts[p] = 0
	}
	for _, list := range addrs {
		for _, a := range list {
			counts[m.placeOf(a.Attrs[api.AttributeNode], a.Addr)]++
		}
	}
	return counts
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{m.candidates, m.reclamations, m.subjects, m.oldest, m.total} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p, r := range m.by {
		if time.Since(r.last) > forgetAfter && !m.collector.nodeKnown(p.node) {
			delete(m.by, p)
		}
	}
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for p, n := range m.suspected() {
		gauge(m.candidates, float64(n), p.pool, p.node)
	}
	for p, r := range m.by {
		ch <- prometheus.MustNewConstMetric(m.reclamations, prometheus.CounterValue, r.n, p.pool, p.node)
	}
	gauge(m.subjects, float64(len(m.collector.suspects.all())))
	gauge(m.oldest, m.collector.suspects.oldest().Seconds())
	ch <- prometheus.MustNewConstMetric(m.total, prometheus.CounterValue, m.released)
}
