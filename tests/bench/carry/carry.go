// Package carry measures how much a way between two network namespaces carries, and how
// fast: one TCP stream, and round trips of small messages over TCP.
package carry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Place runs a function in a network namespace.
type Place func(func() error) error

// Way is a way under measurement: from one place to an address of another.
type Way struct {
	From, To Place
	At       netip.Addr
	// MSS, where it isn't 0, is what the ends send in one segment at most, so that ways
	// of unequal MTU can be compared.
	MSS int
}

const (
	chunk   = 256 << 10
	message = 64
)

// Stream sends for as long as told and returns the bytes a second that arrived.
func (w Way) Stream(ctx context.Context, d time.Duration) (float64, error) {
	out, in, err := w.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = in.Close() }()
	type arrived struct {
		bytes int64
		err   error
	}
	done := make(chan arrived, 1)
	began := time.Now()
	go func() {
		n, err := io.CopyBuffer(discard{}, in, make([]byte, chunk))
		done <- arrived{n, err}
	}()
	err = send(out, began.Add(d))
	err = errors.Join(err, out.Close())
	got := <-done
	return float64(got.bytes) / time.Since(began).Seconds(), errors.Join(err, got.err)
}

// discard hides that it could read by itself, so that the buffer is used.
type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func send(c *net.TCPConn, until time.Time) error {
	buffer := make([]byte, chunk)
	for time.Now().Before(until) {
		if _, err := c.Write(buffer); err != nil {
			return err
		}
	}
	return nil
}

// RoundTrips sends a message and waits for its echo, so many times, and returns what each
// took.
func (w Way) RoundTrips(ctx context.Context, n int) ([]time.Duration, error) {
	out, in, err := w.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	go func() { // ends with the connection
		defer func() { _ = in.Close() }()
		buffer := make([]byte, message)
		for {
			if _, err := io.ReadFull(in, buffer); err != nil {
				return
			}
			if _, err := in.Write(buffer); err != nil {
				return
			}
		}
	}()
	buffer := make([]byte, message)
	took := make([]time.Duration, 0, n)
	for range n {
		began := time.Now()
		if _, err := out.Write(buffer); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(out, buffer); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}

// connect makes a connection and returns both of its ends.
func (w Way) connect(ctx context.Context) (out, in *net.TCPConn, err error) {
	var l net.Listener
	err = w.To(func() (err error) {
		c := net.ListenConfig{Control: w.control}
		l, err = c.Listen(ctx, "tcp", netip.AddrPortFrom(w.At, 0).String())
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("listen: %w", err)
	}
	defer l.Close()
	err = w.From(func() error {
		d := net.Dialer{Control: w.control, Timeout: 5 * time.Second}
		c, err := d.DialContext(ctx, "tcp", l.Addr().String())
		if err == nil {
			out = c.(*net.TCPConn)
		}
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	c, err := l.Accept()
	if err != nil {
		return nil, nil, errors.Join(err, out.Close())
	}
	return out, c.(*net.TCPConn), nil
}

func (w Way) control(_, _ string, raw syscall.RawConn) (err error) {
	if w.MSS == 0 {
		return nil
	}
	controlled := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, w.MSS) })
	return errors.Join(controlled, err)
}
