package kernel

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// requestBuffer is the receive buffer asked for: large dumps arrive in
	// pieces of 32 KiB, so this leaves ample room.
	requestBuffer = 1 << 20
	// ackSize holds any acknowledgement: errno, header of the request, the kernel's own
	// words.
	ackSize = 1 << 10
	// exactSize asks how long the message is before it is received.
	exactSize = 0
	// dumpSize is the largest piece of a dump. The kernel makes them no longer than
	// the reader's buffer, and 32 KiB at most.
	dumpSize = 32 << 10
)

// socket is a netlink socket for requests and their answers. The kernel works a
// request off before it returns from sending it, so the answer is mostly there
// when it is asked for: there is no use in a poller.
type socket struct {
	fd  int
	buf []byte // of the last receive
}

// openSocket opens a socket in the network namespace of the calling thread. It asks
// for strict checking, without which the kernel ignores dump filters, and for the
// kernel's own words with every errno but not for the request.
func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, NewError("open netlink socket", "", err)
	}
	s := &socket{fd: fd}
	if err := s.configure(); err != nil {
		s.close()
		return nil, NewError("configure netlink socket", "", err)
	}
	return s, nil
}

func (s *socket) configure() error {
	for _, option := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK, unix.NETLINK_GET_STRICT_CHK} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, option, 1); err != nil {
			return err
		}
	}
	// Best effort: without CAP_NET_ADMIN the default buffer has to do.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, requestBuffer)
	wait := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait); err != nil {
		return err
	}
	return unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// send hands messages to the kernel, which works them off before it returns.
func (s *socket) send(msgs []byte) error {
	return ignoringEINTR(func() error {
		return unix.Sendto(s.fd, msgs, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
}

// receive gives the next messages that really are from the kernel, of size bytes
// at most. They are valid until the next receive.
func (s *socket) receive(size int) ([]syscall.NetlinkMessage, error) {
	for {
		buf, err := s.buffer(size)
		if err != nil {
			return nil, err
		}
		n, from, err := s.receiveInto(buf, unix.MSG_TRUNC)
		switch {
		case err != nil:
			return nil, err
		case n > len(buf):
			return nil, fmt.Errorf("receive the kernel's answer: %d bytes of %d: %w", len(buf), n, unix.EMSGSIZE)
		}
		// The kernel's own port is 0: another process may write to our socket too.
		if sender, ok := from.(*unix.SockaddrNetlink); ok && sender.Pid == 0 {
			return syscall.ParseNetlinkMessage(buf[:align(n)])
		}
	}
}

// buffer gives room for a message; its length is a multiple of four.
func (s *socket) buffer(size int) ([]byte, error) {
	if size == exactSize {
		n, _, err := s.receiveInto(nil, unix.MSG_PEEK|unix.MSG_TRUNC)
		if err != nil {
			return nil, err
		}
		size = align(n)
	}
	if len(s.buf) < size {
		s.buf = make([]byte, max(size, ackSize))
	}
	return s.buf[:size], nil
}

func (s *socket) receiveInto(buf []byte, flags int) (n int, from unix.Sockaddr, err error) {
	err = ignoringEINTR(func() (err error) {
		n, from, err = unix.Recvfrom(s.fd, buf, flags)
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("receive the kernel's answer: %w", err)
	}
	return n, from, nil
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
