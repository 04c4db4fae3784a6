package kernel

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// eventBuffer holds some thousands of events of a burst, so that Resync is
	// rare.
	eventBuffer = 4 << 20
	// longestEvent is more than any event has.
	longestEvent = 64 << 10
)

// eventSocket is a netlink socket that is told of events. It is read from one
// goroutine and may be closed from any.
type eventSocket struct {
	file *os.File
	conn syscall.RawConn
	// buf is read into over and over: events come by the thousand.
	buf []byte
}

// openEventSocket opens a socket of a family of netlink in the network namespace of the
// calling thread. It is told of nothing yet.
func openEventSocket(family int) (*eventSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, family)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "kernel events")
	conn, err := file.SyscallConn()
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	// Best effort: without CAP_NET_ADMIN the default buffer has to do.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBuffer)
	return &eventSocket{file: file, conn: conn, buf: make([]byte, longestEvent)}, nil
}

// filter has the kernel drop what a program of classic BPF says.
func (s *eventSocket) filter(program []unix.SockFilter) error {
	err := s.control(func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	if err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}

func (s *eventSocket) join(groups []int) error {
	for _, group := range groups {
		err := s.control(func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group)
		})
		if err != nil {
			return fmt.Errorf("join group %d: %w", group, err)
		}
	}
	return nil
}

func (s *eventSocket) control(f func(fd int) error) (err error) {
	if failed := s.conn.Control(func(fd uintptr) { err = f(int(fd)) }); failed != nil {
		return failed
	}
	return err
}

// wait bounds the next receive, which then fails with [os.ErrDeadlineExceeded]; 0
// lets it wait for ever.
func (s *eventSocket) wait(limit time.Duration) {
	var until time.Time
	if limit > 0 {
		until = time.Now().Add(limit)
	}
	_ = s.file.SetReadDeadline(until)
}

// receive gives the next messages, valid until it is called again, and the port of
// who sent them.
func (s *eventSocket) receive() (msgs []syscall.NetlinkMessage, from uint32, err error) {
	var n int
	var sender unix.Sockaddr
	failed := s.conn.Read(func(fd uintptr) bool {
		n, sender, err = unix.Recvfrom(int(fd), s.buf, 0)
		return err != unix.EAGAIN //nolint:errorlint // as the system call gave it
	})
	if failed != nil {
		return nil, 0, failed
	}
	if err != nil {
		return nil, 0, err
	}
	address, ok := sender.(*unix.SockaddrNetlink)
	if !ok {
		return nil, 0, fmt.Errorf("sender of netlink message is %T: %w", sender, unix.EBADMSG)
	}
	// The last message may lack its padding.
	msgs, err = syscall.ParseNetlinkMessage(s.buf[:min(align(n), len(s.buf))])
	return msgs, address.Pid, err
}

func (s *eventSocket) close() { _ = s.file.Close() }
