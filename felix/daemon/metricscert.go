package daemon

import (
	"crypto/tls"
	"net"

	"tortie/felix/config"
	"tortie/internal/servingcert"
)

// newMetricsCert is what metrics are served by TLS with; nil for without.
func newMetricsCert(cfg config.Config) *servingcert.Server {
	if !cfg.MetricsTLS.Enabled() {
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
