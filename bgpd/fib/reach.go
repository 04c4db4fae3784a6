package fib

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"tortie/internal/kernel"
)

// reach is the peers that are to be reached by a gateway of their own: a host route to
// each, which carries next hops too, and gives way to nothing that is learned.
type reach struct {
	gateways map[netip.Addr]netip.Addr // by peer
	routes   map[netip.Prefix]kernel.Route
	problems []string
}

// settle finds the link of each gateway, which has to be on a segment of the node's.
func (r *reach) settle(p picture) {
	r.routes, r.problems = map[netip.Prefix]kernel.Route{}, nil
	for _, peer := range slices.SortedFunc(maps.Keys(r.gateways), netip.Addr.Compare) {
		gateway := r.gateways[peer]
		link, why := onSegment(gateway, p)
		if why != "" {
			r.problems = append(r.problems, fmt.Sprintf("peer %s is not reachable by %s: %s", peer, gateway, why))
			continue
		}
		dst := netip.PrefixFrom(peer, peer.BitLen())
		r.routes[dst] = kernel.Route{Dst: dst, Type: kernel.RouteUnicast, Link: link, Gateway: gateway}
	}
}

// onSegment is the link of the segment that an address is on, or why there is none.
func onSegment(gateway netip.Addr, p picture) (link int, why string) {
	up := map[int]bool{}
	for _, l := range p.links {
		up[l.Index] = l.Up
	}
	best, down := -1, false
	for _, a := range p.addresses {
		switch {
		case a.Prefix.Addr() == gateway:
			return 0, "that is an address of this node: set spec.reachableBy to that of the router on the way"
		case a.Prefix.IsSingleIP() || !a.Prefix.Contains(gateway):
		case !up[a.Link]:
			down = true
		case a.Prefix.Bits() > best:
			best, link = a.Prefix.Bits(), a.Link
		}
	}
	switch {
	case best >= 0:
		return link, ""
	case down:
		return 0, "the link to it is down"
	}
	return 0, "it is on none of this node's segments: set spec.reachableBy to a router that is"
}

// Reach tells by which gateway some peers are to be reached.
func (f *FIB) Reach(gateways map[netip.Addr]netip.Addr) {
	if maps.Equal(f.reach.gateways, gateways) {
		return
	}
	before := f.reach.routes
	f.reach.gateways = gateways
	f.resolveBy(f.picture)
	for dst := range before {
		f.decide(dst)
	}
	f.decideAll()
}

// Problems are the peers that can't be reached by the gateway that is said, and the routes
// whose place another program holds.
func (f *FIB) Problems() []string {
	return append(slices.Clone(f.reach.problems), f.displacedProblems()...)
}

// resolveBy takes a picture as that by which next hops are resolved. A peer's gateway
// is among its routes, although it is of protocol 81: it holds up nothing but itself.
func (f *FIB) resolveBy(p picture) {
	f.reach.settle(p)
	routes := f.heeded(p)
	for _, dst := range slices.SortedFunc(maps.Keys(f.reach.routes), comparePrefix) {
		routes = append(routes, f.reach.routes[dst])
	}
	var own []netip.Addr
	for _, a := range p.addresses {
		own = append(own, a.Prefix.Addr())
	}
	f.resolver = NewResolver(routes, p.links, own)
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits())
}

// declared has a route in the kernel if dst is that of a peer with a gateway.
func (f *FIB) declared(dst netip.Prefix) bool {
	route, ok := f.reach.routes[dst]
	if ok {
		f.tables[kernel.FamilyOf(dst.Addr())].Update(route)
	}
	return ok
}

// declaredFate is what becomes of a path to a peer with a gateway: its route is that one.
func (f *FIB) declaredFate(dst netip.Prefix) fate {
	route := f.reach.routes[dst]
	return fate{kernel: f.resolver.describe(kernel.NextHop{Link: route.Link, Gateway: route.Gateway}), gateway: route.Gateway}
}
