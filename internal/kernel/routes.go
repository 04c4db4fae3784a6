package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// rtaNextHopID is RTA_NH_ID of linux/rtnetlink.h.
const rtaNextHopID = 0x1e

// ipv6DefaultMetric is what the kernel makes of a metric of 0 for IPv6.
const ipv6DefaultMetric = 1024

// Normal is the one form of a route that the kernel gives back, whatever form it
// was asked for in: a route that was written reads back == to its Normal.
//
//   - no Table is the main table, no Type is unicast;
//   - host bits of Dst are cleared;
//   - the IPv6 metric 1024 is written 0, "the kernel's default";
//   - IPv6 has no scope;
//   - a route that rejects (blackhole, unreachable, prohibit) has no link and no
//     gateway, although the kernel shows IPv6 ones on the loopback;
//   - OnLink means nothing without a gateway;
//   - one of several next hops is no route of several.
func (r Route) Normal() Route {
	r.Dst = normalPrefix(r.Dst)
	r.Gateway = r.Gateway.Unmap().WithZone("")
	r.Src = r.Src.Unmap().WithZone("")
	if r.Table == 0 {
		r.Table = TableMain
	}
	if r.Type == 0 {
		r.Type = RouteUnicast
	}
	if r.rejects() {
		r.Link, r.Gateway, r.NextHops = 0, netip.Addr{}, NextHops{}
	}
	switch r.NextHops.Len() {
	case 0:
	case 1:
		h := r.NextHops.All()[0]
		r.Link, r.Gateway, r.OnLink, r.NextHops = h.Link, h.Gateway, h.OnLink, NextHops{}
	default:
		r.Link, r.Gateway = 0, netip.Addr{}
	}
	if !r.Gateway.IsValid() {
		r.OnLink = false
	}
	if FamilyOf(r.Dst.Addr()) == IPv6 {
		r.Scope = ScopeUniverse
		if r.Priority == ipv6DefaultMetric {
			r.Priority = 0
		}
	}
	return r
}

// ByObject is the route without what it has from its next-hop object, as it is written.
func (r Route) ByObject() Route {
	if r.NextHopID != 0 {
		r.Link, r.Gateway, r.OnLink, r.NextHops = 0, netip.Addr{}, false, NextHops{}
	}
	return r
}

func normalPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

func (r Route) rejects() bool {
	return r.Type == RouteBlackhole || r.Type == RouteUnreachable || r.Type == RouteProhibit
}

// Validate says why a route cannot be written: it would be refused, or would not
// read back as asked.
func (r Route) Validate() error {
	r = r.Normal()
	family := FamilyOf(r.Dst.Addr())
	switch {
	case !r.Dst.IsValid():
		return fmt.Errorf("no destination: %w", ErrInvalid)
	case r.Protocol == 0:
		return fmt.Errorf("no protocol, so nobody would own it: %w", ErrInvalid)
	case !r.rejects() && r.Link == 0 && r.NextHopID == 0 && r.NextHops.Len() == 0:
		return fmt.Errorf("no link: %w", ErrInvalid)
	case r.Gateway.IsValid() && FamilyOf(r.Gateway) != family:
		return fmt.Errorf("gateway %s is of another family: %w", r.Gateway, ErrInvalid)
	case r.Src.IsValid() && FamilyOf(r.Src) != family:
		return fmt.Errorf("source %s is of another family: %w", r.Src, ErrInvalid)
	case r.NextHopID < 0 || r.NextHopID != 0 && r != r.ByObject():
		return fmt.Errorf("next hops beside those of next-hop object %d: %w", r.NextHopID, ErrInvalid)
	case r.Priority < 0:
		return fmt.Errorf("metric %d is negative: %w", r.Priority, ErrInvalid)
	}
	return r.NextHops.validate(family)
}

// RouteFilter says which routes to read. The zero value reads the main table of
// both families.
type RouteFilter struct {
	Family   Family   // 0 for both
	Table    int      // 0 for the main table
	Protocol Protocol // 0 for every protocol
}

// Routes reads routes in their Normal form, the kernel doing the filtering.
// Cached and cloned entries are left out. A table that does not exist is empty.
func (h *Handle) Routes(ctx context.Context, f RouteFilter) ([]Route, error) {
	var out []Route
	for _, family := range []Family{IPv4, IPv6} {
		if f.Family != 0 && f.Family != family {
			continue
		}
		routes, err := h.routesOf(ctx, family, f)
		if err != nil {
			return nil, NewError("read routes", fmt.Sprintf("%s table %d", family, f.table()), err)
		}
		out = append(out, routes...)
	}
	return out, nil
}

func (f RouteFilter) table() int {
	if f.Table == 0 {
		return TableMain
	}
	return f.Table
}

func (h *Handle) routesOf(ctx context.Context, family Family, f RouteFilter) ([]Route, error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0] = byte(family)
	header[5] = byte(f.Protocol)
	var attrs attributes
	attrs.uint32(unix.RTA_TABLE, uint32(f.table()))
	routes, err := dump(ctx, h, request{kind: unix.RTM_GETROUTE, header: header, attrs: attrs}, unix.RTM_NEWROUTE,
		func(msg []byte) (Route, bool, error) {
			r, ok, err := decodeRoute(msg)
			// A kernel without strict checking ignores the filter.
			ok = ok && r.Table == f.table() && (f.Protocol == 0 || r.Protocol == f.Protocol)
			return r, ok, err
		})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return routes, err
}

// routeSize is enough for the message of a route without several next hops, of which a
// hundred thousand may be made.
const routeSize = 96

// encodeRoute makes the message of a route in its Normal form.
func encodeRoute(r Route) (header, attrs []byte) {
	family := FamilyOf(r.Dst.Addr())
	both := make([]byte, unix.SizeofRtMsg, routeSize)
	header = both[:unix.SizeofRtMsg:unix.SizeofRtMsg]
	header[0] = byte(family)
	header[1] = byte(r.Dst.Bits())
	if r.Table < 256 {
		header[4] = byte(r.Table)
	}
	header[5] = byte(r.Protocol)
	header[6] = byte(r.Scope)
	header[7] = byte(r.Type)
	if r.OnLink && r.NextHopID == 0 {
		binary.NativeEndian.PutUint32(header[8:], unix.RTNH_F_ONLINK)
	}

	a := attributes(both[unix.SizeofRtMsg:unix.SizeofRtMsg])
	a.bytes(unix.RTA_DST, r.Dst.Addr().AsSlice())
	a.uint32(unix.RTA_TABLE, uint32(r.Table))
	if r.NextHopID != 0 {
		// The kernel matches a deletion by the object or by link and gateway,
		// never by both.
		a.uint32(rtaNextHopID, uint32(r.NextHopID))
		r = r.ByObject()
	}
	if r.NextHops.Len() > 0 {
		a.bytes(unix.RTA_MULTIPATH, r.NextHops.encode())
	}
	if r.Link != 0 {
		a.uint32(unix.RTA_OIF, uint32(r.Link))
	}
	if r.Gateway.IsValid() {
		a.bytes(unix.RTA_GATEWAY, r.Gateway.AsSlice())
	}
	if r.Src.IsValid() {
		a.bytes(unix.RTA_PREFSRC, r.Src.AsSlice())
	}
	switch {
	case r.Priority != 0:
		a.uint32(unix.RTA_PRIORITY, uint32(r.Priority))
	case family == IPv6:
		// Said aloud, because a deletion without a metric matches any.
		a.uint32(unix.RTA_PRIORITY, ipv6DefaultMetric)
	}
	return header, a
}

// decodeRoute reads a route message. It is not ok for what is no entry of a
// table: a cached or cloned route, or one of another family than IP.
func decodeRoute(msg []byte) (r Route, ok bool, err error) {
	if len(msg) < unix.SizeofRtMsg {
		return Route{}, false, fmt.Errorf("route message of %d bytes: %w", len(msg), unix.EBADMSG)
	}
	family, bits := Family(msg[0]), int(msg[1])
	flags := binary.NativeEndian.Uint32(msg[8:])
	if flags&unix.RTM_F_CLONED != 0 || (family != IPv4 && family != IPv6) {
		return Route{}, false, nil
	}
	r = Route{
		Table: int(msg[4]), Protocol: Protocol(msg[5]), Scope: Scope(msg[6]), Type: RouteType(msg[7]),
		OnLink: flags&unix.RTNH_F_ONLINK != 0,
	}
	dst := netip.IPv4Unspecified()
	if family == IPv6 {
		dst = netip.IPv6Unspecified()
	}
	err = eachAttribute(msg[unix.SizeofRtMsg:], func(kind uint16, value []byte) error {
		return r.decodeAttribute(kind, value, &dst)
	})
	if err != nil {
		return Route{}, false, err
	}
	r.Dst = netip.PrefixFrom(dst, bits)
	return r.Normal(), true, nil
}

func (r *Route) decodeAttribute(kind uint16, value []byte, dst *netip.Addr) (err error) {
	var n uint32
	switch kind {
	case unix.RTA_DST:
		*dst, err = address(value)
	case unix.RTA_GATEWAY:
		r.Gateway, err = address(value)
	case unix.RTA_PREFSRC:
		r.Src, err = address(value)
	case unix.RTA_OIF:
		n, err = number(value)
		r.Link = int(n)
	case unix.RTA_TABLE:
		n, err = number(value)
		r.Table = int(n)
	case unix.RTA_PRIORITY:
		n, err = number(value)
		r.Priority = int(n)
	case unix.RTA_MULTIPATH:
		r.NextHops, err = decodeMultipath(value)
	case rtaNextHopID:
		n, err = number(value)
		r.NextHopID = int(n)
	}
	return err
}

// address reads an IPv4 or IPv6 address; any other length is malformed.
func address(value []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(value)
	if !ok {
		return netip.Addr{}, fmt.Errorf("address of %d bytes: %w", len(value), unix.EBADMSG)
	}
	return a, nil
}
