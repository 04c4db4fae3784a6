package fib

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"tortie/internal/kernel"
)

// via is how a next hop is reached: over a link, directly or by a gateway.
type via struct {
	link    int
	gateway netip.Addr
	onLink  bool
}

// Resolver finds the way to next hops over a picture of the kernel's routes. It
// is pure and immutable.
type Resolver struct {
	table bart.Table[kernel.Route]
	own   map[netip.Addr]bool
	links map[int]kernel.Link
}

// NewResolver makes one of the main table's routes. Routes of protocol 81 count
// for nothing: a learned route must not carry the next hop of another, or the
// two could hold up one another after both are gone. Routes over a link that is
// switched off don't count either.
func NewResolver(routes []kernel.Route, links []kernel.Link, addresses []netip.Addr) *Resolver {
	r := &Resolver{own: map[netip.Addr]bool{}, links: map[int]kernel.Link{}}
	for _, a := range addresses {
		r.own[a] = true
	}
	for _, l := range links {
		r.links[l.Index] = l
	}
	for _, route := range routes {
		if route.Protocol == kernel.ProtocolBGP || route.Link != 0 && !r.links[route.Link].Up {
			continue
		}
		// Of several to one destination the kernel uses that of the least metric.
		if old, ok := r.table.Get(route.Dst); ok && old.Priority <= route.Priority {
			continue
		}
		r.table.Insert(route.Dst, route)
	}
	return r
}

// resolve returns the way to a next hop, or why there is none. A zone of a
// link-local next hop names its link.
func (r *Resolver) resolve(nextHop netip.Addr) (v via, unreachable string) {
	if r.own[nextHop.WithZone("")] {
		return via{}, fmt.Sprintf("next hop %s is an address of this node", nextHop)
	}
	if nextHop.IsLinkLocalUnicast() && nextHop.Is6() {
		return r.resolveLinkLocal(nextHop)
	}
	route, ok := r.table.Lookup(nextHop)
	if !ok {
		return via{}, fmt.Sprintf("next hop %s is unreachable: no route to it", nextHop)
	}
	switch {
	case route.Type != kernel.RouteUnicast:
		return via{}, fmt.Sprintf("next hop %s is unreachable: the way to it is %s", nextHop, route)
	case route.Link == 0:
		return via{}, fmt.Sprintf("next hop %s is unreachable: the route to it, %s, has several next hops", nextHop, route.Dst)
	case !route.Gateway.IsValid():
		return via{link: route.Link, gateway: nextHop}, ""
	}
	return via{link: route.Link, gateway: route.Gateway, onLink: route.OnLink}, ""
}

func (r *Resolver) resolveLinkLocal(nextHop netip.Addr) (via, string) {
	for _, l := range r.links {
		if l.Name == nextHop.Zone() && l.Up {
			return via{link: l.Index, gateway: nextHop.WithZone("")}, ""
		}
	}
	return via{}, fmt.Sprintf("next hop %s is unreachable: it is link-local and its link is not known or down", nextHop)
}

// describe is the way in words, without the gateway's part when there is none.
func (r *Resolver) describe(v via) string {
	return fmt.Sprintf("via %s dev %s", v.gateway, r.linkName(v.link))
}

func (r *Resolver) linkName(index int) string {
	if l, ok := r.links[index]; ok {
		return l.Name
	}
	return fmt.Sprintf("if%d", index)
}

// picture is what was read of the kernel; equal pictures resolve equally.
type picture struct {
	routes    []kernel.Route
	links     []kernel.Link
	addresses []kernel.Address
	felix     map[netip.Prefix]kernel.Route // of routes, those that lead to other nodes
}

func (p picture) equal(q picture) bool {
	return slices.Equal(p.routes, q.routes) && slices.Equal(p.links, q.links) && slices.Equal(p.addresses, q.addresses)
}
