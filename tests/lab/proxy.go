package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"
)

// etcdHostPort is the address in the URL of an etcd outside of the lab. The nodes
// have no certificates, so it must be plain http.
func etcdHostPort(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("etcd %q: want a URL such as http://127.0.0.1:2379", endpoint)
	}
	if u.Scheme != "http" {
		return "", fmt.Errorf("etcd %s: the lab's nodes have no certificates; give an endpoint with http", endpoint)
	}
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "2379"), nil
	}
	return u.Host, nil
}

// RunProxy accepts connections in a network namespace and carries them to an etcd
// that this process can reach in its own. It is the body of the hidden command
// `lab proxy`.
func RunProxy(ctx context.Context, netns, listen, endpoint string) error {
	target, err := etcdHostPort(endpoint)
	if err != nil {
		return err
	}
	var l net.Listener
	if err := inNetns(netns, func() (err error) {
		l, err = net.Listen("tcp", listen)
		return err
	}); err != nil {
		return fmt.Errorf("listen for etcd clients: %w", err)
	}
	go func() {
		<-ctx.Done()
		l.Close()
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the listener was closed because of ctx
			}
			return err
		}
		go carry(conn, target)
	}
}

// carry joins a connection with a new one to target until either side ends.
func carry(client net.Conn, target string) {
	defer client.Close()
	server, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		return // the client sees its connection closed, and tries again
	}
	defer server.Close()
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1])
			done <- struct{}{}
		}()
	}
	<-done
}
