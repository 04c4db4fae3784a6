package daemon

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tortie/bgpd/fib"
	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/health"
	"tortie/internal/kernel"
)

// metrics are read from the engine and the speaker when somebody asks. No label has
// more values than there are families, kinds of peers and states: never peers, nodes or
// prefixes.
type metrics struct {
	service *statusService

	sessions, flaps, received, advertised, updates *prometheus.Desc
	best, fib, notInstalled, waiting, changes      *prometheus.Desc
	convergence, disabled, inSync                  *prometheus.Desc
}

func newMetrics(s *statusService) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bgpd_"+name, help, labels, nil)
	}
	return &metrics{
		service:      s,
		sessions:     desc("sessions", "BGP sessions by state (RFC 4271).", "family", "type", "state"),
		flaps:        desc("session_flaps_total", "Sessions that were up and went down.", "family", "type"),
		received:     desc("prefixes_received", "Prefixes that peers have sent and have not withdrawn.", "family", "type"),
		advertised:   desc("prefixes_advertised", "Prefixes that peers are sent.", "family", "type"),
		updates:      desc("updates_total", "UPDATE messages.", "family", "direction"),
		best:         desc("prefixes_best", "Learned prefixes with a best path.", "family"),
		fib:          desc("fib_routes", "Routes of bgpd's in the kernel.", "family"),
		notInstalled: desc("routes_not_installed", "Best paths without a route in the kernel; calicoctl bgp routes says why.", "family"),
		waiting:      desc("blocks_waiting", "Blocks of other nodes confirmed since bgpd started, that have no route here yet."),
		changes:      desc("best_path_changes_total", "Changes of best paths."),
		convergence:  desc("convergence_seconds", "Time from this node's hearing that another node's block is confirmed to its route in the kernel here."),
		disabled:     desc("peers_disabled", "BGPPeers for this node that a problem keeps from being sessions."),
		inSync:       desc("datastore_in_sync", "1 once the datastore has been read."),
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.sessions, m.flaps, m.received, m.advertised, m.updates, m.best, m.fib, m.notInstalled, m.waiting, m.changes,
		m.convergence, m.disabled, m.inSync,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	v, err := m.service.view(ctx)
	if err != nil {
		return // bgpd's loop doesn't answer, which the probes say
	}
	states := m.service.states(ctx, v)
	gauge := func(d *prometheus.Desc, value int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
	}
	m.collectSessions(ch, v, states)
	gauge(m.disabled, len(v.plan.Refused))
	inSync := 0
	if m.service.inSync() {
		inSync = 1
	}
	gauge(m.inSync, inSync)
	var tally tallies
	if m.service.engine.do(ctx, func() { tally = m.service.engine.tallies() }) != nil {
		return
	}
	m.collectRoutes(gauge, tally.routes)
	gauge(m.waiting, tally.waiting)
	ch <- prometheus.MustNewConstMetric(m.changes, prometheus.CounterValue, float64(tally.changes))
	ch <- prometheus.MustNewConstHistogram(m.convergence, tally.count, tally.sum, tally.buckets)
	for k, n := range tally.flaps {
		ch <- prometheus.MustNewConstMetric(m.flaps, prometheus.CounterValue, float64(n), k.family, k.peerType)
	}
	for k, n := range m.service.updates.add(states) {
		ch <- prometheus.MustNewConstMetric(m.updates, prometheus.CounterValue, float64(n), k.family, k.direction)
	}
}

// kind is what peers are counted by.
type kind struct{ family, peerType string }

func kindOf(p topology.Peer) kind { return kind{familyName(p.Address), string(p.Type)} }

func familyName(a netip.Addr) string {
	if a.Is4() {
		return "ipv4"
	}
	return "ipv6"
}

func (m *metrics) collectSessions(ch chan<- prometheus.Metric, v view, states map[netip.Addr]speaker.PeerState) {
	type inState struct {
		kind
		state speaker.State
	}
	counts := map[inState]int{}
	received, advertised := map[kind]uint64{}, map[kind]uint64{}
	for _, p := range v.plan.Peers {
		k, s := kindOf(p), states[p.Address]
		if s.State == "" {
			s.State = speaker.Idle // not in the speaker, which is a problem of its own
		}
		counts[inState{k, s.State}]++
		received[k] += s.Received
		advertised[k] += s.Advertised
	}
	for c, n := range counts {
		ch <- prometheus.MustNewConstMetric(m.sessions, prometheus.GaugeValue, float64(n), c.family, c.peerType, string(c.state))
	}
	for k := range received {
		ch <- prometheus.MustNewConstMetric(m.received, prometheus.GaugeValue, float64(received[k]), k.family, k.peerType)
		ch <- prometheus.MustNewConstMetric(m.advertised, prometheus.GaugeValue, float64(advertised[k]), k.family, k.peerType)
	}
}

func (m *metrics) collectRoutes(gauge func(*prometheus.Desc, int, ...string), t fib.Tally) {
	for family, name := range map[kernel.Family]string{kernel.IPv4: "ipv4", kernel.IPv6: "ipv6"} {
		gauge(m.best, t.Best[family], name)
		gauge(m.fib, t.Installed[family], name)
		gauge(m.notInstalled, t.Without[family], name)
	}
}

// serve serves probes and metrics until ctx ends: each where it is configured, both from
// one listener where that is the same address.
func serve(ctx context.Context, probesAt, metricsAt string, p health.Probes, m prometheus.Collector) []func() error {
	handlers := map[string]*http.ServeMux{}
	settings := map[string]string{probesAt: "BGPD_HEALTH_ADDRESS", metricsAt: "BGPD_METRICS_ADDRESS"}
	at := func(address string) *http.ServeMux {
		if handlers[address] == nil {
			handlers[address] = http.NewServeMux()
		}
		return handlers[address]
	}
	if probesAt != "" {
		p.Register(at(probesAt))
	}
	if metricsAt != "" {
		reg := prometheus.NewRegistry()
		reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), m)
		at(metricsAt).Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	}
	var out []func() error
	for address, mux := range handlers {
		out = append(out, func() error {
			l, err := net.Listen("tcp", address)
			if err != nil {
				return fmt.Errorf("serve probes or metrics: %w; %s chooses the address", err, settings[address])
			}
			return health.Serve(ctx, l, mux)
		})
	}
	return out
}
