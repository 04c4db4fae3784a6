package etcd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"
)

// prober connects to the endpoints by hand to see why gRPC can't: gRPC reports
// little more than "context deadline exceeded" for a wrong certificate.
type prober struct {
	endpoints []string
	creds     credentials
	timeout   time.Duration
	now       func() time.Time
}

func newProber(cfg Config, creds credentials) prober {
	return prober{endpoints: cfg.Endpoints, creds: creds, timeout: min(cfg.DialTimeout, 2*time.Second), now: time.Now}
}

// misconfigured is a cause that waiting doesn't cure: schemes or certificates
// that don't fit.
type misconfigured struct{ error }

var errWebServer = misconfigured{errors.New("a web server answers there, not etcd: correct ETCD_ENDPOINTS")}

var errNotTLS = misconfigured{errors.New("it doesn't speak TLS: use http:// in ETCD_ENDPOINTS")}

// Unwrap gives the underlying cause.
func (m misconfigured) Unwrap() error { return m.error }

// probe tries all endpoints at once. It returns nil when one of them is in order,
// else what is wrong with each, and whether all of them are misconfigured.
func (p prober) probe(ctx context.Context) (cause error, permanent bool) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	type result struct {
		i   int
		err error
	}
	results := make(chan result, len(p.endpoints))
	for i, ep := range p.endpoints {
		go func() { results <- result{i, p.endpoint(ctx, ep)} }()
	}
	errs := make([]string, len(p.endpoints))
	permanent = true
	var healthy bool
	for range p.endpoints {
		r := <-results
		if r.err == nil {
			healthy = true
			continue
		}
		permanent = permanent && errors.As(r.err, new(misconfigured))
		errs[r.i] = fmt.Sprintf("etcd %s: %v", p.endpoints[r.i], r.err)
	}
	if healthy {
		return nil, false
	}
	return errors.New(strings.Join(errs, "; ")), permanent
}

// endpoint goes as far as etcd's first HTTP/2 frame.
func (p prober) endpoint(ctx context.Context, ep string) error {
	u, err := url.Parse(ep)
	if err != nil {
		return err
	}
	conn, err := p.dial(ctx, u.Host)
	if err != nil {
		return err
	}
	defer conn.Close() // nothing was written that could be lost
	if u.Scheme == "http" {
		if err := exchange(conn); err != nil {
			if p.speaksTLS(ctx, u.Host) {
				return misconfigured{errors.New("it wants TLS: use https:// in ETCD_ENDPOINTS")}
			}
			return err
		}
		return nil
	}
	cfg := p.creds.tls.Clone()
	cfg.ServerName = u.Hostname()
	cfg.NextProtos = []string{"h2"}
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		if errors.Is(err, io.EOF) && p.speaksPlain(ctx, u.Host) {
			return errNotTLS
		}
		return p.explainTLS(u.Hostname(), err)
	}
	// With TLS 1.3 the refusal of our certificate arrives only now.
	if err := exchange(secure); err != nil {
		return p.explainTLS(u.Hostname(), err)
	}
	return nil
}

func (p prober) dial(ctx context.Context, host string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, explainDial(err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			_ = conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

// explainDial words a connection that was not made. A name that doesn't exist stays
// so, as far as anybody knows; a name server that doesn't answer may come back.
func explainDial(err error) error {
	name, ok := errors.AsType[*net.DNSError](err)
	switch {
	case ok && name.IsNotFound:
		return misconfigured{fmt.Errorf("no such host as %s: correct ETCD_ENDPOINTS", name.Name)}
	case ok:
		return fmt.Errorf("the name %s can't be looked up (%s): look at this host's name servers, or use an IP address in ETCD_ENDPOINTS",
			name.Name, reason(name))
	case isTimeout(err):
		return errors.New("nobody answers at this address: look whether the host is up and what a firewall lets through")
	}
	return err
}

// reason is why no name server answered.
func reason(err *net.DNSError) string {
	switch {
	case err.IsTimeout:
		return "no answer from a name server"
	case err.Server != "":
		return "from " + err.Server + ": " + err.Err
	}
	return err.Err
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// exchange says hello in HTTP/2 and waits for the header of the first frame.
func exchange(conn net.Conn) error {
	const emptySettings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+emptySettings); err != nil {
		return err
	}
	answer := make([]byte, len(emptySettings))
	if _, err := io.ReadFull(conn, answer); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("it closed the connection: is this etcd's client port?")
		}
		if isTimeout(err) {
			return errors.New("it takes the connection and says nothing: is this etcd's client port, and does etcd respond?")
		}
		return err
	}
	if bytes.HasPrefix(answer, []byte("HTTP/")) { // HTTP/1: no etcd
		return errWebServer
	}
	return nil
}

// speaksTLS reports whether the server answers a TLS greeting, whatever its
// certificate.
func (p prober) speaksTLS(ctx context.Context, host string) bool {
	conn, err := p.dial(ctx, host)
	if err != nil {
		return false
	}
	defer conn.Close() // nothing was written that could be lost
	greeted := false
	client := tls.Client(conn, &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: host,
		VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error {
			greeted = true
			return nil
		},
		InsecureSkipVerify: true, // nothing is sent; only that there is a certificate counts
	})
	return client.HandshakeContext(ctx) == nil || greeted
}

// speaksPlain reports whether the server answers without TLS.
func (p prober) speaksPlain(ctx context.Context, host string) bool {
	conn, err := p.dial(ctx, host)
	if err != nil {
		return false
	}
	defer conn.Close() // nothing was written that could be lost
	return exchange(conn) == nil
}

// explainTLS words a TLS error by what the user can do about it.
func (p prober) explainTLS(host string, err error) error {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		notTLS    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &authority):
		return misconfigured{fmt.Errorf("its certificate (%s) is signed by an unknown authority (%s): %s doesn't have it; set ETCD_CA_CERT_FILE",
			authority.Cert.Subject, authority.Cert.Issuer, p.creds.caName)}
	case errors.As(err, &name):
		return misconfigured{fmt.Errorf("its certificate is for %s, not for %s: use one of those names in ETCD_ENDPOINTS, or give etcd a certificate for %s",
			strings.Join(names(name.Certificate), ", "), host, host)}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return misconfigured{p.explainValidity(invalid.Cert)}
	case errors.As(err, &notTLS):
		return errNotTLS
	}
	return p.explainAlert(err)
}

func (p prober) explainValidity(cert *x509.Certificate) error {
	if p.now().Before(cert.NotBefore) {
		return fmt.Errorf("its certificate (%s) is valid only from %s on: check the clocks", cert.Subject, cert.NotBefore.UTC().Format(time.RFC3339))
	}
	return fmt.Errorf("its certificate (%s) expired on %s: renew etcd's certificate", cert.Subject, cert.NotAfter.UTC().Format(time.RFC3339))
}

// explainAlert words what the server said about our certificate. Package tls
// gives alerts no exported identity but their text.
func (p prober) explainAlert(err error) error {
	text := err.Error()
	if !strings.Contains(text, "remote error: tls:") {
		return err
	}
	_, alert, _ := strings.Cut(text, "remote error: tls: ")
	switch {
	case p.creds.tls.GetClientCertificate == nil:
		return misconfigured{fmt.Errorf("it asks for a client certificate (%s): set ETCD_CERT_FILE and ETCD_KEY_FILE", alert)}
	case strings.Contains(alert, "expired"):
		return misconfigured{fmt.Errorf("it says that %s expired", p.creds.certName)}
	default:
		return misconfigured{fmt.Errorf("it refused %s (%s): is it signed by the authority that etcd trusts (--trusted-ca-file), and for client authentication?", p.creds.certName, alert)}
	}
}

// names are the hosts a certificate is for.
func names(cert *x509.Certificate) []string {
	all := append([]string(nil), cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return []string{"no host at all"}
	}
	return all
}
