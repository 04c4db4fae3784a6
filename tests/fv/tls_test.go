package fv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// authority signs certificates for one test.
type authority struct {
	dir, name string
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{dir: dir, name: name, key: key}
	template := certTemplate(name, 1)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.file(), "CERTIFICATE", der)
	return a
}

func (a *authority) file() string { return filepath.Join(a.dir, a.name+".crt") }

func certTemplate(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
}

// issue makes a certificate for 127.0.0.1 and returns its files.
func (a *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := certTemplate(name, 2)
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &priv.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
	writePEM(t, cert, "CERTIFICATE", der)
	writePEM(t, key, "EC PRIVATE KEY", keyDER)
	return cert, key
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
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
	serverCert, serverKey := ca.issue(t, "server")
	goodCert, goodKey := ca.issue(t, "client")
	badCert, badKey := other.issue(t, "stranger")
	endpoint := secureEtcd(t, ca.file(), serverCert, serverKey)

	env := func(ca, cert, key string) []string {
		return []string{
			"ETCD_ENDPOINTS=" + endpoint, "ETCD_CA_CERT_FILE=" + ca,
			"ETCD_CERT_FILE=" + cert, "ETCD_KEY_FILE=" + key,
		}
	}
	out, errs, err := calicoctl(t, env(ca.file(), goodCert, goodKey), "get", "nodes")
	if err != nil {
		t.Fatalf("right certificates: %v: %s%s", err, out, errs)
	}
	cases := []struct {
		name string
		env  []string
		want string
	}{
		{"another authority", env(other.file(), goodCert, goodKey), "other-ca.crt"},
		{"client certificate of another authority", env(ca.file(), badCert, badKey), "stranger.crt"},
		{"no such file", env(ca.file(), goodCert, filepath.Join(dir, "absent.key")), "absent.key"},
		{"key of another certificate", env(ca.file(), goodCert, badKey), "client.crt"},
		{"no client certificate", []string{"ETCD_ENDPOINTS=" + endpoint, "ETCD_CA_CERT_FILE=" + ca.file()}, "ETCD_CERT_FILE"},
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
