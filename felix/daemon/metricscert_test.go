package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	"tortie/felix/config"
	"tortie/tests/pki"
)

// metricsOf are the metrics that an environment asks for, at an address.
func metricsOf(t *testing.T, address string, environ ...string) endpoint {
	t.Helper()
	cfg, problems := config.Resolve(config.FromEnv(environ))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	e := saying("metrics", address)
	e.cert = newMetricsCert(cfg)
	return e
}

// TestMetricsAreServedByTLS as soon as the configuration names the files, and without as
// soon as it doesn't; wrong files are a problem and keep felix from nothing else.
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
	pem, err := os.ReadFile(authority.CertFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, DisableKeepAlives: true}}
	l, address := newListeners(slog.New(slog.DiscardHandler)), freePort(t)
	defer l.stopAll()
	get := func() error {
		resp, err := client.Get("https://" + address + "/metrics")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	without := metricsOf(t, address, "FELIX_PROMETHEUSMETRICSCLIENTAUTH=RequireAndVerifyClientCert") // which has a default: no wish for TLS
	with := metricsOf(t, address, "FELIX_PROMETHEUSMETRICSCERTFILE="+cert, "FELIX_PROMETHEUSMETRICSKEYFILE="+key, "FELIX_PROMETHEUSMETRICSCLIENTAUTH=NoClientCert")
	for _, step := range []struct {
		what    string
		wanted  endpoint
		byTLS   bool
		problem string
		before  func() error
	}{
		{"without files", without, false, "", nil},
		{"with files", with, true, "", nil},
		{"the key is gone: what was right is served", with, true, "PrometheusMetricsKeyFile: " + key + ": there is no such file", func() error { return os.Remove(key) }},
		{"without again", without, false, "", nil},
	} {
		if step.before != nil {
			if err := step.before(); err != nil {
				t.Fatal(err)
			}
		}
		l.set([]endpoint{step.wanted})
		if !l.look(t.Context()) {
			t.Fatalf("%s: %v", step.what, l.problems())
		}
		if err := get(); (err == nil) != step.byTLS || (served(address) == "metrics") == step.byTLS {
			t.Errorf("%s: by TLS %v, without %q", step.what, err, served(address))
		}
		found := l.problems()
		if step.problem == "" && len(found) > 0 || step.problem != "" && (len(found) != 1 || !strings.Contains(found[0].Line, "metrics can't be served by TLS: "+step.problem)) {
			t.Errorf("%s: problems %v, want %q", step.what, found, step.problem)
		}
	}
}
