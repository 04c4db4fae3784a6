package plan

import (
	"net/netip"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/bgpd/topology"
	"tortie/internal/api"
)

// Kinds are those that matter to BGP.
func Kinds() []api.Kind {
	return []api.Kind{
		api.KindNode, api.KindBGPConfiguration, api.KindBGPPeer, api.KindBlockAffinity, api.KindIPAMBlock, api.KindIPPool, api.KindAdvertisedService,
		api.KindBGPFilter,
	}
}

// Read makes the input of objects of these kinds; it leaves out others.
func Read(objects []api.Object) topology.Input {
	var in topology.Input
	for _, o := range objects {
		switch o := o.(type) {
		case *api.Node:
			in.Nodes = append(in.Nodes, o)
		case *v3.BGPConfiguration:
			in.Configs = append(in.Configs, o)
		case *v3.BGPPeer:
			in.Peers = append(in.Peers, o)
		case *api.BGPFilter:
			in.Filters = append(in.Filters, o)
		case *api.BlockAffinity:
			in.Affinities = append(in.Affinities, o)
		case *api.IPAMBlock:
			in.Blocks = append(in.Blocks, o)
		case *v3.IPPool:
			in.Pools = append(in.Pools, o)
		case *api.AdvertisedService:
			in.Services = append(in.Services, o)
		}
	}
	return in
}

// segments are the subnets of a node's addresses.
func segments(n *api.Node) []netip.Prefix {
	if n.Spec.BGP == nil {
		return nil
	}
	var out []netip.Prefix
	for _, a := range []string{n.Spec.BGP.IPv4Address, n.Spec.BGP.IPv6Address} {
		if p, err := netip.ParsePrefix(a); err == nil && !p.IsSingleIP() {
			out = append(out, p.Masked())
		}
	}
	return out
}
