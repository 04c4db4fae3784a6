package etcd_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd"
	"tortie/internal/datastore/etcd/etcdtest"
)

// authority is a certificate authority in a directory.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	a.file, _ = a.issue(name, tmpl)
	return a
}

// issue signs a certificate and writes it and its key.
func (a *authority) issue(name string, tmpl *x509.Certificate) (certFile, keyFile string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.cert == nil {
		a.key = key
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			a.t.Fatal(err)
		}
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der},
		keyFile:  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// leaf issues an ordinary certificate.
func (a *authority) leaf(name string, change func(*x509.Certificate)) (certFile, keyFile string) {
	a.t.Helper()
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		NotBefore:   time.Now().Add(-time.Hour),
		NotAfter:    time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(tmpl)
	}
	return a.issue(name, tmpl)
}

func TestCertificateProblemsAreNamed(t *testing.T) {
	ca, other := newAuthority(t, "Test CA"), newAuthority(t, "Other CA")
	good := func(name string) *etcdtest.TLS {
		cert, key := ca.leaf(name, nil)
		return &etcdtest.TLS{CertFile: cert, KeyFile: key}
	}
	withClientCA := good("mutual")
	withClientCA.ClientCAFile = ca.file
	expiredCert, expiredKey := ca.leaf("expired", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	futureCert, futureKey := ca.leaf("future", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	})
	namedCert, namedKey := ca.leaf("named", func(c *x509.Certificate) {
		c.IPAddresses, c.DNSNames = nil, []string{"etcd.example"}
	})
	strangerCert, strangerKey := other.leaf("stranger", nil)
	staleCert, staleKey := ca.leaf("stale", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})

	plain := etcdtest.Start(t, etcdtest.Options{})
	secure := etcdtest.Start(t, etcdtest.Options{TLS: good("server")})
	mutual := etcdtest.Start(t, etcdtest.Options{TLS: withClientCA})
	expired := etcdtest.Start(t, etcdtest.Options{TLS: &etcdtest.TLS{CertFile: expiredCert, KeyFile: expiredKey}})
	future := etcdtest.Start(t, etcdtest.Options{TLS: &etcdtest.TLS{CertFile: futureCert, KeyFile: futureKey}})
	named := etcdtest.Start(t, etcdtest.Options{TLS: &etcdtest.TLS{CertFile: namedCert, KeyFile: namedKey}})

	tests := []struct {
		name   string
		server *etcdtest.Server
		config datastore.Config
		want   []string
	}{
		{"UnknownAuthority", secure, datastore.Config{CAFile: other.file}, []string{"unknown authority", "Test CA", other.file, "ETCD_CA_CERT_FILE"}},
		{"NoAuthority", secure, datastore.Config{}, []string{"unknown authority", "the system's", "ETCD_CA_CERT_FILE"}},
		{"Expired", expired, datastore.Config{CAFile: ca.file}, []string{"CN=expired", "expired on"}},
		{"NotYetValid", future, datastore.Config{CAFile: ca.file}, []string{"CN=future", "valid only from", "clocks"}},
		{"AnotherName", named, datastore.Config{CAFile: ca.file}, []string{"etcd.example", "127.0.0.1"}},
		{"ClientCertificateMissing", mutual, datastore.Config{CAFile: ca.file}, []string{"asks for a client certificate", "ETCD_CERT_FILE"}},
		{"ClientCertificateOfAStranger", mutual, datastore.Config{CAFile: ca.file, CertFile: strangerCert, KeyFile: strangerKey}, []string{"refused", strangerCert}},
		{"ClientCertificateExpired", mutual, datastore.Config{CAFile: ca.file, CertFile: staleCert, KeyFile: staleKey}, []string{staleCert, "expired"}},
		{"PlainClientOfASecureServer", secure, datastore.Config{Endpoints: []string{strings.Replace(secure.Endpoint(), "https", "http", 1)}}, []string{"use https://"}},
		{"SecureClientOfAPlainServer", plain, datastore.Config{Endpoints: []string{strings.Replace(plain.Endpoint(), "http", "https", 1)}}, []string{"use http://"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			cfg := etcd.Config{Config: tc.config, Patience: limit}
			if cfg.Endpoints == nil {
				cfg.Endpoints = []string{tc.server.Endpoint()}
			}
			start := time.Now()
			_, err := newClient(t, cfg).Get(context.Background(), poolKey("a"))
			if !errors.Is(err, datastore.ErrUnavailable) {
				t.Fatalf("got %v", err)
			}
			// A misconfiguration isn't waited out: it is reported long before the
			// request's time is up.
			if took := time.Since(start); took > 8*time.Second {
				t.Errorf("took %v", took)
			}
			for _, want := range append(tc.want, cfg.Endpoints[0]) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nlacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
		})
	}
}

func TestMutualTLSWorks(t *testing.T) {
	ca := newAuthority(t, "Test CA")
	cert, key := ca.leaf("server", nil)
	server := etcdtest.Start(t, etcdtest.Options{TLS: &etcdtest.TLS{CertFile: cert, KeyFile: key, ClientCAFile: ca.file}})
	clientCert, clientKey := ca.leaf("client", nil)
	read := func(file string) string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, cfg := range map[string]datastore.Config{
		"Files":  {CAFile: ca.file, CertFile: clientCert, KeyFile: clientKey},
		"Inline": {CA: read(ca.file), Cert: read(clientCert), Key: read(clientKey)},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Endpoints = []string{server.Endpoint()}
			put(t, newClient(t, etcd.Config{Config: cfg}), "a", "10.0.0.0/16")
		})
	}
}

func TestFaultyCertificateFilesAreRefusedAtOnce(t *testing.T) {
	ca := newAuthority(t, "Test CA")
	cert, key := ca.leaf("client", nil)
	_, otherKey := ca.leaf("other", nil)
	empty := filepath.Join(t.TempDir(), "empty.crt")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		config datastore.Config
		want   string
	}{
		"NoSuchCA":   {datastore.Config{CAFile: "/nowhere/ca.crt"}, "/nowhere/ca.crt"},
		"EmptyCA":    {datastore.Config{CAFile: empty}, empty},
		"NoSuchCert": {datastore.Config{CertFile: "/nowhere/x.crt", KeyFile: key}, "/nowhere/x.crt"},
		"WrongKey":   {datastore.Config{CertFile: cert, KeyFile: otherKey}, otherKey},
		"OnlyCert":   {datastore.Config{CertFile: cert}, "ETCD_KEY_FILE"},
		"InlineBad":  {datastore.Config{Cert: "x", Key: "y"}, "inline"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.config.Endpoints = []string{"https://127.0.0.1:1"}
			_, err := etcd.New(t.Context(), etcd.Config{Config: tc.config}, api.NewRegistry(), slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want mention of %s", err, tc.want)
			}
		})
	}
}

func TestUserAndPassword(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	bare := server.Bare(context.Background())
	// Before etcd knows of users, a configured one does no harm.
	early := server.Config()
	early.Username, early.Password = "calico", "secret"
	earlyClient := newClient(t, etcd.Config{Config: early})
	rev := put(t, earlyClient, "a", "10.0.0.0/16")
	server.EnableAuth(bare, "calico", "secret", "/calico/resources/")

	pools, handles := datastore.Range{Kind: api.KindIPPool}, datastore.Range{Kind: api.KindIPAMHandle}
	t.Run("AreUsedOnceEtcdAsksForThem", func(t *testing.T) {
		put(t, earlyClient, "b", "10.1.0.0/16")
		w, err := earlyClient.Watch(t.Context(), pools, rev)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		if batch := <-w.Events(); len(batch) != 1 || batch[0].Key.Name != "b" {
			t.Errorf("got %v, %v", batch, w.Err())
		}
	})
	t.Run("AFirstRequestThatIsAWatchLogsIn", func(t *testing.T) {
		w, err := newClient(t, etcd.Config{Config: early}).Watch(t.Context(), pools, rev)
		if err != nil {
			t.Fatal(err)
		}
		w.Stop()
	})
	t.Run("SurviveARestartThatForgetsTheTokens", func(t *testing.T) {
		server.Kill()
		server.Restart()
		start := time.Now()
		put(t, earlyClient, "c", "10.2.0.0/16")
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})

	refused := []struct {
		name, user, password string
		rng                  datastore.Range
		want                 string
	}{
		{"NoUser", "", "", pools, "set ETCD_USERNAME and ETCD_PASSWORD"},
		{"WrongPassword", "calico", "wrong", pools, "check ETCD_USERNAME and ETCD_PASSWORD"},
		{"UnknownUser", "nobody", "secret", pools, "check ETCD_USERNAME and ETCD_PASSWORD"},
		{"NoPermission", "calico", "secret", handles, "permission"},
	}
	for _, tc := range refused {
		t.Run(tc.name, func(t *testing.T) {
			cfg := server.Config()
			cfg.Username, cfg.Password = tc.user, tc.password
			c := newClient(t, etcd.Config{Config: cfg})
			_, listErr := c.List(t.Context(), tc.rng)
			_, watchErr := c.Watch(t.Context(), tc.rng, 1)
			for _, err := range []error{listErr, watchErr} {
				if !errors.Is(err, datastore.ErrUnauthorized) || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
				if err != nil && strings.Contains(err.Error(), tc.password) && tc.password != "" {
					t.Errorf("%v shows the password", err)
				}
			}
		})
	}
}
