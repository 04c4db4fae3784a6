// Package tunneladdr reconciles the address of a tunnel's device.
package tunneladdr

import (
	"errors"
	"net/netip"

	"tortie/internal/kernel"
)

// Dropper takes addresses away.
type Dropper interface {
	DeleteAddress(link int, prefix netip.Prefix) error
}

// Kernel is what Ensure sees of the node; *kernel.Handle has it all.
type Kernel interface {
	Dropper
	Addresses(link int) ([]kernel.Address, error)
	Apply(changes ...kernel.Change) []error
}

// Ensure gives the device its one address before it takes another away, but leaves those
// of the link alone. The routes into the tunnel name it as their source. An IPv6 one is
// deprecated, or it would be the source of packets to this node's own pods, too, which
// have an address like it. A device that is up is taken to have its address when that
// can't be read. did is told what is changed.
func Ensure(k Kernel, link kernel.Link, tunnel netip.Addr, did func(format string, args ...any)) (there bool, err error) {
	want := netip.PrefixFrom(tunnel, tunnel.BitLen())
	have, err := k.Addresses(link.Index)
	if err != nil {
		return link.Up, err
	}
	right := false
	for _, a := range have {
		if a.Prefix == want {
			there, right = true, a.Deprecated == tunnel.Is6()
		}
	}
	if !right {
		did("address %s", want)
		if err := errors.Join(k.Apply(kernel.LinkAddress{Link: link.Index, Prefix: want, Deprecated: tunnel.Is6()})...); err != nil {
			return there, err
		}
	}
	return true, Drop(k, link.Index, have, want, did)
}

// Drop takes away all addresses but one, and those of the link.
func Drop(k Dropper, link int, have []kernel.Address, but netip.Prefix, did func(format string, args ...any)) (err error) {
	for _, a := range have {
		if a.Prefix == but || a.Prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		did("no address %s", a.Prefix)
		err = errors.Join(err, k.DeleteAddress(link, a.Prefix))
	}
	return err
}
