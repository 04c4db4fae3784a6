package client

import (
	"errors"
	"io"
	"syscall"
)

// answerTimeout bounds felix's work on a call, in seconds. felix answers earlier of
// itself: this is for a felix that hangs.
const answerTimeout = 60

// conn is the connection to felix, by blocking system calls: what package net does
// instead, with its poller and further threads, takes longer than the exchange.
type conn struct{ fd int }

// connect connects at once or fails. What is sent and received fails with EAGAIN
// after answerTimeout.
func connect(path string) (conn, error) {
	// Not blocking until it is connected: with a full backlog connect would wait, as
	// long as felix hangs.
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return conn{}, err
	}
	timeout := syscall.Timeval{Sec: answerTimeout}
	err = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &timeout)
	if err == nil {
		err = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &timeout)
	}
	if err == nil {
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = syscall.SetNonblock(fd, false)
	}
	if err != nil {
		conn{fd}.close()
		return conn{}, err
	}
	return conn{fd}, nil
}

func (c conn) close() { _ = syscall.Close(c.fd) }

// send sends all of p.
func (c conn) send(p []byte) error {
	for len(p) > 0 {
		n, err := syscall.Write(c.fd, p)
		if err == nil {
			p = p[n:]
		} else if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
	return nil
}

// Read receives what there is. It repeats the call that a signal interrupted: Go's
// runtime signals its threads, and on a socket with a timeout the kernel restarts
// nothing.
func (c conn) Read(p []byte) (int, error) {
	for {
		n, err := syscall.Read(c.fd, p)
		switch {
		case err == nil && n == 0:
			return 0, io.EOF
		case err == nil:
			return n, nil
		case !errors.Is(err, syscall.EINTR):
			return 0, err
		}
	}
}
