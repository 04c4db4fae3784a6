package kernel

import (
	"fmt"
	"net/netip"
)

// Protocol is the rtm_protocol of a route: who installed it. See rtnetlink(7).
type Protocol uint8

// The protocols that matter here. Every route we write carries one of ours, so
// that a restarted agent knows its own without memory.
const (
	ProtocolKernel Protocol = 2
	ProtocolBoot   Protocol = 3
	ProtocolStatic Protocol = 4
	// ProtocolFelix marks routes to local workloads, local block blackholes and routes to
	// other nodes that an overlay asks for.
	ProtocolFelix Protocol = 80
	// ProtocolBGP marks routes learned by BGP; bgpd is their only writer.
	ProtocolBGP Protocol = 81
)

// MetricOverlay is that of felix's routes to other nodes: behind those of bgpd, which have
// the kernel's own, so that both can stand there while one takes over from the other.
const MetricOverlay = 2048

// TableMain is the kernel's main routing table.
const TableMain = 254

// RouteType is the rtm_type of a route.
type RouteType uint8

// The route types in use.
const (
	RouteUnicast     RouteType = 1
	RouteLocal       RouteType = 2
	RouteBlackhole   RouteType = 6
	RouteUnreachable RouteType = 7
	RouteProhibit    RouteType = 8
)

// Scope is the rtm_scope of an IPv4 route. It is always universe for IPv6.
type Scope uint8

// The scopes in use.
const (
	ScopeUniverse Scope = 0
	ScopeLink     Scope = 253
	ScopeHost     Scope = 254
)

// Route is one entry of a routing table. It is comparable: two routes are the
// same when they are ==.
type Route struct {
	Dst      netip.Prefix
	Table    int // TableMain unless said otherwise; never 0
	Protocol Protocol
	Type     RouteType
	Scope    Scope
	OnLink   bool       // the gateway is reachable on Link though no route says so
	Link     int        // interface index; 0 where there is none (blackhole)
	Gateway  netip.Addr // invalid for a route without next hop
	Src      netip.Addr // preferred source; invalid for none
	Priority int        // metric; 0 is the kernel's default (1024 for IPv6)
	// NextHops are the next hops of a route that has several, which Link and Gateway
	// then say nothing of.
	NextHops NextHops
	// NextHopID is the kernel's next-hop object that the next hops come from; 0 for
	// none. What is written with one has nothing else of them; what is read has both,
	// see [Route.ByObject].
	NextHopID int
}

// Family says which of the two protocols an address, route or table is of.
type Family int

// The address families, as in socket(2).
const (
	IPv4 Family = 2
	IPv6 Family = 10
)

// FamilyOf is the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() || a.Is4In6() {
		return IPv4
	}
	return IPv6
}

// String is "ipv4" or "ipv6".
func (f Family) String() string {
	if f == IPv4 {
		return "ipv4"
	}
	return "ipv6"
}

// String is the route as ip(8) would print it, less the names of devices.
func (r Route) String() string {
	s := r.Dst.String()
	switch r.Type {
	case RouteUnicast, RouteLocal:
	case RouteBlackhole:
		s = "blackhole " + s
	case RouteUnreachable:
		s = "unreachable " + s
	case RouteProhibit:
		s = "prohibit " + s
	}
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	if r.Link != 0 {
		s += fmt.Sprintf(" dev %d", r.Link)
	}
	if r.NextHopID != 0 {
		s += fmt.Sprintf(" nhid %d", r.NextHopID)
	}
	for _, h := range r.NextHops.All() {
		s += " nexthop " + h.String()
	}
	return s + fmt.Sprintf(" proto %d", r.Protocol)
}
