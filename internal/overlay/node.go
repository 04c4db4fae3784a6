package overlay

import (
	"crypto/sha1" //nolint:gosec // upstream's address of a device, no secret
	"encoding/hex"
	"net/netip"
	"strings"

	"tortie/internal/api"
)

// MAC is an Ethernet address.
type MAC [6]byte

// End is one node's end of the overlays in one family of addresses.
type End struct {
	// Address is the node's own with the length of its subnet; invalid for none.
	Address netip.Prefix
	// Tunnel is the address of its VXLAN device; invalid for none.
	Tunnel netip.Addr
	MAC    MAC
	// Refused is why a View does not use the Tunnel that the Node names.
	Refused string
	IPIP    IPIPEnd
	Secure  Secure
}

// IPIPEnd is a node's end of IPIP, whose device needs its address for the node's own
// packets alone: others send to the node's.
type IPIPEnd struct {
	Tunnel  netip.Addr
	Refused string // as in End
}

// tunnel is the address of the device of a carrier, and why it is not used.
func (e End) tunnel(by Carrier) (addr netip.Addr, refused string) {
	if by == IPIP {
		return e.IPIP.Tunnel, e.IPIP.Refused
	}
	return e.Tunnel, e.Refused
}

func (e End) ready() bool { return e.Address.IsValid() && e.Tunnel.IsValid() }

// Node is what a Node resource says of its ends.
type Node struct{ V4, V6 End }

// End is the one for addresses like a.
func (n Node) End(a netip.Addr) End {
	if a.Is4() {
		return n.V4
	}
	return n.V6
}

// ReadNode reads the Node of that name, but for the keys of WireGuard, which [Node.Keyed]
// adds. What can't be read is as if it weren't there.
func ReadNode(name string, s *api.NodeSpec) Node {
	bgp := api.NodeBGPSpec{}
	if s.BGP != nil {
		bgp = *s.BGP
	}
	read := Node{
		V4: readEnd(bgp.IPv4Address, s.IPv4VXLANTunnelAddr, s.VXLANTunnelMACAddr, DefaultMAC(name, false), netip.Addr.Is4),
		V6: readEnd(bgp.IPv6Address, s.IPv6VXLANTunnelAddr, s.VXLANTunnelMACAddrV6, DefaultMAC(name, true), netip.Addr.Is6),
	}
	if s.Wireguard != nil {
		read.V4.Secure.Tunnel = readTunnel(s.Wireguard.InterfaceIPv4Address, netip.Addr.Is4)
		read.V6.Secure.Tunnel = readTunnel(s.Wireguard.InterfaceIPv6Address, netip.Addr.Is6)
	}
	read.V4.IPIP.Tunnel = readTunnel(bgp.IPv4IPIPTunnelAddr, netip.Addr.Is4)
	return read
}

func readEnd(address, tunnel, mac string, byDefault MAC, family func(netip.Addr) bool) End {
	e := End{MAC: byDefault}
	if p, err := netip.ParsePrefix(address); err == nil && family(p.Addr()) {
		e.Address = p
	} else if a, err := netip.ParseAddr(address); err == nil && family(a) {
		e.Address = netip.PrefixFrom(a, a.BitLen())
	}
	e.Tunnel = readTunnel(tunnel, family)
	if given, ok := parseMAC(mac); ok {
		e.MAC = given
	}
	return e
}

func readTunnel(s string, family func(netip.Addr) bool) netip.Addr {
	if a, err := netip.ParseAddr(s); err == nil && family(a) && a.Zone() == "" {
		return a
	}
	return netip.Addr{}
}

// DefaultMAC is the address that a node's device has unless its Node says another.
// It is upstream's, so that nodes of both systems find one another.
func DefaultMAC(node string, v6 bool) MAC {
	if v6 {
		node += "-v6"
	}
	sum := sha1.Sum([]byte(node)) //nolint:gosec // see above
	m := MAC{0x66}
	copy(m[1:], sum[:])
	return m
}

// String is the address as a Node has it.
func (m MAC) String() string {
	parts := make([]string, 0, len(m))
	for i := range m {
		parts = append(parts, hex.EncodeToString(m[i:i+1]))
	}
	return strings.Join(parts, ":")
}

// parseMAC reads six hexadecimal numbers between colons; an address of a group is
// none that a device could have.
func parseMAC(s string) (MAC, bool) {
	raw, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(raw) != len(MAC{}) || len(s) != 17 || raw[0]&1 != 0 {
		return MAC{}, false
	}
	return MAC(raw), true
}
