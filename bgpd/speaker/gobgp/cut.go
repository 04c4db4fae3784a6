package gobgp

import (
	"net/netip"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"tortie/bgpd/speaker"
)

// cut closes the connection to a peer as the end of the process would: without the
// NOTIFICATION that GoBGP sends when a peer is removed, at which the other side drops our
// routes. It keeps them if it restarts gracefully (RFC 4724). What can't be cut is merely
// less graceful.
func cut(p speaker.Peer, listen uint16) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// What is looked at must be what is closed, though the number may be another's by then.
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if isSession(own, p, listen) {
			_ = unix.Shutdown(own, unix.SHUT_RDWR) // fails when the other side was faster
		}
		unix.Close(own)
	}
}

// isSession: a socket is a connection to the peer, from our port or to its.
func isSession(fd int, p speaker.Peer, listen uint16) bool {
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_STREAM {
		return false
	}
	remote, err := unix.Getpeername(fd)
	if err != nil {
		return false
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	to := addrPort(remote)
	return to.Addr() == p.Address && (to.Port() == portOf(p) || addrPort(local).Port() == listen)
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// hold lets a session be made anew without a loss: neither side gives up what it
// has learned before the other has told everything again.
func (s *Speaker) hold(next speaker.Peer) {
	i := slices.IndexFunc(s.applied.Peers, func(p speaker.Peer) bool { return p.Address == next.Address })
	if i < 0 {
		return
	}
	s.events.hold(next.Address, next.RestartTime)
	if next.RestartTime > 0 {
		cut(s.applied.Peers[i], s.applied.Global.Port)
	}
}
