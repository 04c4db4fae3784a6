package servingcert_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tortie/internal/health"
	"tortie/internal/servingcert"
	"tortie/tests/pki"
)

func names() servingcert.Names {
	return servingcert.Names{Cert: "CertFile", Key: "KeyFile", CA: "CAFile", ClientAuth: "ClientAuth"}
}

// fixture is a folder with an authority, a server's certificate, and those of two
// clients, one of them of an authority that nobody trusts.
type fixture struct {
	*testing.T
	dir       string
	authority *pki.Authority
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	f := fixture{T: t, dir: t.TempDir()}
	f.authority = f.newAuthority("ca")
	f.issue(f.authority, pki.Identity{File: "server", Name: "server-1", Hosts: []string{"127.0.0.1"}})
	f.issue(f.authority, pki.Identity{File: "client", Name: "client"})
	f.issue(f.newAuthority("other"), pki.Identity{File: "stranger", Name: "stranger"})
	return f
}

func (f fixture) newAuthority(name string) *pki.Authority {
	f.Helper()
	a, err := pki.NewAuthority(f.dir, name)
	if err != nil {
		f.Fatal(err)
	}
	return a
}

func (f fixture) issue(a *pki.Authority, id pki.Identity) {
	f.Helper()
	if _, _, err := a.Issue(id); err != nil {
		f.Fatal(err)
	}
}

func (f fixture) path(name string) string { return filepath.Join(f.dir, name) }

func (f fixture) files(auth tls.ClientAuthType) servingcert.Files {
	return servingcert.Files{Cert: f.path("server.crt"), Key: f.path("server.key"), CA: f.path("ca.crt"), ClientAuth: auth}
}

// serve serves until the test ends and returns the address.
func (f fixture) serve(s *servingcert.Server) string {
	f.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	go func() { _ = health.Serve(f.Context(), tls.NewListener(l, s.TLS()), http.NotFoundHandler()) }()
	return l.Addr().String()
}

// get asks once, on a connection of its own, with a client's certificate or without,
// and returns whose certificate the server has.
func (f fixture) get(address, client string) (server string, err error) {
	f.Helper()
	pem, err := os.ReadFile(f.path("ca.crt"))
	if err != nil {
		f.Fatal(err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(pem)
	if client != "" {
		pair, err := tls.LoadX509KeyPair(f.path(client+".crt"), f.path(client+".key"))
		if err != nil {
			f.Fatal(err)
		}
		// Also to a server that says it wants another authority's.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("https://" + address + "/metrics")
	if err != nil {
		return "", err
	}
	_ = resp.Body.Close()
	return resp.TLS.PeerCertificates[0].Subject.CommonName, nil
}

func TestClientsAreAskedForWhatClientAuthSays(t *testing.T) {
	f := newFixture(t)
	for auth, lets := range map[tls.ClientAuthType]map[string]bool{
		tls.NoClientCert:               {"": true, "client": true, "stranger": true},
		tls.RequestClientCert:          {"": true, "client": true, "stranger": true},
		tls.RequireAnyClientCert:       {"": false, "client": true, "stranger": true},
		tls.VerifyClientCertIfGiven:    {"": true, "client": true, "stranger": false},
		tls.RequireAndVerifyClientCert: {"": false, "client": true, "stranger": false},
	} {
		t.Run(auth.String(), func(t *testing.T) {
			s := servingcert.New(f.files(auth), names())
			if err := s.Problem(); err != nil {
				t.Fatal(err)
			}
			address := f.serve(s)
			for client, want := range lets {
				if _, err := f.get(address, client); (err == nil) != want {
					t.Errorf("client %q: %v, want success %v", client, err, want)
				}
			}
			if got, err := servingcert.ParseClientAuth(auth.String()); got != auth || err != nil {
				t.Errorf("parsed as %v, %v", got, err)
			}
		})
	}
}

// TestCertificateIsReadAgain when it changes; while it is wrong the former one is served
// and Problem says so.
func TestCertificateIsReadAgain(t *testing.T) {
	f := newFixture(t)
	s := servingcert.New(f.files(tls.NoClientCert), names())
	address := f.serve(s)
	is := func(when, want string) {
		t.Helper()
		if got, err := f.get(address, ""); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", when, got, err, want)
		}
	}
	is("first", "server-1")
	f.issue(f.authority, pki.Identity{File: "server", Name: "server-2", Hosts: []string{"127.0.0.1"}})
	is("renewed", "server-2")
	if err := os.Truncate(f.path("server.crt"), 10); err != nil {
		t.Fatal(err)
	}
	is("half written", "server-2")
	if err := s.Problem(); err == nil || !strings.Contains(err.Error(), "server.crt") {
		t.Errorf("half written: %v", err)
	}
	f.issue(f.authority, pki.Identity{File: "server", Name: "server-3", Hosts: []string{"127.0.0.1"}})
	is("mended", "server-3")
	if err := s.Problem(); err != nil {
		t.Errorf("mended: %v", err)
	}
}

// TestWhatIsWrongIsOneLine naming the setting, the file, and what to do.
func TestWhatIsWrongIsOneLine(t *testing.T) {
	f := newFixture(t)
	if err := os.WriteFile(f.path("text"), []byte("no PEM\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	right := f.files(tls.RequireAndVerifyClientCert)
	for name, tc := range map[string]struct {
		wrong func(files *servingcert.Files)
		says  []string
	}{
		"only an authority":         {func(x *servingcert.Files) { x.Cert, x.Key = "", "" }, []string{"CertFile is not set: name the file", "leave out KeyFile and CAFile"}},
		"no certificate":            {func(x *servingcert.Files) { x.Cert = "" }, []string{"CertFile is not set"}},
		"no key":                    {func(x *servingcert.Files) { x.Key = "" }, []string{"KeyFile is not set", "server.crt"}},
		"no authority":              {func(x *servingcert.Files) { x.CA = "" }, []string{"CAFile is not set", "ClientAuth is RequireAndVerifyClientCert", "NoClientCert"}},
		"absent certificate":        {func(x *servingcert.Files) { x.Cert = f.path("absent") }, []string{"CertFile: ", "absent: there is no such file or directory: correct the path"}},
		"absent key":                {func(x *servingcert.Files) { x.Key = f.path("absent") }, []string{"KeyFile: ", "absent: there is no such file"}},
		"absent authority":          {func(x *servingcert.Files) { x.CA = f.path("absent") }, []string{"CAFile: ", "absent: there is no such file"}},
		"no PEM":                    {func(x *servingcert.Files) { x.Cert = f.path("text") }, []string{"CertFile ", "text", "want a certificate and its key, both PEM"}},
		"authority without PEM":     {func(x *servingcert.Files) { x.CA = f.path("text") }, []string{"CAFile: ", "text has no certificate: want PEM"}},
		"key of another":            {func(x *servingcert.Files) { x.Key = f.path("client.key") }, []string{"client.key", "private key does not match public key"}},
		"a folder for a file":       {func(x *servingcert.Files) { x.Cert = f.dir }, []string{"CertFile: ", "is a directory: name a file in it"}},
		"authority nobody asks for": {func(x *servingcert.Files) { x.CA, x.ClientAuth = f.path("text"), tls.NoClientCert }, []string{"CAFile: "}},
	} {
		t.Run(name, func(t *testing.T) {
			files := right
			tc.wrong(&files)
			if !files.Enabled() {
				t.Error("not taken for TLS at all: it would be served without")
			}
			s := servingcert.New(files, names())
			err := s.Problem()
			if err == nil {
				t.Fatal("nothing is wrong")
			}
			for _, say := range tc.says {
				if !strings.Contains(err.Error(), say) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%q lacks %q", err, say)
				}
			}
			if _, err := f.get(f.serve(s), "client"); err == nil {
				t.Error("served all the same")
			}
		})
	}
	if _, err := servingcert.ParseClientAuth("requireandverify"); err == nil || !strings.Contains(err.Error(), "RequireAndVerifyClientCert") {
		t.Errorf("an unknown word: %v", err)
	}
	if (servingcert.Files{ClientAuth: tls.RequireAndVerifyClientCert}).Enabled() {
		t.Error("TLS without a file")
	}
}
