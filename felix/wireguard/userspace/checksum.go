package userspace

import (
	"encoding/binary"

	"golang.zx2c4.com/wireguard/tun"
)

// summed is a device whose UDP packets over IPv6 have a checksum. The kernel leaves checksums
// to whoever reads a packet here, and the library computes them, but leaves a sum of 0 as it
// is: over IPv6 that is no checksum, and the receiver drops the packet, one of 65,536. It
// is sent as all ones (RFC 768; RFC 8200 section 8.1).
type summed struct{ tun.Device }

// Read is the device's.
func (s summed) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := s.Device.Read(bufs, sizes, offset)
	for i := range n {
		mendChecksum(bufs[i][offset : offset+sizes[i]])
	}
	return n, err
}

// mendChecksum leaves alone a packet that was sent without a checksum, as tunnels may
// (RFC 6935): of such a one the sum is not 0.
func mendChecksum(packet []byte) {
	const header, addresses, udp, protocol = 40, 8, 8, 17
	if len(packet) < header+udp || packet[0]>>4 != 6 || packet[6] != protocol {
		return
	}
	datagram := packet[header:]
	at := datagram[6:8]
	if at[0] != 0 || at[1] != 0 || int(binary.BigEndian.Uint16(datagram[4:])) != len(datagram) {
		return
	}
	sum := uint64(len(datagram)) + protocol
	for _, part := range [][]byte{packet[addresses:header], datagram} {
		for ; len(part) > 1; part = part[2:] {
			sum += uint64(binary.BigEndian.Uint16(part))
		}
		if len(part) == 1 {
			sum += uint64(part[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		at[0], at[1] = 0xff, 0xff
	}
}
