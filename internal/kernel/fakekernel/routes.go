package fakekernel

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"tortie/internal/kernel"
)

// place is what the kernel tells routes apart by: there is one route in it.
type place struct {
	dst      netip.Prefix
	table    int
	priority int
}

func placeOf(r kernel.Route) place { return place{r.Dst, r.Table, r.Priority} }

func (k *Kernel) find(p place) int {
	return slices.IndexFunc(k.routes, func(r kernel.Route) bool { return placeOf(r) == p })
}

// Routes is [kernel.Handle.Routes].
func (k *Kernel) Routes(ctx context.Context, f kernel.RouteFilter) (routes []kernel.Route, err error) {
	if f.Table == 0 {
		f.Table = kernel.TableMain
	}
	err = k.do("read routes", fmt.Sprintf("table %d", f.Table), func() error {
		for _, r := range k.routes {
			if r.Table == f.Table && (f.Protocol == 0 || r.Protocol == f.Protocol) &&
				(f.Family == 0 || f.Family == kernel.FamilyOf(r.Dst.Addr())) {
				routes = append(routes, k.shown(r))
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	return routes, nil
}

// ChangeRoutes is [kernel.Handle.ChangeRoutes].
func (k *Kernel) ChangeRoutes(changes []kernel.RouteChange) []error {
	errs := make([]error, 0, len(changes))
	for _, c := range changes {
		switch c.Op {
		case kernel.Add:
			errs = append(errs, k.AddRoute(c.Route))
		case kernel.Replace:
			errs = append(errs, k.ReplaceRoute(c.Route))
		case kernel.Delete:
			errs = append(errs, k.DeleteRoute(c.Route))
		default:
			errs = append(errs, kernel.NewError(c.Op.String(), c.Route.String(), kernel.ErrInvalid))
		}
	}
	return errs
}

// AddRoute is [kernel.Handle.AddRoute].
func (k *Kernel) AddRoute(r kernel.Route) error {
	return k.do("add route", r.String(), func() error {
		if err := k.checkRoute(r); err != nil {
			return err
		}
		if k.find(placeOf(r.Normal())) >= 0 {
			return unix.EEXIST
		}
		k.put(r.Normal())
		return nil
	})
}

// ReplaceRoute is [kernel.Handle.ReplaceRoute].
func (k *Kernel) ReplaceRoute(r kernel.Route) error {
	return k.do("replace route", r.String(), func() error {
		if err := k.checkRoute(r); err != nil {
			return err
		}
		k.put(r.Normal())
		return nil
	})
}

// put writes a route in its normal form into its place.
func (k *Kernel) put(r kernel.Route) {
	if i := k.find(placeOf(r)); i >= 0 {
		k.routes[i] = r
	} else {
		k.routes = append(k.routes, r)
	}
	k.tell(kernel.RouteEvents, kernel.RouteEvent{Route: k.shown(r)})
}

// DeleteRoute is [kernel.Handle.DeleteRoute].
func (k *Kernel) DeleteRoute(r kernel.Route) error {
	r = r.Normal().ByObject()
	return k.do("delete route", r.String(), func() error {
		if !r.Dst.IsValid() || r.Protocol == 0 {
			return kernel.ErrInvalid
		}
		// Of several that match, the kernel takes the one of the lowest metric.
		lowest := -1
		for _, there := range k.routes {
			if matches(there, r) && (lowest < 0 || there.Priority < lowest) {
				lowest = there.Priority
			}
		}
		k.dropRoutes(func(there kernel.Route) bool { return matches(there, r) && there.Priority == lowest })
		return nil
	})
}

// matches: to the kernel an IPv4 metric of 0 in a deletion means any.
func matches(there, asked kernel.Route) bool {
	if asked.Priority == 0 && kernel.FamilyOf(asked.Dst.Addr()) == kernel.IPv4 {
		there.Priority = 0
	}
	return there == asked
}

func (k *Kernel) dropRoutes(drop func(kernel.Route) bool) {
	k.routes = slices.DeleteFunc(k.routes, func(r kernel.Route) bool {
		gone := drop(r)
		if gone {
			k.tell(kernel.RouteEvents, kernel.RouteEvent{Route: k.shown(r), Gone: true})
		}
		return gone
	})
}

// checkRoute refuses what the kernel would.
func (k *Kernel) checkRoute(r kernel.Route) error {
	if err := r.Validate(); err != nil {
		return err
	}
	r = r.Normal()
	if r.NextHopID != 0 {
		if _, ok := k.nextHops[r.NextHopID]; !ok {
			return unix.EINVAL
		}
	}
	for _, h := range r.NextHops.All() {
		one := r
		one.NextHops, one.Link, one.Gateway, one.OnLink = kernel.NextHops{}, h.Link, h.Gateway, h.OnLink
		if err := k.checkRoute(one); err != nil {
			return err
		}
	}
	if r.Link != 0 {
		l := k.links[r.Link]
		switch {
		case l == nil:
			return unix.ENODEV
		case !l.Up:
			return unix.ENETDOWN
		}
	}
	if r.Src.IsValid() && !slices.ContainsFunc(k.addrs, func(a kernel.Address) bool { return a.Prefix.Addr() == r.Src }) {
		return unix.EINVAL
	}
	if r.Gateway.IsValid() && !r.OnLink && !k.reachable(r) {
		if kernel.FamilyOf(r.Gateway) == kernel.IPv6 {
			return unix.EHOSTUNREACH
		}
		return unix.ENETUNREACH
	}
	return nil
}

// reachable: a route of the same link leads to the gateway directly. IPv6
// link-local gateways need none; IPv4 wants that route to be of link scope.
func (k *Kernel) reachable(r kernel.Route) bool {
	if kernel.FamilyOf(r.Gateway) == kernel.IPv6 && r.Gateway.IsLinkLocalUnicast() {
		return true
	}
	return slices.ContainsFunc(k.routes, func(c kernel.Route) bool {
		return c.Link == r.Link && c.Type == kernel.RouteUnicast && !c.Gateway.IsValid() &&
			c.Dst.Contains(r.Gateway) && (c.Scope > r.Scope || kernel.FamilyOf(r.Gateway) == kernel.IPv6)
	})
}

// ipv6ConnectedMetric is the metric the kernel gives the route of an IPv6
// address.
const ipv6ConnectedMetric = 256

// addConnected writes the route that comes with an address.
func (k *Kernel) addConnected(a kernel.Address) {
	l := k.links[a.Link]
	if !l.Up {
		return
	}
	r := kernel.Route{
		Dst: a.Prefix.Masked(), Table: kernel.TableMain, Protocol: kernel.ProtocolKernel,
		Type: kernel.RouteUnicast, Link: a.Link,
	}
	if kernel.FamilyOf(a.Prefix.Addr()) == kernel.IPv6 {
		r.Priority = ipv6ConnectedMetric
	} else {
		if a.Prefix.IsSingleIP() {
			return // only in the local table
		}
		r.Scope, r.Src = kernel.ScopeLink, a.Prefix.Addr()
	}
	if k.find(placeOf(r)) < 0 {
		k.put(r)
	}
}

// Addresses is [kernel.Handle.Addresses].
func (k *Kernel) Addresses(link int) (addrs []kernel.Address, err error) {
	err = k.do("read addresses of link", strconv.Itoa(link), func() error {
		if link != 0 && k.links[link] == nil {
			return unix.ENODEV
		}
		for _, a := range k.addrs {
			if link == 0 || a.Link == link {
				addrs = append(addrs, a)
			}
		}
		return nil
	})
	return addrs, err
}

// AddAddress is [kernel.Handle.AddAddress].
func (k *Kernel) AddAddress(link int, prefix netip.Prefix) error {
	return k.addAddress(kernel.LinkAddress{Link: link, Prefix: prefix})
}

func (k *Kernel) addAddress(c kernel.LinkAddress) error {
	return k.do("add address", fmt.Sprintf("%s to link %d", c.Prefix, c.Link), func() error {
		if k.links[c.Link] == nil {
			return unix.ENODEV
		}
		a := kernel.Address{Link: c.Link, Prefix: c.Prefix, Deprecated: c.Deprecated && c.Prefix.Addr().Is6()}
		switch {
		case c.Deprecated && c.Prefix.Addr().Is4():
			a.Scope = kernel.ScopeHost
		case c.Prefix.Addr().IsLinkLocalUnicast():
			a.Scope = kernel.ScopeLink
		}
		for i, have := range k.addrs {
			if have.Link == a.Link && have.Prefix == a.Prefix {
				k.addrs[i] = a
				return nil
			}
		}
		k.addrs = append(k.addrs, a)
		k.tell(kernel.AddressEvents, kernel.AddressEvent{Address: a})
		k.addConnected(a)
		return nil
	})
}

// DeleteAddress is [kernel.Handle.DeleteAddress].
func (k *Kernel) DeleteAddress(link int, prefix netip.Prefix) error {
	return k.do("delete address", fmt.Sprintf("%s of link %d", prefix, link), func() error {
		k.dropAddresses(func(a kernel.Address) bool { return a.Link == link && a.Prefix == prefix })
		return nil
	})
}

// dropAddresses removes addresses with what hangs on them: their connected
// routes and the routes that use them as preferred source.
func (k *Kernel) dropAddresses(drop func(kernel.Address) bool) {
	k.addrs = slices.DeleteFunc(k.addrs, func(a kernel.Address) bool {
		if !drop(a) {
			return false
		}
		k.dropRoutes(func(r kernel.Route) bool {
			return r.Src == a.Prefix.Addr() ||
				r.Protocol == kernel.ProtocolKernel && r.Link == a.Link && r.Dst == a.Prefix.Masked()
		})
		k.tell(kernel.AddressEvents, kernel.AddressEvent{Address: a, Gone: true})
		return true
	})
}

// SetNeighbour is [kernel.Handle.SetNeighbour].
func (k *Kernel) SetNeighbour(n kernel.Neighbour) error {
	return k.do("set neighbour", n.String(), func() error {
		switch l := k.links[n.Link]; {
		case l == nil:
			return unix.ENODEV
		case !l.Up:
			return unix.ENETDOWN
		}
		k.neighs = slices.DeleteFunc(k.neighs, func(o kernel.Neighbour) bool { return o.Link == n.Link && o.IP == n.IP })
		k.neighs = append(k.neighs, n)
		return nil
	})
}

// DeleteNeighbour is [kernel.Handle.DeleteNeighbour].
func (k *Kernel) DeleteNeighbour(link int, ip netip.Addr) error {
	return k.do("delete neighbour", fmt.Sprintf("%s of link %d", ip, link), func() error {
		k.neighs = slices.DeleteFunc(k.neighs, func(o kernel.Neighbour) bool { return o.Link == link && o.IP == ip })
		return nil
	})
}

// Neighbours is [kernel.Handle.Neighbours].
func (k *Kernel) Neighbours(link int) (out []kernel.Neighbour, err error) {
	err = k.do("read neighbours of link", strconv.Itoa(link), func() error {
		for _, n := range k.neighs {
			if n.Link == link {
				out = append(out, n)
			}
		}
		return nil
	})
	return out, err
}
