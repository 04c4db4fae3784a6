package pathmtu

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tortie/internal/kernel"
)

// Wire asks by real packets that nobody may break up, whatever the kernel knows of the
// path: by ICMP echo, or where felix may not send those by datagrams to a port at which
// nobody listens, which the other kernel answers, too.
type Wire struct {
	// Inside runs a function in the node's network namespace; nil where the caller is.
	Inside func(func() error) error
	// Wait is how long an answer may take. A kernel may refuse datagrams no more often than
	// once a second.
	Wait time.Duration

	ways []way // the first that the kernel allows is taken; nil for all
}

// way is a kind of socket.
type way int

const (
	ping     way = iota // echo without privilege, where net.ipv4.ping_group_range allows it
	raw                 // echo with CAP_NET_RAW
	datagram            // UDP
)

// Ask implements Echo.
func (w Wire) Ask(ctx context.Context, to netip.Addr, size int) (answered bool, err error) {
	s, err := w.open(to)
	if err != nil {
		return false, fmt.Errorf("open a socket to see what reaches %s: %w", to, err)
	}
	defer s.close()
	request, err := s.request(size)
	if err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.file.SetDeadline(time.Now().Add(w.Wait)); err != nil {
		return false, err
	}
	switch _, err := s.file.Write(request); {
	case errors.Is(err, syscall.EMSGSIZE):
		return false, ErrTooLarge
	case err != nil:
		return false, ctx.Err() // no way there: nothing answers
	}
	answered, err = s.await()
	return answered, errors.Join(err, ctx.Err())
}

// socket is connected to the one who is asked.
type socket struct {
	file *os.File
	protocol
	way  way
	mark [16]byte // tells our packets from others
}

func (s *socket) close() { _ = s.file.Close() }

// protocol is what differs between the versions of IP.
type protocol struct {
	v6                    bool
	family, echo          int
	level, option, whole  int // nobody breaks packets up
	header                int
	typeRequest, typeBack byte
}

func protocolOf(v6 bool) protocol {
	if v6 {
		return protocol{
			v6: true, family: unix.AF_INET6, echo: unix.IPPROTO_ICMPV6,
			level: unix.IPPROTO_IPV6, option: unix.IPV6_MTU_DISCOVER, whole: unix.IPV6_PMTUDISC_PROBE,
			header: 40, typeRequest: 128, typeBack: 129,
		}
	}
	return protocol{
		family: unix.AF_INET, echo: unix.IPPROTO_ICMP,
		level: unix.IPPROTO_IP, option: unix.IP_MTU_DISCOVER, whole: unix.IP_PMTUDISC_PROBE,
		header: 20, typeRequest: 8, typeBack: 0,
	}
}

func (p protocol) socket(w way) (fd int, err error) {
	const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	switch w {
	case ping:
		return unix.Socket(p.family, unix.SOCK_DGRAM|flags, p.echo)
	case raw:
		return unix.Socket(p.family, unix.SOCK_RAW|flags, p.echo)
	}
	return unix.Socket(p.family, unix.SOCK_DGRAM|flags, unix.IPPROTO_UDP)
}

// closedPort is that of tcpmux, which has never been spoken over UDP.
const closedPort = 1

func (p protocol) address(a netip.Addr, w way) unix.Sockaddr {
	port := 0
	if w == datagram {
		port = closedPort
	}
	if p.v6 {
		return &unix.SockaddrInet6{Addr: a.As16(), Port: port}
	}
	return &unix.SockaddrInet4{Addr: a.As4(), Port: port}
}

func (w Wire) open(to netip.Addr) (*socket, error) {
	inside := w.Inside
	if inside == nil {
		inside = func(f func() error) error { return f() }
	}
	ways := w.ways
	if ways == nil {
		ways = []way{ping, raw, datagram}
	}
	s, fd := &socket{protocol: protocolOf(to.Is6())}, -1
	_, _ = rand.Read(s.mark[:]) // never fails
	err := inside(func() (err error) {
		for _, s.way = range ways {
			if fd, err = s.socket(s.way); err == nil {
				return nil
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s.file = os.NewFile(uintptr(fd), "probe")
	// It is the network between the nodes that is looked at, not what WireGuard makes of it;
	// without CAP_NET_ADMIN there is none either.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, kernel.MarkClear)
	err = unix.SetsockoptInt(fd, s.level, s.option, s.whole)
	if err == nil {
		err = unix.Connect(fd, s.address(to, s.way))
	}
	// Without a way there the write fails, which says the same.
	if err != nil && !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH) {
		s.close()
		return nil, err
	}
	return s, nil
}

// header8 is the size of the headers of an echo, type, code, checksum, identifier and
// number, and of UDP.
const header8 = 8

// request is what makes a packet of a size.
func (s *socket) request(size int) ([]byte, error) {
	if size < s.header+header8+len(s.mark) || size > 65535 {
		return nil, fmt.Errorf("ask by a packet of %d bytes: no such packet can be made", size)
	}
	b := make([]byte, size-s.header)
	if s.way == datagram {
		return b[header8:], nil
	}
	b[0] = s.typeRequest
	copy(b[4:], s.mark[:4]) // identifier and number; the kernel may choose the former
	copy(b[header8:], s.mark[:])
	if !s.v6 {
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b, nil
}

// await waits for the answer; other packets may come first. A router that says that the
// packet is too large need not be asked again.
func (s *socket) await() (answered bool, err error) {
	buf := make([]byte, 65535)
	for {
		n, err := s.file.Read(buf)
		switch {
		case err == nil && s.answers(buf[:n]), errors.Is(err, syscall.ECONNREFUSED) && s.way == datagram:
			return true, nil
		case errors.Is(err, syscall.EMSGSIZE):
			return false, ErrTooLarge
		case err == nil, errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.ECONNREFUSED):
		default: // the time is over
			return false, nil
		}
	}
}

func (s *socket) answers(packet []byte) bool {
	if s.way == datagram {
		return true // somebody listens there after all
	}
	if s.way == raw && !s.v6 {
		if len(packet) < s.header || len(packet) < int(packet[0]&15)*4 {
			return false
		}
		packet = packet[int(packet[0]&15)*4:]
	}
	return len(packet) >= header8+len(s.mark) && packet[0] == s.typeBack && [16]byte(packet[header8:]) == s.mark
}

// checksum is that of the Internet.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
