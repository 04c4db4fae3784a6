package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"tortie/internal/advertise"
	"tortie/internal/api"
)

// ExcludeLabel is the label by which a node asks to get no packets to services from
// outside. As upstream has it, only the value "true" counts.
const ExcludeLabel = "node.kubernetes.io/exclude-from-external-load-balancers"

// services are the ranges and addresses of services that this node announces, with
// the reasons. Two services may have one address: the first by name is named.
func (c *computation) services() map[netip.Prefix]string {
	ranges := c.settings.services
	for _, p := range ranges.All() {
		c.out.ServiceRanges = append(c.out.ServiceRanges, p)
		if p.Bits() == 0 {
			c.problem("BGPConfiguration default: the range %s of service addresses is not announced, as it would be a default route: "+
				"give the ranges in use; single addresses in it are announced", p)
		}
	}
	own := map[netip.Prefix]string{}
	announce := func(p netip.Prefix, what string, here bool) {
		c.out.Services[p] = cmp.Or(c.out.Services[p], what)
		if here && c.self.labels[ExcludeLabel] != "true" {
			own[p] = cmp.Or(own[p], what)
		}
	}
	for _, r := range ranges.Whole() {
		announce(r.Prefix, r.What, true)
	}
	for _, s := range c.sortedServices() {
		for _, a := range ranges.Addresses(&s.Spec) {
			p := netip.PrefixFrom(a.Addr, a.Addr.BitLen())
			announce(p, fmt.Sprintf("service %s/%s, %s", s.Namespace, s.Name, a.What), c.drawn(a))
		}
	}
	return own
}

// drawn: packets to the address may come to this node.
func (c *computation) drawn(a advertise.Address) bool {
	return a.Everywhere || slices.Contains(a.Nodes, c.self.kubernetes)
}

func (c *computation) sortedServices() []*api.AdvertisedService {
	return slices.SortedFunc(slices.Values(c.in.Services), func(a, b *api.AdvertisedService) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
}
