package fakekernel

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"tortie/internal/kernel"
)

// WithoutNextHopObjects has the kernel be one that is older than they are.
func (k *Kernel) WithoutNextHopObjects() {
	k.machine.mu.Lock()
	defer k.machine.mu.Unlock()
	k.noNextHops = true
}

// NextHopObjects is [kernel.Handle.NextHopObjects].
func (k *Kernel) NextHopObjects(ctx context.Context, protocol kernel.Protocol) (out []kernel.NextHopObject, err error) {
	err = k.do("read next-hop objects", "", func() error {
		if k.noNextHops {
			return unix.EOPNOTSUPP
		}
		for _, o := range k.nextHops {
			if protocol == 0 || o.Protocol == protocol {
				out = append(out, o.Normal())
			}
		}
		return ctx.Err()
	})
	slices.SortFunc(out, func(a, b kernel.NextHopObject) int { return cmp.Compare(a.ID, b.ID) })
	return out, err
}

func (k *Kernel) changeNextHop(c kernel.NextHopChange) error {
	op, object := c.Subject()
	return k.do(op, object, func() error {
		if k.noNextHops {
			return unix.EOPNOTSUPP
		}
		if err := c.Validate(); err != nil {
			return err
		}
		o := c.Object.Normal()
		old, there := k.nextHops[o.ID]
		switch {
		case c.Op == kernel.Delete:
			k.dropNextHops(func(n kernel.NextHopObject) bool { return n.ID == o.ID })
			return nil
		case c.Op == kernel.Add && there:
			return unix.EEXIST
		case there && (old.Group == nil) != (o.Group == nil):
			return unix.EINVAL
		}
		if err := k.checkNextHop(o); err != nil {
			return err
		}
		k.nextHops[o.ID] = o
		return nil
	})
}

// checkNextHop refuses what the kernel would.
func (k *Kernel) checkNextHop(o kernel.NextHopObject) error {
	for i, m := range o.Group {
		member, ok := k.nextHops[m.ID]
		if !ok || member.Group != nil || i > 0 && o.Group[i-1].ID == m.ID {
			return unix.EINVAL
		}
	}
	if o.Group != nil {
		return nil
	}
	return k.checkRoute(kernel.Route{
		Dst: netip.PrefixFrom(o.NextHop.Gateway, o.NextHop.Gateway.BitLen()), Protocol: o.Protocol,
		Link: o.NextHop.Link, Gateway: o.NextHop.Gateway, OnLink: o.NextHop.OnLink,
	})
}

// dropNextHops removes objects: out of their groups, with the groups that are empty
// then, and with the routes of all of those.
func (k *Kernel) dropNextHops(drop func(kernel.NextHopObject) bool) {
	gone := map[int]bool{}
	for id, o := range k.nextHops {
		if drop(o) {
			gone[id] = true
			delete(k.nextHops, id)
		}
	}
	for id, o := range k.nextHops {
		if o.Group == nil {
			continue
		}
		o.Group = slices.DeleteFunc(slices.Clone(o.Group), func(m kernel.GroupMember) bool { return gone[m.ID] })
		k.nextHops[id] = o
		if len(o.Group) == 0 {
			gone[id] = true
			delete(k.nextHops, id)
		}
	}
	k.dropRoutes(func(r kernel.Route) bool { return gone[r.NextHopID] })
}

// shown is a route with what it has from its next-hop object, as the kernel shows it.
func (k *Kernel) shown(r kernel.Route) kernel.Route {
	o, ok := k.nextHops[r.NextHopID]
	if r.NextHopID == 0 || !ok {
		return r
	}
	hops := []kernel.NextHop{o.NextHop}
	if o.Group != nil {
		hops = nil
	}
	for _, m := range o.Group {
		h := k.nextHops[m.ID].NextHop
		h.Weight = m.Weight
		hops = append(hops, h)
	}
	r.NextHops = kernel.NewNextHops(hops...)
	return r.Normal()
}

// dropRoutesOver removes the routes of a link that goes down, or is gone; of several
// next hops those over the link.
func (k *Kernel) dropRoutesOver(index int) {
	for i, r := range k.routes {
		left := slices.DeleteFunc(r.NextHops.All(), func(h kernel.NextHop) bool { return h.Link == index })
		switch n := r.NextHops.Len(); {
		case n == len(left):
		case len(left) == 0:
			k.routes[i].Link = index // goes with the others
		case kernel.FamilyOf(r.Dst.Addr()) == kernel.IPv6 || k.links[index] == nil:
			// For IPv4 a next hop over a link that is down stays, as a dead one.
			k.routes[i].NextHops = kernel.NewNextHops(left...)
			k.routes[i] = k.routes[i].Normal()
		}
	}
	k.dropRoutes(func(r kernel.Route) bool { return r.Link == index })
	k.dropNextHops(func(o kernel.NextHopObject) bool { return o.Group == nil && o.NextHop.Link == index })
}
