package kubeevent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// serviceAccount is where a pod finds its credentials.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// ErrNoCluster says that this process is no pod of a cluster.
var ErrNoCluster = errors.New("this is no pod of a cluster")

// InCluster is the API server of the cluster whose pod this is, for a program that is
// there for a moment: the token is read once. dir is where the credentials are, empty
// for where Kubernetes puts them. ErrNoCluster when there is no API server.
func InCluster(getenv func(string) string, dir, component, host string) (API, error) {
	server, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if server == "" || port == "" {
		return API{}, ErrNoCluster
	}
	if dir == "" {
		dir = serviceAccount
	}
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return API{}, fmt.Errorf("read the service account's token: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return API{}, fmt.Errorf("read the API server's authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return API{}, fmt.Errorf("read the API server's authority: %s has no certificate", filepath.Join(dir, "ca.crt"))
	}
	return API{
		Client: &http.Client{Transport: &bearer{
			token: strings.TrimSpace(string(token)),
			next:  &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}},
		}},
		Base:      &url.URL{Scheme: "https", Host: net.JoinHostPort(server, port)},
		Component: component, Host: host,
	}, nil
}

// bearer puts a token into every request.
type bearer struct {
	token string
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b *bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(req)
}
