package daemon

import (
	"crypto/tls"
	"net"

	"tortie/felix/config"
	"tortie/felix/problems"
	"tortie/internal/servingcert"
)

// newMetricsCert is what metrics are served by TLS with; nil for without.
func newMetricsCert(cfg config.Config) *servingcert.Server {
	if !cfg.MetricsEnabled || !cfg.MetricsTLS.Enabled() {
		return nil
	}
	return servingcert.New(cfg.MetricsTLS, servingcert.Names{
		Cert: "PrometheusMetricsCertFile", Key: "PrometheusMetricsKeyFile", CA: "PrometheusMetricsCAFile", ClientAuth: "PrometheusMetricsClientAuth",
	})
}

// secured is a listener whose connections are encrypted if cert says so. Wrong files
// refuse each connection until they are right, and keep felix from nothing else.
func secured(l net.Listener, cert *servingcert.Server) net.Listener {
	if cert == nil {
		return l
	}
	return tls.NewListener(l, cert.TLS())
}

func (f *felix) metricsProblem() []problems.Problem {
	if f.metricsCert == nil {
		return nil
	}
	if err := f.metricsCert.Problem(); err != nil {
		return problem(reasonMetrics, "metrics can't be served by TLS: %v", err)
	}
	return nil
}
