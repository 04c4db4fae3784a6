package daemon

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"tortie/felix/config"
	"tortie/internal/api"
	"tortie/internal/datastore/memory"
	"tortie/ipam"
)

func TestMetricsShowTheNodesAddresses(t *testing.T) {
	for _, tc := range []struct {
		goMetrics bool
		want      []string
	}{
		{true, []string{"ipam_block_limit 20\n", "\ngo_goroutines ", "\nprocess_open_fds "}},
		{false, []string{"ipam_block_limit 20\n", "ipam_transactions_total{result=\"committed\"} 0\n"}},
	} {
		f := &felix{
			cfg:       config.Config{GoMetrics: tc.goMetrics, ProcessMetrics: tc.goMetrics},
			allocator: ipam.New(ipam.Config{Client: memory.New(api.NewRegistry()), Node: "n", View: ipam.NewTracker("n")}),
		}
		defer f.allocator.Close()
		w := httptest.NewRecorder()
		f.metrics().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		for _, want := range tc.want {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("go metrics %v: %q is missing in\n%s", tc.goMetrics, want, w.Body)
			}
		}
		if !tc.goMetrics && strings.Contains(w.Body.String(), "go_goroutines") {
			t.Error("metrics of the Go runtime, though they are switched off")
		}
	}
}

// A port that is taken is said with what to do about it, and felix doesn't start.
func TestMetricsPortThatIsTakenIsSaid(t *testing.T) {
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	f := &felix{cfg: config.Config{MetricsEnabled: true, MetricsAddress: taken.Listener.Addr().String()}}
	err := f.serveHTTP(context.Background(), func(func() error) { t.Error("served") })
	if err == nil || !strings.Contains(err.Error(), "serve metrics: listen tcp 127.0.0.1:") || !strings.Contains(err.Error(), "PrometheusMetricsPort") {
		t.Errorf("got %v", err)
	}
}
