package fib

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"tortie/bgpd/speaker"
	"tortie/internal/kernel"
)

// Entry is what has become of the best path to a prefix.
func (f *FIB) Entry(prefix netip.Prefix) (Entry, bool) {
	_, ok := f.best[prefix]
	return f.entryOf(prefix), ok
}

// Len is how many prefixes there is a best path to.
func (f *FIB) Len() int { return len(f.best) }

// Import returns "" for a path that the node's rules let in, else the reason why not.
func (f *FIB) Import(p speaker.Path) (rejected string) { return f.filter.Import(p) }

// InKernel are the routes that the kernel has in its main table, by what is told
// of them; whoever made them, or those of bgpd only.
func (f *FIB) InKernel(ctx context.Context, of kernel.Protocol) (map[netip.Prefix][]string, error) {
	routes, err := f.kernel.Routes(ctx, kernel.RouteFilter{Protocol: of})
	if err != nil {
		return nil, fmt.Errorf("read the kernel's routes: %w", err)
	}
	out := map[netip.Prefix][]string{}
	for _, r := range routes {
		out[r.Dst] = append(out[r.Dst], f.resolver.say(r))
	}
	return out, nil
}

// say is a route of the kernel in words, with its maker.
func (r *Resolver) say(route kernel.Route) string {
	var s string
	switch {
	case route.Type == kernel.RouteBlackhole:
		s = "blackhole"
	case route.Type != kernel.RouteUnicast:
		s = route.String()
	case route.Gateway.IsValid():
		s = r.describe(kernel.NextHop{Link: route.Link, Gateway: route.Gateway})
	case route.Link != 0:
		s = "dev " + r.linkName(route.Link)
	default:
		var all []string
		for _, h := range route.NextHops.All() {
			all = append(all, r.describe(h))
		}
		s = strings.Join(all, ", ")
	}
	maker := map[kernel.Protocol]string{
		kernel.ProtocolBGP: "bgpd", kernel.ProtocolFelix: "felix", kernel.ProtocolKernel: "kernel", kernel.ProtocolBoot: "boot", kernel.ProtocolStatic: "static",
	}[route.Protocol]
	if maker == "" {
		maker = "another program"
	}
	return fmt.Sprintf("%s proto %d (%s)", s, route.Protocol, maker)
}
