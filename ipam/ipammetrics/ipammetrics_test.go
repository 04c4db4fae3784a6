package ipammetrics_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tortie/ipam"
	"tortie/ipam/ipammetrics"
)

type fixed ipam.Stats

func (f fixed) Stats(context.Context) ipam.Stats { return ipam.Stats(f) }

func TestCollectorShowsEveryNumber(t *testing.T) {
	s := fixed{Limit: 20, Blocks4: 15, Blocks6: 16, Pools: []ipam.PoolStats{{
		Pool: "p", CIDR: netip.MustParsePrefix("10.0.0.0/16"), Blocks: 2, Used: 100, Free: 20, Reserved: 3, Cooling: 5, Lent: 7, Borrowed: 1, Claimed: 9, Total: 1024,
	}}}
	s.Committed, s.Conflicts, s.Failures = 11, 12, 13
	s.Latency = ipam.Histogram{Bounds: []time.Duration{time.Millisecond, time.Second}, Counts: []uint64{2, 3, 1}, Sum: 4 * time.Second}
	c := ipammetrics.New(s)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	var got []string
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{
		`ipam_addresses{pool="p",state="borrowed"} 1`,
		`ipam_addresses{pool="p",state="cooling"} 5`,
		`ipam_addresses{pool="p",state="free"} 20`,
		`ipam_addresses{pool="p",state="in_use"} 100`,
		`ipam_addresses{pool="p",state="lent"} 7`,
		`ipam_addresses{pool="p",state="reserved"} 3`,
		`ipam_allocation_seconds_bucket{le="0.001"} 2`,
		`ipam_allocation_seconds_bucket{le="1"} 5`,
		`ipam_allocation_seconds_bucket{le="+Inf"} 6`,
		`ipam_allocation_seconds_sum 4`,
		`ipam_allocation_seconds_count 6`,
		`ipam_block_limit 20`,
		`ipam_nearly_used_up{what="IPv6 blocks"} 1`,
		`ipam_node_blocks{pool="p"} 2`,
		`ipam_pool_blocks{pool="p"} 1024`,
		`ipam_pool_blocks_claimed{pool="p"} 9`,
		`ipam_transactions_total{result="committed"} 11`,
		`ipam_transactions_total{result="conflict"} 12`,
		`ipam_transactions_total{result="failed"} 13`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
