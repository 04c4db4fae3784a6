package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"tortie/internal/kernel"
)

const (
	// port is that of BFD over a single hop; packets come from ports of the range
	// below (RFC 5881 section 4).
	port          = 3784
	leastSource   = 49152
	sourcePorts   = 1<<16 - leastSource
	sourceTrials  = 64
	requiredTTL   = 255
	networkCtrl   = 0xc0 // DSCP CS6, as routing protocols use
	ttlData       = 4
	backlog       = 4 << 20
	largestPacket = 128 // what is longer than a packet is no part of it
)

// received is a datagram, and what the kernel said of it.
type received struct {
	from netip.Addr
	link int
	ttl  int
	data []byte
}

// open makes a UDP socket that says its TTL and link with every packet.
func open(v6 bool) (int, error) {
	family := unix.AF_INET
	options := [][3]int{
		{unix.IPPROTO_IP, unix.IP_RECVTTL, 1},
		{unix.IPPROTO_IP, unix.IP_PKTINFO, 1},
		{unix.IPPROTO_IP, unix.IP_TTL, requiredTTL},
		{unix.IPPROTO_IP, unix.IP_TOS, networkCtrl},
	}
	if v6 {
		family = unix.AF_INET6
		options = [][3]int{
			{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, requiredTTL},
			{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, networkCtrl},
		}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// A session is about a link, which is not WireGuard's; felix leads other packets to a
	// node there. Without CAP_NET_ADMIN there is no felix either.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, kernel.MarkClear)
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("setsockopt", err)
		}
	}
	return fd, nil
}

// listen opens the socket that all packets of a family come to.
func listen(v6 bool) (int, error) {
	fd, err := open(v6)
	if err != nil {
		return -1, fmt.Errorf("listen for BFD: %w", err)
	}
	// Room for what comes while the machine is too busy for its reader; without
	// CAP_NET_ADMIN there is less.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, backlog)
	err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(unspecified(v6), port), 0))
	if errors.Is(err, unix.EADDRINUSE) {
		err = fmt.Errorf("UDP port %d is taken: end the other BFD daemon of this node", port)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen for BFD: %w", err)
	}
	return fd, nil
}

// source opens the socket that a session sends from: its port is its own.
func source(local netip.Addr, v6 bool) (int, error) {
	if !local.IsValid() {
		local = unspecified(v6)
	}
	fd, err := open(v6)
	if err != nil {
		return -1, fmt.Errorf("open a BFD session: %w", err)
	}
	for range sourceTrials {
		from := netip.AddrPortFrom(local, uint16(leastSource+rand.IntN(sourcePorts)))
		if err = unix.Bind(fd, sockaddr(from, 0)); !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("open a BFD session from %s: %w", local, err)
	}
	return fd, nil
}

func unspecified(v6 bool) netip.Addr {
	if v6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func sockaddr(a netip.AddrPort, link int) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	out := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if a.Addr().IsLinkLocalUnicast() {
		out.ZoneId = uint32(link)
	}
	return out
}

// transmit sends to a neighbour on its link: never over a router, whatever the
// routes say.
func transmit(fd int, p Peer, data []byte) error {
	// The source stands here too: for IPv4 what is said with the link counts, not what
	// the socket is bound to.
	var control []byte
	if p.Address.Is4() {
		info := unix.Inet4Pktinfo{Ifindex: int32(p.Link)}
		if p.Local.IsValid() {
			info.Spec_dst = p.Local.As4()
		}
		control = unix.PktInfo4(&info)
	} else {
		info := unix.Inet6Pktinfo{Ifindex: uint32(p.Link)}
		if p.Local.IsValid() {
			info.Addr = p.Local.As16()
		}
		control = unix.PktInfo6(&info)
	}
	to := sockaddr(netip.AddrPortFrom(p.Address, port), p.Link)
	_, err := unix.SendmsgN(fd, data, control, to, unix.MSG_DONTROUTE|unix.MSG_DONTWAIT)
	return os.NewSyscallError("sendmsg", err)
}

// receive reads one datagram; the data is valid until buf is used again.
func receive(fd int, buf, control []byte) (received, error) {
	n, nc, _, from, err := unix.Recvmsg(fd, buf, control, unix.MSG_DONTWAIT)
	if err != nil {
		return received{}, err
	}
	out := received{data: buf[:n]}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		out.from = netip.AddrFrom4(from.Addr)
	case *unix.SockaddrInet6:
		out.from = netip.AddrFrom16(from.Addr)
	}
	messages, err := unix.ParseSocketControlMessage(control[:nc])
	if err != nil {
		return received{}, err
	}
	for i := range messages {
		out.note(&messages[i])
	}
	return out, nil
}

func (r *received) note(m *unix.SocketControlMessage) {
	switch {
	case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TTL && len(m.Data) >= ttlData,
		m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT && len(m.Data) >= ttlData:
		r.ttl = int(binary.NativeEndian.Uint32(m.Data))
	case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
		r.link = int(binary.NativeEndian.Uint32(m.Data))
	case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
		r.link = int(binary.NativeEndian.Uint32(m.Data[unix.SizeofInet6Pktinfo-4:])) // after the address
	}
}
