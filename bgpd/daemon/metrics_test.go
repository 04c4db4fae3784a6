package daemon

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/health"
)

// gathered are the samples as "name{label values} value", sorted.
func gathered(t *testing.T, m *metrics) []string {
	t.Helper()
	reg := prometheus.NewRegistry()
	if err := reg.Register(m); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		for _, s := range f.Metric {
			var labels []string
			for _, l := range s.Label {
				labels = append(labels, l.GetValue())
			}
			value := s.GetGauge().GetValue() + s.GetCounter().GetValue()
			if h := s.GetHistogram(); h != nil {
				value = float64(h.GetSampleCount())
			}
			out = append(out, strings.TrimSuffix(fmt.Sprintf("%s{%s} %g", strings.TrimPrefix(f.GetName(), "bgpd_"), strings.Join(labels, ","), value), " "))
		}
	}
	slices.Sort(out)
	return out
}

func TestMetricsTellSessionsPrefixesRoutesAndFlaps(t *testing.T) {
	b := whyBench(t)
	node2, node3 := netip.MustParseAddr("10.1.1.12"), netip.MustParseAddr("10.1.2.13")
	for i := range b.s.states {
		b.s.states[i].Received, b.s.states[i].Advertised, b.s.states[i].UpdatesIn = 10, 2, 7
	}
	b.e.learn(t.Context(), speaker.Changes{Peers: map[netip.Addr]speaker.Session{node2: {}, node3: {}}})
	m := newMetrics(b.service())
	want := []string{
		"best_path_changes_total{} 0", "blocks_waiting{} 0", "convergence_seconds{} 0", "datastore_in_sync{} 1",
		"fib_routes{ipv4} 5", "fib_routes{ipv6} 0", "peers_disabled{} 0",
		"prefixes_advertised{ipv4,global} 2", "prefixes_advertised{ipv4,node-to-node mesh} 4",
		"prefixes_best{ipv4} 9", "prefixes_best{ipv6} 0",
		"prefixes_received{ipv4,global} 10", "prefixes_received{ipv4,node-to-node mesh} 20",
		"routes_not_installed{ipv4} 4", "routes_not_installed{ipv6} 0",
		"session_flaps_total{ipv4,global} 0", "session_flaps_total{ipv4,node-to-node mesh} 2",
		"sessions{ipv4,Established,global} 1", "sessions{ipv4,Established,node-to-node mesh} 1", "sessions{ipv4,Idle,node-to-node mesh} 2",
		"updates_total{in,ipv4} 21", "updates_total{out,ipv4} 0",
	}
	if d := gocmp.Diff(want, gathered(t, m)); d != "" {
		t.Errorf("metrics (-want +got):\n%s", d)
	}
	b.s.states = b.s.states[:2]
	b.s.states[0].UpdatesIn = 3 // its session was configured anew
	if got := gathered(t, m); !slices.Contains(got, "updates_total{in,ipv4} 24") {
		t.Errorf("a peer that goes, and one that begins again: %v, want 24 updates", got)
	}
}

// TestConvergenceIsMeasuredFromTheConfirmedBlockToItsRoute: blocks that were there at
// the start are not measured, nor are our own.
func TestConvergenceIsMeasuredFromTheConfirmedBlockToItsRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		in := topology.Input{
			Nodes:      []*api.Node{node("node1", "10.1.1.11/24"), node("node2", "10.1.1.12/24")},
			Affinities: []*api.BlockAffinity{claim("node2", "10.65.2.0/26")},
		}
		b.take(in)
		in.Affinities = append(in.Affinities, claim("node2", "10.65.3.0/26"), claim("node1", "10.65.1.0/26"))
		b.take(in)
		time.Sleep(300 * time.Millisecond)
		arrives := func(prefix string) {
			p := speaker.Path{Prefix: netip.MustParsePrefix(prefix), Peer: netip.MustParseAddr("10.1.1.12"), NextHop: netip.MustParseAddr("10.1.1.12"), Best: true}
			b.e.learn(t.Context(), speaker.Changes{Best: map[netip.Prefix]*speaker.Path{p.Prefix: &p}})
			b.e.apply(t.Context())
		}
		arrives("10.65.2.0/26")
		if got := b.e.tallies(); got.count != 0 || got.waiting != 1 {
			t.Errorf("a block of the start was measured: %+v", got)
		}
		arrives("10.65.3.0/26")
		got := b.e.tallies()
		if got.count != 1 || got.sum != 0.3 || got.waiting != 0 || got.buckets[0.25] != 0 || got.buckets[0.5] != 1 {
			t.Errorf("%+v, want one of 0.3 s", got)
		}
		in.Affinities = append(in.Affinities, claim("node2", "10.65.4.0/26"))
		b.take(in)
		in.Affinities = in.Affinities[:3]
		b.take(in)
		if got := b.e.tallies(); got.waiting != 0 {
			t.Errorf("a block that is gone is waited for: %+v", got)
		}
	})
}

func TestProbesAndMetricsShareAnAddressOrHaveTheirOwn(t *testing.T) {
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	one, other := free(), free()
	for name, c := range map[string]struct {
		probes, metrics string
		want            map[string]int // URL → status
	}{
		"one":  {one, one, map[string]int{one + "/readiness": 200, one + "/metrics": 200}},
		"two":  {one, other, map[string]int{one + "/readiness": 200, one + "/metrics": 404, other + "/metrics": 200, other + "/readiness": 404}},
		"none": {one, "", map[string]int{one + "/readiness": 200, one + "/metrics": 404}},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		yes := func() error { return nil }
		var ended []chan error
		for _, f := range serve(ctx, c.probes, c.metrics, health.Probes{Live: yes, Ready: yes}, newMetrics(whyBench(t).service())) {
			done := make(chan error, 1)
			ended = append(ended, done)
			go func() { done <- f() }()
		}
		for url, want := range c.want {
			if got, text := get(t, "http://"+url); got != want || strings.HasSuffix(url, "/metrics") && want == 200 && !strings.Contains(text, "bgpd_sessions{") {
				t.Errorf("%s: %s: %d\n%s\nwant %d", name, url, got, text, want)
			}
		}
		cancel()
		for _, done := range ended {
			if err := <-done; err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if len(serve(t.Context(), "", "", health.Probes{}, nil)) != 0 {
		t.Error("something is served though nothing was asked for")
	}
}

// get waits for the listener: it is opened by the function that serves.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	for {
		resp, err := http.Get(url)
		if err != nil {
			if t.Context().Err() != nil {
				t.Fatal(err)
			}
			continue
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
}
