package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

func TestAConnectionThatIsNotMadeIsExplained(t *testing.T) {
	t.Parallel()
	dial := func(cause error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: cause} }
	for name, c := range map[string]struct {
		err       error
		want      string
		permanent bool
	}{
		"no such host": {
			dial(&net.DNSError{Err: "no such host", Name: "etcd.example", Server: "10.0.0.53:53", IsNotFound: true}),
			"no such host as etcd.example: correct ETCD_ENDPOINTS", true,
		},
		"silent name server": {
			dial(&net.DNSError{Err: "i/o timeout", Name: "etcd.example", Server: "10.0.0.53:53", IsTimeout: true}),
			"the name etcd.example can't be looked up (no answer from a name server): look at this host's name servers, or use an IP address in ETCD_ENDPOINTS", false,
		},
		"confused name server": {
			dial(&net.DNSError{Err: "server misbehaving", Name: "etcd.example", Server: "10.0.0.53:53", IsTemporary: true}),
			"the name etcd.example can't be looked up (from 10.0.0.53:53: server misbehaving): look at this host's name servers, or use an IP address in ETCD_ENDPOINTS", false,
		},
		"silent host": {
			dial(os.ErrDeadlineExceeded),
			"nobody answers at this address: look whether the host is up and what a firewall lets through", false,
		},
		"refused": {dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), "dial tcp: connect: connection refused", false},
	} {
		err := explainDial(c.err)
		if err.Error() != c.want {
			t.Errorf("%s: got  %v\nwant %s", name, err, c.want)
		}
		if got := errors.As(err, new(misconfigured)); got != c.permanent {
			t.Errorf("%s: permanent is %v, want %v", name, got, c.permanent)
		}
	}
}

func TestAnEndpointThatSaysNothingIsExplained(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	endpoint := fmt.Sprintf("http://%s", l.Addr())
	p := prober{endpoints: []string{endpoint}, timeout: connectPatience / 10}
	cause, permanent := p.probe(context.Background())
	want := "etcd " + endpoint + ": it takes the connection and says nothing: is this etcd's client port, and does etcd respond?"
	if cause == nil || cause.Error() != want || permanent {
		t.Errorf("got %v, permanent %v; want %s", cause, permanent, want)
	}
}
