package bgptest

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Flags of path attributes (RFC 4271 section 4.3).
const (
	Optional   byte = 0x80
	Transitive byte = 0x40
	Partial    byte = 0x20
	extended   byte = 0x10
)

// Types of path attributes.
const (
	TypeOrigin          byte = 1
	TypeASPath          byte = 2
	TypeNextHop         byte = 3
	TypeMED             byte = 4
	TypeLocalPref       byte = 5
	TypeAtomicAggregate byte = 6
	TypeAggregator      byte = 7
	TypeCommunities     byte = 8
	TypeOriginatorID    byte = 9
	TypeClusterList     byte = 10
	TypeMPReach         byte = 14
	TypeMPUnreach       byte = 15
	TypeExtCommunities  byte = 16
	TypeLargeCommunity  byte = 32
)

// Body is the body of an UPDATE: prefixes that are withdrawn, attributes, and prefixes
// that are announced, each encoded.
func Body(withdrawn, attributes, announced []byte) []byte {
	out := binary.BigEndian.AppendUint16(nil, uint16(len(withdrawn)))
	out = append(out, withdrawn...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(attributes)))
	return slices.Concat(out, attributes, announced)
}

// Attribute is a path attribute, whatever is in it.
func Attribute(flags, kind byte, value ...byte) []byte {
	if len(value) > 255 {
		out := binary.BigEndian.AppendUint16([]byte{flags | extended, kind}, uint16(len(value)))
		return append(out, value...)
	}
	return append([]byte{flags, kind, byte(len(value))}, value...)
}

// Origin is the attribute ORIGIN: IGP.
func Origin() []byte { return Attribute(Transitive, TypeOrigin, 0) }

// ASPath is an AS_PATH of one sequence, with AS numbers of four bytes.
func ASPath(path ...uint32) []byte {
	if len(path) == 0 { // of an internal peer's own
		return Attribute(Transitive, TypeASPath)
	}
	value := []byte{2, byte(len(path))}
	for _, asn := range path {
		value = binary.BigEndian.AppendUint32(value, asn)
	}
	return Attribute(Transitive, TypeASPath, value...)
}

// NextHop is the attribute NEXT_HOP.
func NextHop(a netip.Addr) []byte { return Attribute(Transitive, TypeNextHop, a.AsSlice()...) }

// Prefixes are prefixes as an UPDATE has them.
func Prefixes(prefixes ...netip.Prefix) []byte {
	var out []byte
	for _, p := range prefixes {
		out = append(out, byte(p.Bits()))
		out = append(out, p.Addr().AsSlice()[:(p.Bits()+7)/8]...)
	}
	return out
}

// Announce is the body of an UPDATE that announces IPv4 prefixes, with further attributes.
func Announce(asn uint32, nextHop netip.Addr, prefixes []netip.Prefix, more ...[]byte) []byte {
	attributes := slices.Concat(Origin(), ASPath(asn), NextHop(nextHop), slices.Concat(more...))
	return Body(nil, attributes, Prefixes(prefixes...))
}

// Withdraw is the body of an UPDATE that withdraws IPv4 prefixes.
func Withdraw(prefixes []netip.Prefix) []byte { return Body(Prefixes(prefixes...), nil, nil) }

// EndOfRIB is that of IPv4 (RFC 4724 section 2).
func EndOfRIB() []byte { return Body(nil, nil, nil) }

// MPReach is the attribute MP_REACH_NLRI of IPv6 unicast.
func MPReach(nextHop netip.Addr, prefixes ...netip.Prefix) []byte {
	value := append([]byte{0, 2, 1, 16}, nextHop.AsSlice()...)
	value = append(value, 0)
	return Attribute(Optional, TypeMPReach, append(value, Prefixes(prefixes...)...)...)
}
