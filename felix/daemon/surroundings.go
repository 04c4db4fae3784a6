package daemon

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"tortie/felix/calc"
	"tortie/felix/given"
	"tortie/internal/kernel"
)

// resolvePatience bounds the search for the addresses of etcd's names.
const resolvePatience = 2 * time.Second

// surroundings are what the node knows of itself and its neighbours.
type surroundings struct {
	kernel interface {
		Addresses(link int) ([]kernel.Address, error)
		Routes(context.Context, kernel.RouteFilter) ([]kernel.Route, error)
	}
	etcd    []string // as felix connects to it
	resolve func(ctx context.Context, network, host string) ([]netip.Addr, error)
	desired func() calc.State
}

// now reads them. A name of etcd's that has no address just now keeps nobody waiting: felix
// is connected to it, or there would be no ADD.
func (s surroundings) now(ctx context.Context) (given.Surroundings, error) {
	out := given.Surroundings{Services: s.desired().Services}
	addrs, err := s.kernel.Addresses(0)
	if err != nil {
		return out, err
	}
	for _, a := range addrs {
		out.Own = append(out.Own, a.Prefix)
	}
	routes, err := s.kernel.Routes(ctx, kernel.RouteFilter{})
	if err != nil {
		return out, err
	}
	for _, r := range routes {
		hops := r.NextHops.All()
		if r.Gateway.IsValid() {
			hops = append(hops, kernel.NextHop{Gateway: r.Gateway})
		}
		for _, h := range hops {
			if h.Gateway.IsValid() && !slices.Contains(out.Gateways, h.Gateway) {
				out.Gateways = append(out.Gateways, h.Gateway)
			}
		}
	}
	out.Etcd = s.etcdAddresses(ctx)
	return out, nil
}

func (s surroundings) etcdAddresses(ctx context.Context) (all []netip.Addr) {
	ctx, cancel := context.WithTimeout(ctx, resolvePatience)
	defer cancel()
	for _, endpoint := range s.etcd {
		host := hostOf(endpoint)
		if a, err := netip.ParseAddr(host); err == nil {
			all = append(all, a.Unmap())
			continue
		}
		found, _ := s.resolve(ctx, "ip", host)
		for _, a := range found {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// hostOf is the host of https://host:2379, or of host:2379.
func hostOf(endpoint string) string {
	if u, err := url.Parse(endpoint); err == nil && u.Host != "" {
		return u.Hostname()
	}
	if host, _, err := net.SplitHostPort(endpoint); err == nil {
		return host
	}
	return endpoint
}
