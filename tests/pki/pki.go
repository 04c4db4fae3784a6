// Package pki makes certificates for tests: short-lived, with keys
// that never leave its folder.
package pki

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
	"os"
	"path/filepath"
	"time"
)

// lifetime is longer than any test, and short enough that a key left behind is
// worth nothing.
const lifetime = 7 * 24 * time.Hour

// Authority signs certificates into a folder.
type Authority struct {
	dir, name string
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
}

// NewAuthority makes one, and writes name.crt.
func NewAuthority(dir, name string) (*Authority, error) {
	a := &Authority{dir: dir, name: name}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := a.sign(name, template, nil); err != nil {
		return nil, fmt.Errorf("make the authority %s: %w", name, err)
	}
	return a, nil
}

// CertFile is the authority's own certificate.
func (a *Authority) CertFile() string { return filepath.Join(a.dir, a.name+".crt") }

// Identity says for whom a certificate is.
type Identity struct {
	// File is the name of its files, without .crt and .key.
	File string
	// Name and Groups are what Kubernetes calls user and groups.
	Name   string
	Groups []string
	// Hosts are names and addresses of a server; without any it is a client's.
	Hosts []string
}

// Issue makes a certificate and returns its files.
func (a *Authority) Issue(id Identity) (cert, key string, err error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: id.Name, Organization: id.Groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, host := range id.Hosts {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	if err := a.sign(id.File, template, a.cert); err != nil {
		return "", "", fmt.Errorf("make the certificate %s: %w", id.File, err)
	}
	base := filepath.Join(a.dir, id.File)
	return base + ".crt", base + ".key", nil
}

// sign makes a key and a certificate for it, signed by parent, or by itself.
func (a *Authority) sign(file string, template, parent *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(lifetime)
	signer := a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	if a.cert == nil {
		a.key = key
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			return err
		}
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(a.dir, file+".crt"), "CERTIFICATE", der); err != nil {
		return err
	}
	return writePEM(filepath.Join(a.dir, file+".key"), "EC PRIVATE KEY", keyDER)
}

// Key makes a key without a certificate, name.key and name.pub, and returns the
// files.
func Key(dir, name string) (private, public string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return "", "", err
	}
	pub, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return "", "", err
	}
	private, public = filepath.Join(dir, name+".key"), filepath.Join(dir, name+".pub")
	if err := writePEM(private, "EC PRIVATE KEY", der); err != nil {
		return "", "", err
	}
	return private, public, writePEM(public, "PUBLIC KEY", pub)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
