package autotopology

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/selector"
)

// elect chooses the reflectors: as many as wanted, spread over the zones as evenly as
// nodes allow. Those that are reflectors stay while that can be; otherwise names decide.
// One that is unfit is kept only where nobody can take its place.
func (c *cluster) elect() {
	zones := map[string][]*member{}
	for _, m := range c.nodes {
		if c.unfit[m] == "" {
			zones[m.zone] = append(zones[m.zone], m)
		}
	}
	var order [][]*member
	for _, in := range zones {
		slices.SortStableFunc(in, func(a, b *member) int { return cmp.Compare(b.standing(), a.standing()) })
		order = append(order, in)
	}
	// Zones that have most reflectors come first, so that an odd one out stays where it is.
	slices.SortFunc(order, func(a, b []*member) int {
		return cmp.Or(cmp.Compare(standing(b), standing(a)), strings.Compare(a[0].zone, b[0].zone))
	})
	for round := 0; len(c.chosen) < c.settings.Reflectors; round++ {
		before := len(c.chosen)
		for _, in := range order {
			if round < len(in) && len(c.chosen) < c.settings.Reflectors {
				c.chosen[in[round]] = true
			}
		}
		if len(c.chosen) == before {
			break
		}
	}
	kept := c.those(func(m *member) bool { return m.labelled && c.unfit[m] != "" && !c.silent(m) })
	slices.SortStableFunc(kept, func(a, b *member) int { return cmp.Compare(b.standing(), a.standing()) })
	for _, m := range kept {
		if len(c.chosen) < c.settings.Reflectors {
			c.chosen[m] = true
		}
	}
}

// standing is how far a node is a reflector already.
func (m *member) standing() int {
	switch {
	case m.labelled && m.acting:
		return 2
	case m.labelled:
		return 1
	}
	return 0
}

func standing(in []*member) (sum int) {
	for _, m := range in {
		sum += m.standing()
	}
	return sum
}

// judge finds the nodes that had better be no reflectors.
func (c *cluster) judge() {
	filters := map[string]*api.BGPFilter{}
	for _, f := range c.in.Filters {
		filters[f.Name] = f
	}
	for _, m := range c.nodes {
		if why := c.whyNot(m, filters); why != "" {
			c.unfit[m] = why
		}
	}
}

func (c *cluster) whyNot(m *member, filters map[string]*api.BGPFilter) string {
	if why := c.in.Unfit[m.Name]; why != "" {
		return why
	}
	if m.Labels[api.LabelGracefulShutdown] == "true" {
		return "it is being taken out of service (its label " + api.LabelGracefulShutdown + ")"
	}
	if c.silent(m) {
		return "it doesn't answer, and no node has a session with it: see calicoctl node status there"
	}
	for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if !m.has(family) && slices.ContainsFunc(c.nodes, func(o *member) bool { return o.has(family) }) {
			return "it has no address of a family that others have: give it spec.bgp.ipv4Address or ipv6Address"
		}
	}
	for _, p := range c.in.Peers {
		if p != c.peer && !c.betweenNodes(p) && meant(p, m) && leaks(p, filters) {
			return "it would pass other nodes' routes on to the peer of BGPPeer " + p.Name +
				": give that a BGPFilter with exportV4 and exportV6 of {action: Reject, source: RemotePeers}"
		}
	}
	return ""
}

// meant: the BGPPeer is for the node. What can't be read is for nobody.
func meant(p *v3.BGPPeer, m *member) bool {
	switch {
	case p.Spec.Node != "":
		return p.Spec.Node == m.Name
	case p.Spec.NodeSelector != "":
		sel, err := selector.Parse(p.Spec.NodeSelector)
		return err == nil && sel.Matches(m.Labels)
	}
	return true
}

// leaks reports whether a reflector might tell this peer what it has learned: the peer
// could send packets to the reflector that the reflector sends by the peer.
func leaks(p *v3.BGPPeer, filters map[string]*api.BGPFilter) bool {
	addr, _, err := api.ParsePeerIP(p.Spec.PeerIP)
	if err != nil {
		return false // no session comes of it
	}
	for _, name := range p.Spec.Filters {
		f := filters[name]
		if f == nil {
			return false // nor without its filters
		}
		rules := f.Spec.ExportV4
		if addr.Is6() {
			rules = f.Spec.ExportV6
		}
		for _, r := range rules {
			if r.Action != v3.Reject {
				return true // what comes later may be too late
			}
			if rejectsLearned(r) {
				return false
			}
		}
	}
	return true
}

// rejectsLearned: the rule rejects all that was learned from other nodes, if not more.
func rejectsLearned(r api.BGPFilterRule) bool {
	return r.Action == v3.Reject && (r.Source == v3.BGPFilterSourceRemotePeers || r.Source == "") && r.CIDR == "" && r.PrefixLength == nil &&
		r.Interface == "" && r.PeerType == "" && r.Communities == nil && len(r.ASPathPrefix) == 0 && r.Priority == nil
}
