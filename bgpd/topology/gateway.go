package topology

import (
	"fmt"
	"net/netip"
)

// gateway reads by which address a peer is to be reached; invalid for none said.
func gateway(reachableBy string, peer netip.Addr) (netip.Addr, error) {
	if reachableBy == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(reachableBy)
	if err == nil {
		a, _, err = usable(a, 0)
	}
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("spec.reachableBy %q is not the address of a router", reachableBy)
	case a.Is4() != peer.Is4():
		return netip.Addr{}, fmt.Errorf("spec.reachableBy %s is not of the family of spec.peerIP %s", a, peer)
	case a == peer:
		return netip.Addr{}, fmt.Errorf("spec.reachableBy %s is the peer itself: leave it out, or name the router on the way", a)
	}
	return a, nil
}
