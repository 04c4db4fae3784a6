package fib

import (
	"net/netip"
	"slices"

	"tortie/bgpd/policy"
	"tortie/bgpd/speaker"
	"tortie/internal/kernel"
)

// Links are the subnets that the node has an address in, as last read.
func (f *FIB) Links() []speaker.Link {
	var out []speaker.Link
	for _, a := range f.picture.addresses {
		addr := a.Prefix.Addr()
		// A /32 of a pod or tunnel is no segment; link-local ones are filtered anyway.
		if !addr.IsLoopback() && !a.Prefix.IsSingleIP() && !addr.IsLinkLocalUnicast() {
			out = append(out, speaker.Link{Name: f.resolver.linkName(a.Link), Subnet: a.Prefix.Masked()})
		}
	}
	return out
}

func (f *FIB) ignored(device string) bool {
	return slices.ContainsFunc(f.scope.IgnoredInterfaces, func(pattern string) bool { return policy.MatchesDevice(pattern, device) })
}

// newResolver makes one of what was read and is not ignored: of a device that is, the
// routes that lead to what is attached to it.
func (f *FIB) newResolver() *Resolver {
	var own []netip.Addr
	for _, a := range f.picture.addresses {
		own = append(own, a.Prefix.Addr())
	}
	routes := f.picture.routes
	if len(f.scope.IgnoredInterfaces) > 0 {
		names := map[int]string{}
		for _, l := range f.picture.links {
			names[l.Index] = l.Name
		}
		routes = slices.DeleteFunc(slices.Clone(routes), func(r kernel.Route) bool {
			return !r.Gateway.IsValid() && r.Link != 0 && f.ignored(names[r.Link])
		})
	}
	return NewResolver(routes, f.picture.links, own)
}
