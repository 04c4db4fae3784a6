package fib

import (
	"maps"
	"net/netip"
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
	for prefix, path := range f.best {
		if old[path.NextHop] != dead[path.NextHop] {
			f.decide(prefix)
		}
	}
}

// Neighbour is the link of an address that is on one of the node's segments.
func (f *FIB) Neighbour(a netip.Addr) (link int, ok bool) {
	v, unreachable := f.resolver.resolve(a)
	return v.link, unreachable == "" && v.gateway == a.WithZone("")
}
