package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"tortie/internal/datastore"
)

// credentials are what a TLS connection to etcd needs, and how to name their
// parts in a message.
type credentials struct {
	tls *tls.Config // nil for http
	// caName and certName say where the authorities and the client certificate
	// come from.
	caName, certName string
}

// loadCredentials reads the certificate files, so that a faulty one is reported
// at once and by name. The client certificate is read again for each connection:
// it may be rotated while the program runs.
func loadCredentials(cfg datastore.Config) (credentials, error) {
	if !strings.HasPrefix(cfg.Endpoints[0], "https://") {
		return credentials{}, nil
	}
	creds := credentials{
		tls:      &tls.Config{MinVersion: tls.VersionTLS12},
		caName:   "the system's certificate authorities",
		certName: "the client certificate",
	}
	if err := creds.loadCA(cfg); err != nil {
		return credentials{}, err
	}
	load, err := creds.certLoader(cfg)
	if err != nil || load == nil {
		return creds, err
	}
	if _, err := load(); err != nil {
		return credentials{}, err
	}
	creds.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return load()
	}
	return creds, nil
}

func (c *credentials) loadCA(cfg datastore.Config) error {
	pem := []byte(cfg.CA)
	switch {
	case cfg.CA != "":
		c.caName = "the CA certificate given inline (etcdCACert)"
	case cfg.CAFile != "":
		c.caName = "CA file " + cfg.CAFile
		var err error
		if pem, err = os.ReadFile(cfg.CAFile); err != nil {
			return fmt.Errorf("CA file (ETCD_CA_CERT_FILE): %w", err)
		}
	default:
		return nil
	}
	c.tls.RootCAs = x509.NewCertPool()
	if !c.tls.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s: no certificate in it: want PEM, beginning with -----BEGIN CERTIFICATE-----", c.caName)
	}
	return nil
}

// certLoader is nil when no client certificate is configured.
func (c *credentials) certLoader(cfg datastore.Config) (func() (*tls.Certificate, error), error) {
	switch {
	case cfg.Cert != "" && cfg.Key != "":
		c.certName = "the client certificate given inline (etcdCert)"
		pair, err := tls.X509KeyPair([]byte(cfg.Cert), []byte(cfg.Key))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.certName, err)
		}
		return func() (*tls.Certificate, error) { return &pair, nil }, nil
	case cfg.CertFile != "" && cfg.KeyFile != "":
		c.certName = "client certificate " + cfg.CertFile
		return func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("client certificate %s with key %s: %w", cfg.CertFile, cfg.KeyFile, err)
			}
			return &pair, nil
		}, nil
	case cfg.Cert != "" || cfg.Key != "" || cfg.CertFile != "" || cfg.KeyFile != "":
		return nil, fmt.Errorf("client certificate and key: give both as files (ETCD_CERT_FILE, ETCD_KEY_FILE) or both inline")
	}
	return nil, nil
}
