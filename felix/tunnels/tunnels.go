// Package tunnels is all of a node's devices of overlays as one.
package tunnels

import (
	"context"
	"errors"
	"net/netip"

	"tortie/felix/calc"
	"tortie/felix/ipip"
	"tortie/felix/vxlan"
	"tortie/felix/wireguard"
	"tortie/internal/kernel"
	"tortie/internal/overlay"
)

// Set is the devices; all of them are required.
type Set struct {
	VXLAN     *vxlan.Tunnels
	IPIP      *ipip.Tunnel
	WireGuard *wireguard.Tunnels
}

// Desire makes what a State says of them desired.
func (s Set) Desire(state calc.State) {
	s.VXLAN.Set(state.Tunnels)
	s.IPIP.Set(state.IPIP)
	s.WireGuard.Set(state.Secure)
}

// Prepare makes the device of an end that is about to be published; see
// [vxlan.Tunnels.Prepare].
func (s Set) Prepare(ctx context.Context, by overlay.Carrier, end overlay.End) error {
	switch by {
	case overlay.IPIP:
		return s.IPIP.Prepare(ctx, end.IPIP.Tunnel)
	case overlay.WireGuard:
		return s.WireGuard.Prepare(ctx, end.Secure.Tunnel)
	}
	return s.VXLAN.Prepare(ctx, end)
}

// Forget undoes a Prepare, as of the next Apply.
func (s Set) Forget(by overlay.Carrier, v6 bool) {
	switch by {
	case overlay.IPIP:
		s.IPIP.Forget()
	case overlay.WireGuard:
		s.WireGuard.Forget(v6)
	default:
		s.VXLAN.Forget(v6)
	}
}

// Apply makes the kernel as desired. What fails with one holds up no other.
func (s Set) Apply(ctx context.Context) error {
	return errors.Join(s.VXLAN.Apply(ctx), s.IPIP.Apply(ctx), s.WireGuard.Apply(ctx))
}

// Link is the device of a carrier for addresses of a version of IP, and false when there
// is none that packets could go through.
func (s Set) Link(by overlay.Carrier, v6 bool) (int, bool) {
	switch {
	case by == overlay.VXLAN:
		return s.VXLAN.Link(v6)
	case by == overlay.IPIP && !v6:
		return s.IPIP.Link()
	case by == overlay.WireGuard:
		return s.WireGuard.Link(v6)
	}
	return 0, false
}

// Failed is why there is no device of a pool's encapsulation though there should be.
func (s Set) Failed(by overlay.Carrier, v6 bool) error {
	switch by {
	case overlay.VXLAN:
		return s.VXLAN.Failed(v6)
	case overlay.IPIP:
		return s.IPIP.Failed()
	}
	return nil
}

// Unready are destinations that are better reached by another way, for a moment; see
// [wireguard.Tunnels.Unready].
func (s Set) Unready() map[netip.Prefix]bool { return s.WireGuard.Unready() }

// Owns reports whether a link is one of them.
func (s Set) Owns(l kernel.Link) bool {
	return vxlan.Owns(l.Name) || ipip.Owns(l) || s.WireGuard.Owns(l)
}
