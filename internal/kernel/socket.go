package kernel

import (
	"encoding/binary"
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
	// answerSize holds a link or whatever else is asked for alone, unless it has very
	// many names.
	answerSize = 4 << 10
	// dumpSize is the largest piece of a dump. The kernel makes them no longer than
	// the reader's buffer, and 32 KiB at most.
	dumpSize = 32 << 10
)

// socket is a netlink socket for requests and their answers. The kernel works a
// request off before it returns from sending it, so the answer is mostly there
// when it is asked for: there is no use in a poller.
type socket struct {
	fd  int
	out []byte // the last messages sent, for the next to be made in
	buf []byte // the last messages received
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
	// To the kernel alone, whose port is 0: nothing is taken from other processes.
	if err := unix.Connect(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	wait := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait); err != nil {
		return err
	}
	return unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
}

// port is the socket's address, which the kernel has chosen.
func (s *socket) port() (uint32, error) {
	sa, err := unix.Getsockname(s.fd)
	if err != nil {
		return 0, err
	}
	if own, ok := sa.(*unix.SockaddrNetlink); ok {
		return own.Pid, nil
	}
	return 0, unix.EAFNOSUPPORT
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// send hands messages to the kernel, which works them off before it returns.
func (s *socket) send(msgs []byte) error {
	s.out = msgs
	return ignoringEINTR(func() error {
		_, err := unix.Write(s.fd, msgs)
		return err
	})
}

// receive hands the next messages to take, one after another. They are size bytes at
// most, or the error is errTruncated, and valid only until take returns.
func (s *socket) receive(size int, take func(syscall.NetlinkMessage)) error {
	if len(s.buf) < size {
		s.buf = make([]byte, size)
	}
	var n int
	err := ignoringEINTR(func() (err error) {
		n, err = unix.Read(s.fd, s.buf[:size])
		return err
	})
	if err != nil {
		return fmt.Errorf("receive the kernel's answer: %w", err)
	}
	for b := s.buf[:n]; len(b) > 0; {
		var m syscall.NetlinkMessage
		if m, b, err = cutMessage(b); err != nil {
			return err
		}
		take(m)
	}
	return nil
}

// errTruncated: the message is longer than the buffer it was received in.
var errTruncated = errors.New("receive the kernel's answer: the message is cut off")

// cutMessage takes the first message off b. Its data is not copied.
func cutMessage(b []byte) (m syscall.NetlinkMessage, rest []byte, err error) {
	if len(b) < unix.SizeofNlMsghdr {
		return m, nil, errTruncated
	}
	m.Header = syscall.NlMsghdr{
		Len: binary.NativeEndian.Uint32(b), Type: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
		Seq: binary.NativeEndian.Uint32(b[8:]), Pid: binary.NativeEndian.Uint32(b[12:]),
	}
	length := int(m.Header.Len)
	if length < unix.SizeofNlMsghdr || length > len(b) {
		return m, nil, errTruncated
	}
	m.Data = b[unix.SizeofNlMsghdr:length]
	return m, b[min(align(length), len(b)):], nil
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
