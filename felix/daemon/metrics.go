package daemon

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tortie/felix/problems"
	"tortie/ipam/ipammetrics"
)

// metrics serves /metrics.
func (f *felix) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(ipammetrics.New(f.allocator))
	if f.cfg.GoMetrics {
		registry.MustRegister(collectors.NewGoCollector())
	}
	if f.cfg.ProcessMetrics {
		registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}

// reasonAddresses is the reason of the problems that addressProblems finds.
const reasonAddresses = "AddressesRunOut"

// statsPatience is how long the look at addresses waits for the allocator.
const statsPatience = 200 * time.Millisecond

// addressProblems warns before addresses run out.
func (f *felix) addressProblems() []problems.Problem {
	ctx, cancel := context.WithTimeout(context.Background(), statsPatience)
	defer cancel()
	var all []problems.Problem
	for _, w := range f.allocator.Stats(ctx).Warnings() {
		all = append(all, problems.Problem{Reason: reasonAddresses, Topic: w.Topic, Line: w.Line})
	}
	return all
}
