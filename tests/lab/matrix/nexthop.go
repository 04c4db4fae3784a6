package matrix

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// NextHopIn asks the kernel which next hop is used towards an address in a network
// namespace, given by its file; invalid for none.
func NextHopIn(file string, dst netip.Addr) (netip.Addr, error) {
	ns, err := netns.GetFromPath(file)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("open namespace %s: %w", file, err)
	}
	defer func() { _ = ns.Close() }()
	handle, err := netlink.NewHandleAt(ns)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("route to %s: %w", dst, err)
	}
	defer handle.Close()
	routes, err := handle.RouteGet(net.IP(dst.AsSlice()))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("route to %s: %w", dst, err)
	}
	if len(routes) == 0 {
		return netip.Addr{}, nil
	}
	hop, _ := netip.AddrFromSlice(routes[0].Gw)
	return hop.Unmap(), nil
}
