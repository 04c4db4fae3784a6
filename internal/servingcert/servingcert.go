// Package servingcert is a server's side of TLS from files that are read again for each
// connection, so that a certificate is renewed by writing it anew. While the files are
// wrong, those that were right last are served, and Problem says what is wrong.
package servingcert

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"tortie/internal/filefault"
)

// Files say where it all is.
type Files struct {
	// Cert and Key are the server's. Without either nothing is encrypted.
	Cert, Key string
	// CA has the authorities of clients' certificates.
	CA string
	// ClientAuth says what is asked of clients.
	ClientAuth tls.ClientAuthType
}

// Enabled reports whether connections are to be encrypted. Whoever names one of the
// files wants that, though he may have forgotten the others.
func (f Files) Enabled() bool { return f.Cert != "" || f.Key != "" || f.CA != "" }

// Names are what the settings of Files are called, for messages.
type Names struct{ Cert, Key, CA, ClientAuth string }

// Server serves the certificate.
type Server struct {
	files Files
	names Names

	mu   sync.Mutex
	last *tls.Config // what was right last
}

// New makes a Server. It reads nothing yet.
func New(files Files, names Names) *Server { return &Server{files: files, names: names} }

// TLS is for tls.NewListener.
func (s *Server) TLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		config, err := s.load()
		if config != nil {
			return config, nil
		}
		return nil, err
	}}
}

// Files are those that are served, none by a nil Server.
func (s *Server) Files() Files {
	if s == nil {
		return Files{}
	}
	return s.files
}

// Problem is what is wrong with the files now, in one line with what to do; nil of a nil
// Server.
func (s *Server) Problem() error {
	if s == nil {
		return nil
	}
	_, err := s.load()
	return err
}

// load reads the files. With an error the configuration is the one that was right last,
// nil if none ever was.
func (s *Server) load() (*tls.Config, error) {
	config, err := s.read()
	s.mu.Lock()
	defer s.mu.Unlock()
	if config != nil {
		s.last = config
	}
	return s.last, err
}

// read is the configuration that the files make. One that has expired is served all
// the same: clients tell best what they think of it.
func (s *Server) read() (*tls.Config, error) {
	switch {
	case s.files.Cert == "":
		return nil, fmt.Errorf("%s is not set: name the file with the server's certificate, or leave out %s and %s", s.names.Cert, s.names.Key, s.names.CA)
	case s.files.Key == "":
		return nil, fmt.Errorf("%s is not set: name the file with the key of the certificate %s", s.names.Key, s.files.Cert)
	}
	pair, err := s.pair()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: s.files.ClientAuth}
	if s.verifies() || s.files.CA != "" {
		if config.ClientCAs, err = s.authorities(); err != nil {
			return nil, err
		}
	}
	if pair.Leaf != nil && time.Now().After(pair.Leaf.NotAfter) {
		return config, fmt.Errorf("%s: the certificate %s expired at %s, so that clients refuse it: renew it; it is read again when it changes",
			s.names.Cert, s.files.Cert, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return config, nil
}

func (s *Server) verifies() bool {
	return s.files.ClientAuth == tls.VerifyClientCertIfGiven || s.files.ClientAuth == tls.RequireAndVerifyClientCert
}

func (s *Server) pair() (tls.Certificate, error) {
	cert, err := os.ReadFile(s.files.Cert)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: %w", s.names.Cert, filefault.Explain(err))
	}
	key, err := os.ReadFile(s.files.Key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: %w", s.names.Key, filefault.Explain(err))
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s %s and %s %s: %w: want a certificate and its key, both PEM", s.names.Cert, s.files.Cert, s.names.Key, s.files.Key, err)
	}
	return pair, nil
}

func (s *Server) authorities() (*x509.CertPool, error) {
	if s.files.CA == "" {
		return nil, fmt.Errorf("%s is not set, and %s is %s: name the file with the authorities of clients' certificates, or set %s to %s",
			s.names.CA, s.names.ClientAuth, s.files.ClientAuth, s.names.ClientAuth, tls.NoClientCert)
	}
	pem, err := os.ReadFile(s.files.CA)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.names.CA, filefault.Explain(err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: %s has no certificate: want PEM, beginning with -----BEGIN CERTIFICATE-----", s.names.CA, s.files.CA)
	}
	return pool, nil
}

// ParseClientAuth reads what is asked of clients, in the words of crypto/tls, which are
// upstream's.
func ParseClientAuth(text string) (tls.ClientAuthType, error) {
	for t := tls.NoClientCert; t <= tls.RequireAndVerifyClientCert; t++ {
		if t.String() == text {
			return t, nil
		}
	}
	return 0, errors.New("is none of NoClientCert, RequestClientCert, RequireAnyClientCert, VerifyClientCertIfGiven and RequireAndVerifyClientCert")
}
