package fv

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"

	"tortie/tests/pki"
)

func newAuthority(t *testing.T, dir, name string) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// issue makes a certificate for a server on 127.0.0.1, or a client, and returns its
// files.
func issue(t *testing.T, a *pki.Authority, name string) (cert, key string) {
	t.Helper()
	cert, key, err := a.Issue(pki.Identity{File: name, Name: name, Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// secureEtcd starts an etcd on loopback that demands client certificates.
func secureEtcd(t *testing.T, ca, cert, key string) string {
	t.Helper()
	return startEtcd(t, "https", transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: ca, ClientCertAuth: true})
}

// plainEtcd starts an etcd on loopback.
func plainEtcd(t *testing.T) string {
	t.Helper()
	return startEtcd(t, "http", transport.TLSInfo{})
}

func startEtcd(t *testing.T, scheme string, tls transport.TLSInfo) string {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.ClientTLSInfo = t.TempDir(), "fatal", tls
	client, peer := freeURL(t, scheme), freeURL(t, "http")
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return client.String()
}

func freeURL(t *testing.T, scheme string) url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return url.URL{Scheme: scheme, Host: l.Addr().String()}
}

// TestCertificates connects with the right certificates and with each kind of
// wrong one: the line must name the file or the cause.
func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	ca, other := newAuthority(t, dir, "ca"), newAuthority(t, dir, "other-ca")
	serverCert, serverKey := issue(t, ca, "server")
	goodCert, goodKey := issue(t, ca, "client")
	badCert, badKey := issue(t, other, "stranger")
	endpoint := secureEtcd(t, ca.CertFile(), serverCert, serverKey)

	env := func(ca, cert, key string) []string {
		return []string{
			"ETCD_ENDPOINTS=" + endpoint, "ETCD_CA_CERT_FILE=" + ca,
			"ETCD_CERT_FILE=" + cert, "ETCD_KEY_FILE=" + key,
		}
	}
	out, errs, err := calicoctl(t, env(ca.CertFile(), goodCert, goodKey), "get", "nodes")
	if err != nil {
		t.Fatalf("right certificates: %v: %s%s", err, out, errs)
	}
	cases := []struct {
		name string
		env  []string
		want string
	}{
		{"another authority", env(other.CertFile(), goodCert, goodKey), "other-ca.crt"},
		{"client certificate of another authority", env(ca.CertFile(), badCert, badKey), "stranger.crt"},
		{"no such file", env(ca.CertFile(), goodCert, filepath.Join(dir, "absent.key")), "absent.key"},
		{"key of another certificate", env(ca.CertFile(), goodCert, badKey), "client.crt"},
		{"no client certificate", []string{"ETCD_ENDPOINTS=" + endpoint, "ETCD_CA_CERT_FILE=" + ca.CertFile()}, "ETCD_CERT_FILE"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			out, errs, err := calicoctl(t, c.env, "get", "nodes")
			mustBeOneLine(t, err, out, errs, c.want)
		})
	}
}

// TestDatastoreThatDoesNotAnswer points calicoctl at a port nobody listens on, and
// at one that accepts and stays silent.
func TestDatastoreThatDoesNotAnswer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed := freeURL(t, "http")
	for _, endpoint := range []string{closed.String(), fmt.Sprintf("http://%s", silent.Addr())} {
		began := time.Now()
		out, errs, err := calicoctl(t, []string{"ETCD_ENDPOINTS=" + endpoint}, "get", "nodes")
		mustBeOneLine(t, err, out, errs, endpoint)
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%s: the answer took %v", endpoint, took)
		}
	}
}
