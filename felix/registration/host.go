package registration

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"tortie/felix/autodetect"
	"tortie/felix/calc"
	"tortie/internal/kernel"
)

// host reads what the node looks like, as far as the settings ask for it.
func (r *Registrar) host(ctx context.Context) (autodetect.Host, error) {
	var h autodetect.Host
	links, err := r.cfg.Kernel.Links()
	if err != nil {
		return h, err
	}
	addrs, err := r.cfg.Kernel.Addresses(0)
	if err != nil {
		return h, err
	}
	routes, err := r.cfg.Kernel.Routes(ctx, kernel.RouteFilter{})
	if err != nil {
		return h, err
	}
	h.Devices = devices(links, addrs, routes)
	h.Source = func(destination string, ipv6 bool) (netip.Addr, error) { return r.cfg.Source(ctx, destination, ipv6) }
	if r.uses(autodetect.InternalIP) && r.cfg.InternalIPs != nil {
		if h.InternalIPs, err = r.cfg.InternalIPs(ctx); err != nil {
			return h, fmt.Errorf("read the node's InternalIP: %w", err)
		}
	}
	return h, nil
}

// uses reports whether a family is detected by that kind of method.
func (r *Registrar) uses(kind autodetect.Kind) bool {
	s := r.cfg.Settings
	return s.IPv4.Method.Kind == kind || s.IPv6.Method.Kind == kind
}

func devices(links []kernel.Link, addrs []kernel.Address, routes []kernel.Route) []autodetect.Device {
	slices.SortFunc(links, func(a, b kernel.Link) int { return a.Index - b.Index })
	out := make([]autodetect.Device, 0, len(links))
	for _, l := range links {
		d := autodetect.Device{Name: l.Name, Kind: l.Kind, Up: l.Up}
		for _, a := range addrs {
			if a.Link == l.Index {
				d.Addrs = append(d.Addrs, a.Prefix)
			}
		}
		d.Default = slices.ContainsFunc(routes, func(rt kernel.Route) bool {
			return rt.Link == l.Index && rt.Dst.Bits() == 0 && rt.Type == kernel.RouteUnicast
		})
		out = append(out, d)
	}
	return out
}

// ownDevices leaves out those of pods.
func ownDevices(all []autodetect.Device) []autodetect.Device {
	out := make([]autodetect.Device, 0, len(all))
	for _, d := range all {
		if !strings.HasPrefix(d.Name, calc.InterfacePrefix) {
			out = append(out, d)
		}
	}
	return out
}

// sourceAddress asks the resolver for a host and the kernel for the way to it; no
// packet is sent.
func sourceAddress(ctx context.Context, host string, ipv6 bool) (netip.Addr, error) {
	network := "ip4"
	if ipv6 {
		network = "ip6"
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look up %s: %w", host, err)
	}
	const discard = "9" // any port will do
	conn, err := (&net.Dialer{}).DialContext(ctx, strings.Replace(network, "ip", "udp", 1), net.JoinHostPort(found[0].String(), discard))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the way to %s: %w", host, err)
	}
	defer func() { _ = conn.Close() }()
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	return local.Addr(), err
}
