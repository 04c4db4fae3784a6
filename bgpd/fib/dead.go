package fib

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"tortie/bgpd/speaker"
)

// SetDead says which neighbours are known to be dead, and why. Nothing is routed by
// a next hop that is one of them, whoever announced it; what a dead neighbour has
// announced is for the speaker to take back.
func (f *FIB) SetDead(dead map[netip.Addr]string) {
	if maps.Equal(f.dead, dead) {
		return
	}
	old := f.dead
	f.dead = dead
	changed := func(a netip.Addr) bool { return old[a] != dead[a] }
	for key, g := range f.groups.with(func(m member) bool { return changed(m.nextHop) }) {
		f.settle(key, g)
	}
	for prefix, d := range f.best {
		if changed(d.path.NextHop) || slices.ContainsFunc(d.path.Equals, func(p speaker.Path) bool { return changed(p.NextHop) }) {
			f.decide(prefix)
		}
	}
}

// way is how a next hop is reached; not at all when it is a dead neighbour.
func (f *FIB) way(nextHop netip.Addr) way {
	w := f.resolver.resolve(nextHop)
	if why, dead := f.dead[nextHop]; dead && w.unreachable == "" {
		return way{unreachable: fmt.Sprintf("next hop %s is unreachable: %s", nextHop, why)}
	}
	return w
}

// Neighbour is the link of an address that is on one of the node's segments.
func (f *FIB) Neighbour(a netip.Addr) (link int, ok bool) {
	w := f.resolver.resolve(a)
	if len(w.hops) != 1 || w.hops[0].Gateway != a.WithZone("") {
		return 0, false
	}
	return w.hops[0].Link, true
}
