package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/bgpd/policy"
	"tortie/bgpd/speaker"
	"tortie/internal/api"
)

// filter is what the filters that a BGPPeer names make for one of its sessions. One that
// is missing or can't be carried out keeps the session from coming up: without it, it
// would advertise or accept what the filter forbids.
func (c *computation) filter(p *Peer, names []string) (speaker.Filter, error) {
	var filters []*api.BGPFilter
	for i, name := range names {
		at := slices.IndexFunc(c.in.Filters, func(f *api.BGPFilter) bool { return f.Name == name })
		if at < 0 {
			return speaker.Filter{}, fmt.Errorf("spec.filters[%d]: there is no BGPFilter %s that can be read: create it, or take it out of spec.filters", i, name)
		}
		filters = append(filters, c.in.Filters[at])
	}
	s := policy.Session{IPv6: p.Address.Is6(), LocalASN: c.self.asn, Transit: c.self.cluster.IsValid()}
	if p.LocalASN != 0 {
		s.LocalASN = p.LocalASN
	}
	s.External = p.ASN != s.LocalASN
	return policy.Read(filters, s)
}

// withhold keeps the sessions that a filter is meant for from being made by a BGPPeer of
// lower rank, or by the mesh, without it.
func (c *computation) withhold(peers []Peer) {
	for _, p := range peers {
		if _, made := c.peers[p.Address]; !made {
			c.withheld[p.Address] = true
		}
	}
}

// advertisement is what the exports inside a prefix carry.
type advertisement struct {
	prefix      netip.Prefix
	communities []speaker.Community
}

// readAdvertisements reads the prefixAdvertisements of a BGPConfiguration, whose names of
// communities are its own. What makes no sense in it is left out.
func (c *computation) readAdvertisements(conf *v3.BGPConfiguration) []advertisement {
	named := map[string]string{}
	for _, community := range conf.Spec.Communities {
		named[community.Name] = community.Value
	}
	var out []advertisement
	for i, ad := range conf.Spec.PrefixAdvertisements {
		prefix, err := netip.ParsePrefix(ad.CIDR)
		if err != nil {
			c.problem("BGPConfiguration %s: spec.prefixAdvertisements[%d].cidr %q is not a CIDR; it is ignored", conf.Name, i, ad.CIDR)
			continue
		}
		a := advertisement{prefix: prefix.Masked()}
		for j, text := range ad.Communities {
			if value, ok := named[text]; ok {
				text = value
			}
			community, err := speaker.ParseCommunity(text)
			if err != nil {
				c.problem("BGPConfiguration %s: spec.prefixAdvertisements[%d].communities[%d]: %v; it is not added", conf.Name, i, j, err)
				continue
			}
			a.communities = append(a.communities, community)
		}
		out = append(out, a)
	}
	return out
}

// communities are those of all advertisements that a prefix is inside of.
func (s *settings) communities(p netip.Prefix) []speaker.Community {
	var out []speaker.Community
	for _, ad := range s.advertisements {
		if ad.prefix.Bits() <= p.Bits() && ad.prefix.Contains(p.Addr()) {
			out = append(out, ad.communities...)
		}
	}
	slices.SortFunc(out, speaker.Community.Compare)
	return slices.Compact(out)
}

// readNodeConfig takes from a BGPConfiguration what may differ from node to node: that
// of the node counts, where it says anything, and not the default.
func (c *computation) readNodeConfig(in []*v3.BGPConfiguration) {
	for _, name := range []string{"default", nodeConfigPrefix + c.in.Node} {
		for _, conf := range in {
			if conf.Name != name {
				continue
			}
			if len(conf.Spec.PrefixAdvertisements) > 0 {
				c.settings.advertisements = c.readAdvertisements(conf)
			}
			if len(conf.Spec.IgnoredInterfaces) > 0 {
				c.out.IgnoredInterfaces = slices.DeleteFunc(slices.Clone(conf.Spec.IgnoredInterfaces), func(pattern string) bool {
					return strings.Trim(pattern, "*") == "" || !api.IsDevicePattern(pattern) // the former would be all
				})
			}
		}
	}
}
