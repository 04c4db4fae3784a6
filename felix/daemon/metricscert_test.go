package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"tortie/felix/config"
	"tortie/internal/health"
	"tortie/tests/pki"
)

// TestMetricsAreServedByTLS with the files that the configuration names; wrong ones are a
// problem and keep felix from nothing else.
func TestMetricsAreServedByTLS(t *testing.T) {
	dir := t.TempDir()
	authority, err := pki.NewAuthority(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := authority.Issue(pki.Identity{File: "server", Name: "felix", Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	cfg, problems := config.Resolve(config.FromEnv([]string{
		"FELIX_PROMETHEUSMETRICSENABLED=true", "FELIX_PROMETHEUSMETRICSCERTFILE=" + cert, "FELIX_PROMETHEUSMETRICSKEYFILE=" + key,
		"FELIX_PROMETHEUSMETRICSCLIENTAUTH=NoClientCert",
	}))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	f := &felix{metricsCert: newMetricsCert(cfg)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = health.Serve(t.Context(), secured(l, f.metricsCert), http.NotFoundHandler()) }()
	pem, err := os.ReadFile(authority.CertFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, DisableKeepAlives: true}}
	get := func() error {
		resp, err := client.Get("https://" + l.Addr().String() + "/metrics")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	if err := get(); err != nil {
		t.Error(err)
	}
	if found := f.metricsProblem(); len(found) > 0 {
		t.Errorf("all is right: %v", found)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if err := get(); err != nil {
		t.Errorf("the certificate that was right isn't served any more: %v", err)
	}
	found := f.metricsProblem()
	if len(found) != 1 || found[0].Reason != "MetricsNotServed" || !strings.Contains(found[0].Line, "PrometheusMetricsKeyFile: "+key+": there is no such file") {
		t.Errorf("a key that is gone: %v", found)
	}
}

// TestMetricsWithoutFilesAreServedAsBefore: what is asked of clients alone is no wish for
// TLS, since it has a default.
func TestMetricsWithoutFilesAreServedAsBefore(t *testing.T) {
	for _, env := range [][]string{
		{"FELIX_PROMETHEUSMETRICSENABLED=true"},
		{"FELIX_PROMETHEUSMETRICSENABLED=true", "FELIX_PROMETHEUSMETRICSCLIENTAUTH=RequireAndVerifyClientCert"},
		{"FELIX_PROMETHEUSMETRICSENABLED=false", "FELIX_PROMETHEUSMETRICSCERTFILE=/absent"},
	} {
		cfg, problems := config.Resolve(config.FromEnv(env))
		f := &felix{metricsCert: newMetricsCert(cfg)}
		if len(problems) > 0 || f.metricsCert != nil || len(f.metricsProblem()) > 0 {
			t.Errorf("%v: %v, %v", env, problems, f.metricsProblem())
		}
	}
}
