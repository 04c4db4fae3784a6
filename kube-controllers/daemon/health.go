package daemon

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tortie/internal/health"
)

// handler serves metrics and, unless nil, the probes.
func handler(metrics prometheus.Gatherer, p *health.Probes) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	if p != nil {
		p.Register(mux)
	}
	return mux
}
