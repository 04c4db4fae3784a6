package kernel

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Address is an IP address of a link. It is comparable.
type Address struct {
	Link   int
	Prefix netip.Prefix // the address itself with its prefix length
	Scope  Scope        // ScopeLink for link-local ones
	// Tentative: an IPv6 address that cannot be used until duplicate address
	// detection is over. It is read only.
	Tentative bool
	// Deprecated: an IPv6 address that is not chosen as a source.
	Deprecated bool
}

// Addresses reads the addresses of a link, of both families; link 0 is every
// link.
func (h *Handle) Addresses(link int) ([]Address, error) {
	header := make([]byte, unix.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(header[4:], uint32(link))
	addrs, err := dump(context.Background(), h, request{kind: unix.RTM_GETADDR, header: header}, unix.RTM_NEWADDR,
		func(msg []byte) (Address, bool, error) {
			a, ok, err := decodeAddress(msg)
			return a, ok && (link == 0 || a.Link == link), err
		})
	return addrs, NewError("read addresses of link", strconv.Itoa(link), err)
}

// AddAddress is the change [LinkAddress].
func (h *Handle) AddAddress(link int, prefix netip.Prefix) error {
	return h.one(LinkAddress{Link: link, Prefix: prefix})
}

// DeleteAddress takes an address from a link. One that is absent is a success.
func (h *Handle) DeleteAddress(link int, prefix netip.Prefix) error {
	header, attrs := encodeAddress(link, prefix)
	err := h.do(unix.RTM_DELADDR, header, attrs)
	if isAbsent(err) {
		return nil
	}
	return NewError("delete address", fmt.Sprintf("%s of link %d", prefix, link), err)
}

// deprecatedLifetimes is struct ifa_cacheinfo: preferred for no time, valid for ever.
func deprecatedLifetimes() []byte {
	b := make([]byte, 16)
	binary.NativeEndian.PutUint32(b[4:], 0xffffffff)
	return b
}

func encodeAddress(link int, prefix netip.Prefix) (header []byte, attrs attributes) {
	addr := prefix.Addr()
	header = make([]byte, unix.SizeofIfAddrmsg)
	header[0] = byte(FamilyOf(addr))
	header[1] = byte(prefix.Bits())
	if FamilyOf(addr) == IPv6 {
		header[2] = unix.IFA_F_NODAD
	}
	if addr.IsLinkLocalUnicast() {
		header[3] = byte(ScopeLink)
	}
	binary.NativeEndian.PutUint32(header[4:], uint32(link))
	var a attributes
	a.bytes(unix.IFA_LOCAL, addr.AsSlice())
	a.bytes(unix.IFA_ADDRESS, addr.AsSlice())
	return header, a
}

func decodeAddress(msg []byte) (a Address, ok bool, err error) {
	if len(msg) < unix.SizeofIfAddrmsg {
		return Address{}, false, fmt.Errorf("address message of %d bytes: %w", len(msg), unix.EBADMSG)
	}
	if f := Family(msg[0]); f != IPv4 && f != IPv6 {
		return Address{}, false, nil
	}
	a = Address{Scope: Scope(msg[3]), Link: int(binary.NativeEndian.Uint32(msg[4:]))}
	flags := uint32(msg[2])
	// On a point-to-point link IFA_ADDRESS is the other end's; IFA_LOCAL, where
	// there is one, is always ours.
	var local, other netip.Addr
	err = eachAttribute(msg[unix.SizeofIfAddrmsg:], func(kind uint16, value []byte) (err error) {
		switch kind {
		case unix.IFA_LOCAL:
			local, err = address(value)
		case unix.IFA_ADDRESS:
			other, err = address(value)
		case unix.IFA_FLAGS:
			flags, err = number(value)
		}
		return err
	})
	if !local.IsValid() {
		local = other
	}
	a.Prefix = netip.PrefixFrom(local, int(msg[1]))
	a.Tentative = flags&unix.IFA_F_TENTATIVE != 0
	a.Deprecated = flags&unix.IFA_F_DEPRECATED != 0
	return a, local.IsValid(), err
}

// Neighbour is a permanent entry of the ARP (IPv4) or ND (IPv6) table of a link. As
// a [Change] it is written in place of an entry of any kind.
type Neighbour struct {
	Link int
	IP   netip.Addr
	MAC  MAC
}

// SetNeighbour writes a permanent neighbour entry, in place of one of any kind.
func (h *Handle) SetNeighbour(n Neighbour) error { return h.one(n) }

// DeleteNeighbour removes a neighbour entry. One that is absent is a success.
func (h *Handle) DeleteNeighbour(link int, ip netip.Addr) error {
	header, attrs := encodeNeighbour(Neighbour{Link: link, IP: ip})
	return h.deleteNeighbour("delete neighbour", fmt.Sprintf("%s of link %d", ip, link), header, attrs)
}

// deleteNeighbour removes an entry of a neighbour table, or of a device's own; one
// that is absent is a success.
func (h *Handle) deleteNeighbour(op, object string, header, attrs []byte) error {
	err := h.do(unix.RTM_DELNEIGH, header, attrs)
	if isAbsent(err) {
		return nil
	}
	return NewError(op, object, err)
}

// Neighbours reads the permanent neighbour entries of a link.
func (h *Handle) Neighbours(link int) ([]Neighbour, error) {
	header := make([]byte, sizeofNdMsg)
	var attrs attributes
	attrs.uint32(unix.NDA_IFINDEX, uint32(link))
	ns, err := dump(context.Background(), h,
		request{kind: unix.RTM_GETNEIGH, header: header, attrs: attrs}, unix.RTM_NEWNEIGH,
		func(msg []byte) (Neighbour, bool, error) {
			n, ok, err := decodeNeighbour(msg)
			return n, ok && n.Link == link, err
		})
	return ns, NewError("read neighbours of link", strconv.Itoa(link), err)
}

// String is the entry as ip(8) would print it, less the name of the link.
func (n Neighbour) String() string {
	return fmt.Sprintf("%s lladdr %s dev %d", n.IP, n.MAC, n.Link)
}

// sizeofNdMsg is the size of struct ndmsg.
const sizeofNdMsg = 12

func encodeNeighbour(n Neighbour) (header []byte, attrs attributes) {
	header = make([]byte, sizeofNdMsg)
	header[0] = byte(FamilyOf(n.IP))
	binary.NativeEndian.PutUint32(header[4:], uint32(n.Link))
	binary.NativeEndian.PutUint16(header[8:], unix.NUD_PERMANENT)
	attrs.bytes(unix.NDA_DST, n.IP.Unmap().AsSlice())
	return header, attrs
}

func decodeNeighbour(msg []byte) (n Neighbour, ok bool, err error) {
	if len(msg) < sizeofNdMsg {
		return Neighbour{}, false, fmt.Errorf("neighbour message of %d bytes: %w", len(msg), unix.EBADMSG)
	}
	if f := Family(msg[0]); f != IPv4 && f != IPv6 {
		return Neighbour{}, false, nil
	}
	if binary.NativeEndian.Uint16(msg[8:])&unix.NUD_PERMANENT == 0 {
		return Neighbour{}, false, nil
	}
	n, err = decodeNdMsg(msg)
	return n, n.IP.IsValid(), err
}

// decodeNdMsg reads what is in struct ndmsg and behind it, whatever the table.
func decodeNdMsg(msg []byte) (n Neighbour, err error) {
	n.Link = int(binary.NativeEndian.Uint32(msg[4:]))
	err = eachAttribute(msg[sizeofNdMsg:], func(kind uint16, value []byte) (err error) {
		switch kind {
		case unix.NDA_DST:
			n.IP, err = address(value)
		case unix.NDA_LLADDR:
			if len(value) == len(n.MAC) {
				n.MAC = MAC(value)
			}
		}
		return err
	})
	return n, err
}
