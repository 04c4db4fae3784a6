package kernel

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// NextHop is one way that packets can take: over a link, to a gateway.
type NextHop struct {
	Link    int
	Gateway netip.Addr // invalid where the destination itself is on the link
	OnLink  bool       // the gateway is reachable on Link though no route says so
	Weight  int        // the share among several, 1 to 256; 0 is 1
}

// maxWeight is the greatest weight that a next hop of several can have.
const maxWeight = 256

// NextHops are the several next hops of a route, in one order and each once. They are
// comparable.
type NextHops struct{ packed string }

// nextHopSize is the length of a packed next hop: link, weight, onlink, length of the
// address, address.
const nextHopSize = 4 + 2 + 1 + 1 + 16

// NewNextHops packs next hops, in whatever order they come.
func NewNextHops(hops ...NextHop) NextHops {
	records := make([]string, 0, len(hops))
	for _, h := range hops {
		records = append(records, string(h.pack()))
	}
	slices.Sort(records)
	return NextHops{strings.Join(slices.Compact(records), "")}
}

func (h NextHop) pack() []byte {
	b := make([]byte, nextHopSize)
	binary.BigEndian.PutUint32(b, uint32(h.Link))
	binary.BigEndian.PutUint16(b[4:], uint16(max(h.Weight, 1)-1))
	if h.OnLink {
		b[6] = 1
	}
	b[7] = byte(copy(b[8:], h.Gateway.Unmap().WithZone("").AsSlice()))
	return b
}

// Len is how many they are.
func (n NextHops) Len() int { return len(n.packed) / nextHopSize }

// Equal is ==, for those who compare by reflection.
func (n NextHops) Equal(m NextHops) bool { return n == m }

// Over reports whether one of them is over a link.
func (n NextHops) Over(link int) bool {
	return slices.ContainsFunc(n.All(), func(h NextHop) bool { return h.Link == link })
}

// All are the next hops one by one.
func (n NextHops) All() []NextHop {
	if n.packed == "" {
		return nil
	}
	out := make([]NextHop, 0, n.Len())
	for b := []byte(n.packed); len(b) > 0; b = b[nextHopSize:] {
		h := NextHop{Link: int(binary.BigEndian.Uint32(b)), Weight: int(binary.BigEndian.Uint16(b[4:])), OnLink: b[6] == 1}
		if h.Weight > 0 {
			h.Weight++
		}
		h.Gateway, _ = netip.AddrFromSlice(b[8 : 8+b[7]])
		out = append(out, h)
	}
	return out
}

// String is a next hop as ip(8) would print it, less the name of the device.
func (h NextHop) String() string {
	s := fmt.Sprintf("dev %d", h.Link)
	if h.Gateway.IsValid() {
		s = "via " + h.Gateway.String() + " " + s
	}
	if h.Weight > 1 {
		s += fmt.Sprintf(" weight %d", h.Weight)
	}
	return s
}

func (n NextHops) validate(family Family) error {
	for _, h := range n.All() {
		switch {
		case h.Link == 0:
			return fmt.Errorf("next hop %s without a link: %w", h, ErrInvalid)
		case h.Gateway.IsValid() && FamilyOf(h.Gateway) != family:
			return fmt.Errorf("gateway %s is of another family: %w", h.Gateway, ErrInvalid)
		case h.Weight > maxWeight:
			return fmt.Errorf("weight %d is more than %d: %w", h.Weight, maxWeight, ErrInvalid)
		}
	}
	return nil
}

// encode makes the value of RTA_MULTIPATH.
func (n NextHops) encode() (b []byte) {
	for _, h := range n.All() {
		var gateway attributes
		if h.Gateway.IsValid() {
			gateway.bytes(unix.RTA_GATEWAY, h.Gateway.AsSlice())
		}
		b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtNexthop+len(gateway)))
		flags := byte(0)
		if h.OnLink {
			flags = unix.RTNH_F_ONLINK
		}
		b = append(b, flags, byte(max(h.Weight, 1)-1))
		b = binary.NativeEndian.AppendUint32(b, uint32(h.Link))
		b = append(b, gateway...)
	}
	return b
}

// decodeMultipath reads the value of RTA_MULTIPATH.
func decodeMultipath(b []byte) (NextHops, error) {
	var hops []NextHop
	for len(b) >= unix.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtNexthop || length > len(b) {
			return NextHops{}, fmt.Errorf("next hop of %d bytes where %d are left: %w", length, len(b), unix.EBADMSG)
		}
		h := NextHop{Link: int(binary.NativeEndian.Uint32(b[4:])), OnLink: b[2]&unix.RTNH_F_ONLINK != 0, Weight: weightOf(int(b[3]) + 1)}
		err := eachAttribute(b[unix.SizeofRtNexthop:length], func(kind uint16, value []byte) (err error) {
			if kind == unix.RTA_GATEWAY {
				h.Gateway, err = address(value)
			}
			return err
		})
		if err != nil {
			return NextHops{}, err
		}
		hops = append(hops, h)
		b = b[min(align(length), len(b)):]
	}
	return NewNextHops(hops...), nil
}

// weightOf is a weight in its normal form.
func weightOf(n int) int {
	if n <= 1 {
		return 0
	}
	return n
}

// NextHopObject is a next hop of the kernel's with a number, or a group of such, that
// routes refer to: what it says changes for all of them at once. Linux has them since 5.3.
//
// When a link goes down the kernel removes the next hops over it, takes them out of their
// groups, and removes a group that is empty with all its routes.
type NextHopObject struct {
	ID       int
	Protocol Protocol // who made it
	NextHop  NextHop  // of one that is no group
	// Group are the members of a group, by number; nil for one that is none.
	Group []GroupMember
}

// GroupMember is a next hop in a group.
type GroupMember struct {
	ID     int
	Weight int // as of [NextHop]
}

// Normal is the one form that the kernel gives back.
func (o NextHopObject) Normal() NextHopObject {
	if len(o.Group) == 0 {
		o.Group, o.NextHop.Weight = nil, 0
		o.NextHop.Gateway = o.NextHop.Gateway.Unmap().WithZone("")
		return o
	}
	o.NextHop, o.Group = NextHop{}, slices.Clone(o.Group)
	for i := range o.Group {
		o.Group[i].Weight = weightOf(o.Group[i].Weight)
	}
	slices.SortFunc(o.Group, func(a, b GroupMember) int { return cmp.Compare(a.ID, b.ID) })
	return o
}

// Equal reports whether two are the same in their normal form.
func (o NextHopObject) Equal(p NextHopObject) bool {
	return o.ID == p.ID && o.Protocol == p.Protocol && o.NextHop == p.NextHop && slices.Equal(o.Group, p.Group)
}

// String is the object as ip(8) would print it.
func (o NextHopObject) String() string {
	what := o.NextHop.String()
	if len(o.Group) > 0 {
		members := make([]string, 0, len(o.Group))
		for _, m := range o.Group {
			members = append(members, m.String())
		}
		what = "group " + strings.Join(members, "/")
	}
	return fmt.Sprintf("id %d %s proto %d", o.ID, what, o.Protocol)
}

// String is "7", or "7,2" with a weight of 2.
func (m GroupMember) String() string {
	if m.Weight > 1 {
		return fmt.Sprintf("%d,%d", m.ID, m.Weight)
	}
	return strconv.Itoa(m.ID)
}

// Constants of linux/nexthop.h.
const (
	sizeofNhMsg = 8

	nhaID      = 1
	nhaGroup   = 2
	nhaOIF     = 5
	nhaGateway = 6

	sizeofNextHopGroup = 8
)

// NextHopChange is one operation on a next-hop object, for [Handle.Apply]. [Delete] goes
// by the number alone, and takes the routes that refer to the object along.
type NextHopChange struct {
	Op     RouteOp
	Object NextHopObject
}

// Subject implements [Change].
func (c NextHopChange) Subject() (op, object string) {
	verb, _, _ := strings.Cut(c.Op.String(), " ")
	return verb + " next-hop object", c.Object.String()
}

// Validate says why a change cannot be asked of the kernel.
func (c NextHopChange) Validate() error {
	o := c.Object.Normal()
	switch {
	case o.ID <= 0:
		return fmt.Errorf("no number: %w", ErrInvalid)
	case c.Op == Delete:
		return nil
	case c.Op != Add && c.Op != Replace:
		return fmt.Errorf("unknown operation: %w", ErrInvalid)
	case o.Protocol == 0:
		return fmt.Errorf("no protocol, so nobody would own it: %w", ErrInvalid)
	case o.Group == nil && (o.NextHop.Link == 0 || !o.NextHop.Gateway.IsValid()):
		return fmt.Errorf("no link or no gateway: %w", ErrInvalid)
	}
	return nil
}

func (c NextHopChange) encode() (request, error) {
	if err := c.Validate(); err != nil {
		return request{}, err
	}
	o := c.Object.Normal()
	req := request{kind: unix.RTM_NEWNEXTHOP, flags: c.Op.flags(), header: make([]byte, sizeofNhMsg)}
	var a attributes
	a.uint32(nhaID, uint32(o.ID))
	if c.Op == Delete {
		req.kind, req.attrs = unix.RTM_DELNEXTHOP, a
		return req, nil
	}
	req.header[2] = byte(o.Protocol)
	if o.Group != nil {
		var members []byte
		for _, m := range o.Group {
			members = binary.NativeEndian.AppendUint32(members, uint32(m.ID))
			members = append(members, byte(max(m.Weight, 1)-1), 0, 0, 0)
		}
		a.bytes(nhaGroup, members)
	} else {
		req.header[0] = byte(FamilyOf(o.NextHop.Gateway))
		if o.NextHop.OnLink {
			binary.NativeEndian.PutUint32(req.header[4:], unix.RTNH_F_ONLINK)
		}
		a.uint32(nhaOIF, uint32(o.NextHop.Link))
		a.bytes(nhaGateway, o.NextHop.Gateway.AsSlice())
	}
	req.attrs = a
	return req, nil
}

// NextHopObjects reads those that a protocol has made, in their Normal form; 0 for all. A kernel without
// such objects is ErrNotSupported.
func (h *Handle) NextHopObjects(ctx context.Context, protocol Protocol) ([]NextHopObject, error) {
	objects, err := dump(ctx, h, request{kind: unix.RTM_GETNEXTHOP, header: make([]byte, sizeofNhMsg)}, unix.RTM_NEWNEXTHOP,
		func(msg []byte) (NextHopObject, bool, error) {
			o, err := decodeNextHop(msg)
			return o, protocol == 0 || o.Protocol == protocol, err
		})
	return objects, NewError("read next-hop objects", "", err)
}

func decodeNextHop(msg []byte) (o NextHopObject, err error) {
	if len(msg) < sizeofNhMsg {
		return o, fmt.Errorf("next-hop message of %d bytes: %w", len(msg), unix.EBADMSG)
	}
	o.Protocol = Protocol(msg[2])
	o.NextHop.OnLink = binary.NativeEndian.Uint32(msg[4:])&unix.RTNH_F_ONLINK != 0
	err = eachAttribute(msg[sizeofNhMsg:], func(kind uint16, value []byte) (err error) {
		var n uint32
		switch kind {
		case nhaID:
			n, err = number(value)
			o.ID = int(n)
		case nhaOIF:
			n, err = number(value)
			o.NextHop.Link = int(n)
		case nhaGateway:
			o.NextHop.Gateway, err = address(value)
		case nhaGroup:
			for m := range slices.Chunk(value, sizeofNextHopGroup) {
				if len(m) == sizeofNextHopGroup {
					o.Group = append(o.Group, GroupMember{ID: int(binary.NativeEndian.Uint32(m)), Weight: int(m[4]) + 1})
				}
			}
		}
		return err
	})
	return o.Normal(), err
}
