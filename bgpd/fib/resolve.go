package fib

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"tortie/internal/kernel"
)

// way is how a next hop is reached: over a link, directly or by a gateway, or several
// of such. It is unreachable, with the reason, or has hops, and words for each.
type way struct {
	hops        []kernel.NextHop
	words       []string
	unreachable string
}

// Resolver finds the way to next hops over a picture of the kernel's routes. It
// is pure; what it has found it remembers.
type Resolver struct {
	found map[netip.Addr]way
	table bart.Table[kernel.Route]
	own   map[netip.Addr]bool
	links map[int]kernel.Link
}

// NewResolver makes one of the main table's routes. Routes of protocol 81 count
// for nothing: a learned route must not carry the next hop of another, or the
// two could hold up one another after both are gone. Routes over a link that is
// switched off don't count either.
func NewResolver(routes []kernel.Route, links []kernel.Link, addresses []netip.Addr) *Resolver {
	r := &Resolver{found: map[netip.Addr]way{}, own: map[netip.Addr]bool{}, links: map[int]kernel.Link{}}
	for _, a := range addresses {
		r.own[a] = true
	}
	for _, l := range links {
		r.links[l.Index] = l
	}
	for _, route := range routes {
		route, ok := r.live(route)
		if !ok || route.Protocol == kernel.ProtocolBGP {
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

// live is a route without the next hops over links that are switched off; it is not ok
// when none is left.
func (r *Resolver) live(route kernel.Route) (kernel.Route, bool) {
	hops := route.NextHops.All()
	left := slices.DeleteFunc(slices.Clone(hops), func(h kernel.NextHop) bool { return !r.links[h.Link].Up })
	switch {
	case len(left) < len(hops):
		route.NextHops = kernel.NewNextHops(left...)
		return route.Normal(), len(left) > 0
	case route.Link != 0:
		return route, r.links[route.Link].Up
	}
	return route, true
}

// resolve returns the way to a next hop. A zone of a link-local next hop names its link.
func (r *Resolver) resolve(nextHop netip.Addr) way {
	w, ok := r.found[nextHop]
	if ok {
		return w
	}
	w.hops, w.unreachable = r.find(nextHop)
	for _, h := range w.hops {
		w.words = append(w.words, r.describe(h))
	}
	r.found[nextHop] = w
	return w
}

func (r *Resolver) find(nextHop netip.Addr) (hops []kernel.NextHop, unreachable string) {
	if r.own[nextHop.WithZone("")] {
		return nil, fmt.Sprintf("next hop %s is an address of this node", nextHop)
	}
	if nextHop.IsLinkLocalUnicast() && nextHop.Is6() {
		return r.findLinkLocal(nextHop)
	}
	route, ok := r.table.Lookup(nextHop)
	if !ok {
		return nil, fmt.Sprintf("next hop %s is unreachable: no route to it", nextHop)
	}
	if route.Type != kernel.RouteUnicast {
		return nil, fmt.Sprintf("next hop %s is unreachable: the way to it is %s", nextHop, route)
	}
	hops = route.NextHops.All()
	if route.Link != 0 {
		hops = []kernel.NextHop{{Link: route.Link, Gateway: route.Gateway, OnLink: route.OnLink}}
	}
	if len(hops) == 0 {
		return nil, fmt.Sprintf("next hop %s is unreachable: the route to it, %s, names no next hop", nextHop, route.Dst)
	}
	for i := range hops {
		if !hops[i].Gateway.IsValid() {
			hops[i].Gateway = nextHop
		}
	}
	return hops, ""
}

func (r *Resolver) findLinkLocal(nextHop netip.Addr) ([]kernel.NextHop, string) {
	for _, l := range r.links {
		if l.Name == nextHop.Zone() && l.Up {
			return []kernel.NextHop{{Link: l.Index, Gateway: nextHop.WithZone("")}}, ""
		}
	}
	return nil, fmt.Sprintf("next hop %s is unreachable: it is link-local and its link is not known or down", nextHop)
}

// describe is a next hop in words.
func (r *Resolver) describe(h kernel.NextHop) string {
	s := "dev " + r.linkName(h.Link)
	if h.Gateway.IsValid() { // WireGuard's device needs none
		s = fmt.Sprintf("via %s %s", h.Gateway, s)
	}
	if h.Weight > 1 {
		s += fmt.Sprintf(" weight %d", h.Weight)
	}
	return s
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
