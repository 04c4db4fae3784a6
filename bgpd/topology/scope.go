package topology

import (
	"net/netip"

	"tortie/bgpd/filter"
)

// Scope is what the node knows when it looks at a learned path, as far as the
// cluster's resources tell it.
func (o Output) Scope() filter.Scope {
	s := filter.Scope{
		Pools: o.Pools, Blocks: o.Blocks, OwnBlocks: o.OwnBlocks, Services: o.ServiceRanges, Addresses: o.Addresses,
		Nodes: map[netip.Addr]bool{}, Mesh: map[netip.Addr]bool{}, Workloads: map[netip.Addr]bool{},
		Overlay: o.Overlay, Owners: o.BlockOwners, IgnoredInterfaces: o.IgnoredInterfaces,
	}
	for _, p := range o.Peers {
		s.Nodes[p.Address] = p.Node != ""
		s.Mesh[p.Address] = p.Type == Mesh
		if p.Workload != "" {
			s.Workloads[p.Address] = true
		}
	}
	return s
}
