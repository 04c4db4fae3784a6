package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// buildUnderlay wires the namespaces: in the router's, one bridge per segment; a
// veth from it into each host. Holders have the namespaces of the hosts by name.
func buildUnderlay(t Topology, router Process, holders map[string]Process) error {
	if err := inNetns(router.Netns(), func() error { return configureRouter(t) }); err != nil {
		return fmt.Errorf("router: %w", err)
	}
	hosts := append([]Host{t.Etcd, t.Outside}, t.Nodes...)
	for _, h := range hosts {
		holder := holders[h.Name]
		if err := inNetns(router.Netns(), func() error { return plug(h, holder) }); err != nil {
			return fmt.Errorf("connect %s: %w", h.Name, err)
		}
		if err := inNetns(holder.Netns(), func() error { return configureHost(h, t.Segment(h.Segment)) }); err != nil {
			return fmt.Errorf("configure %s: %w", h.Name, err)
		}
	}
	return nil
}

func configureRouter(t Topology) error {
	if err := errors.Join(
		sysctl("net/ipv4/ip_forward", "1"),
		sysctl("net/ipv6/conf/all/forwarding", "1"),
		linkUp("lo"),
	); err != nil {
		return err
	}
	for _, s := range t.Segments {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: s.Name}}
		if err := netlink.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge %s: %w", s.Name, err)
		}
		if err := errors.Join(addAddrs(br, host(routerName, s, routerHost)), netlink.LinkSetUp(br)); err != nil {
			return fmt.Errorf("bridge %s: %w", s.Name, err)
		}
	}
	return nil
}

// plug makes the host's eth0 with its other end on the segment's bridge. It runs
// in the router's namespace.
func plug(h Host, holder Process) error {
	fd, err := unix.Open(holder.Netns(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	br, err := netlink.LinkByName(h.Segment)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", h.Segment, err)
	}
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: "to-" + h.Name, MasterIndex: br.Attrs().Index, Flags: net.FlagUp},
		PeerName:      "eth0",
		PeerNamespace: netlink.NsFd(fd),
	}
	return netlink.LinkAdd(veth)
}

func configureHost(h Host, s Segment) error {
	if err := linkUp("lo"); err != nil {
		return err
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := errors.Join(addAddrs(link, h), netlink.LinkSetUp(link)); err != nil {
		return err
	}
	for _, gw := range s.routers() {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IP(gw.AsSlice()), Protocol: unix.RTPROT_STATIC}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("default route via %s: %w", gw, err)
		}
	}
	return nil
}

// addAddrs gives a link the addresses of a host.
func addAddrs(link netlink.Link, h Host) error {
	var errs []error
	for _, a := range h.Addresses() {
		errs = append(errs, addAddr(link, a))
	}
	return errors.Join(errs...)
}

// addAddr gives a link an address; an IPv6 one is usable at once, without duplicate
// address detection.
func addAddr(link netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: &net.IPNet{
		IP:   net.IP(p.Addr().AsSlice()),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(link, a); err != nil {
		return fmt.Errorf("add address %s: %w", p, err)
	}
	return nil
}

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func sysctl(path, value string) error {
	return os.WriteFile("/proc/sys/"+path, []byte(value), 0o644)
}
