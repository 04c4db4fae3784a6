package autotopology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

// cluster is an Input, read.
type cluster struct {
	in       Input
	settings api.AutoTopology
	nodes    []*member // those that speak BGP, by name
	byAddr   map[netip.Addr]*member
	mesh     bool // it is on
	// switchedOff: it was us who switched it off.
	switchedOff bool
	peer        *v3.BGPPeer // of the name that is ours
	wanted      bool        // there are to be reflectors
	chosen      map[*member]bool
	unfit       map[*member]string
	sights      map[*member]sight
	// asks and waits gather what is missing for a step.
	asks  map[string]bool
	waits []string
}

// member is a node that speaks BGP.
type member struct {
	*api.Node
	addrs []netip.Addr
	known []netip.Addr // those by which others know it: of two nodes with one address, the first has it
	zone  string
	// labelled and acting: it has our label, and a cluster ID.
	labelled, acting bool
}

func read(in Input, settings api.AutoTopology) *cluster {
	c := &cluster{
		in: in, settings: settings, byAddr: map[netip.Addr]*member{}, mesh: true,
		chosen: map[*member]bool{}, unfit: map[*member]string{}, asks: map[string]bool{}, sights: map[*member]sight{},
	}
	if conf := in.Config; conf != nil {
		c.mesh = conf.Spec.NodeToNodeMeshEnabled == nil || *conf.Spec.NodeToNodeMeshEnabled
		c.switchedOff = !c.mesh && conf.Annotations[api.AnnotationAutoTopologyMesh] == "off"
	}
	for _, n := range in.Nodes {
		if m := readNode(n, settings.ZoneLabel); m != nil {
			c.nodes = append(c.nodes, m)
		}
	}
	slices.SortFunc(c.nodes, func(a, b *member) int { return strings.Compare(a.Name, b.Name) })
	for _, m := range c.nodes {
		for _, a := range m.addrs {
			if c.byAddr[a] == nil {
				c.byAddr[a] = m
				m.known = append(m.known, a)
			}
		}
	}
	for _, p := range in.Peers {
		if p.Name == api.AutoTopologyPeer {
			c.peer = p
		}
	}
	c.decide()
	return c
}

// decide settles whether there are to be reflectors, and which.
func (c *cluster) decide() {
	inUse := c.switchedOff || slices.ContainsFunc(c.nodes, func(m *member) bool { return m.labelled })
	above := c.settings.Above
	c.wanted = above > 0 && (len(c.nodes) > above || inUse && len(c.nodes) > backAt(above))
	if above > 0 {
		c.judge()
	}
	if c.wanted {
		c.elect()
	}
}

// involved reports whether anything in the cluster is of our making.
func (c *cluster) involved() bool {
	return c.switchedOff || c.ownPeer() || slices.ContainsFunc(c.nodes, func(m *member) bool { return m.labelled })
}

func (c *cluster) ownPeer() bool {
	return c.peer != nil && c.peer.Annotations[api.AnnotationAutoTopology] != ""
}

// readNode is nil for a node that speaks no BGP.
func readNode(n *api.Node, zoneLabel string) *member {
	bgp := n.Spec.BGP
	if bgp == nil {
		return nil
	}
	m := &member{
		Node: n, zone: n.Labels[zoneLabel],
		labelled: n.Labels[api.LabelRouteReflector] == "true", acting: bgp.RouteReflectorClusterID != "",
	}
	for _, text := range []string{bgp.IPv4Address, bgp.IPv6Address} {
		bare, _, _ := strings.Cut(text, "/")
		if a, err := netip.ParseAddr(bare); err == nil {
			m.addrs = append(m.addrs, a)
		}
	}
	if len(m.addrs) == 0 {
		return nil
	}
	return m
}

func (m *member) has(family netip.Addr) bool {
	return slices.ContainsFunc(m.addrs, func(a netip.Addr) bool { return a.Is4() == family.Is4() })
}

// doWithout is what else can be done about a refusal.
const doWithout = "do without auto-topology (calicoctl bgp auto-topology --off)"

// refusals are what stands in the way: what somebody else has set up is never changed.
func (c *cluster) refusals() []string {
	var out []string
	refuse := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if c.peer != nil && !c.ownPeer() {
		refuse("BGPPeer %s has the name that auto-topology's own has, and was made by somebody else: create it anew under another name, then delete it", c.peer.Name)
	}
	if !c.mesh && !c.switchedOff {
		refuse("BGPConfiguration default: spec.nodeToNodeMeshEnabled is false, not by auto-topology, which begins with the mesh: set it to true, or %s", doWithout)
	}
	if !c.wanted {
		if c.settings.Off && !c.involved() {
			return nil // there is nothing to take back
		}
		return out
	}
	for _, m := range c.nodes {
		if why := c.foreign(m); why != "" {
			refuse("Node %s%s", m.Name, why)
		}
	}
	for _, p := range c.in.Peers {
		if p != c.peer && c.betweenNodes(p) {
			refuse("BGPPeer %s makes sessions between nodes, which would be beside those that auto-topology makes: delete it, or %s", p.Name, doWithout)
		}
	}
	if len(c.chosen) == 0 && slices.ContainsFunc(c.nodes, c.silent) {
		c.wait("no node can be a route reflector yet: %s", c.whyUnfit())
	} else if len(c.chosen) == 0 {
		refuse("no node can be a route reflector, so everything stays as it is: %s", c.whyUnfit())
	}
	return out
}

// foreign is what somebody else has made of a node that auto-topology can't work with.
func (c *cluster) foreign(m *member) string {
	id := m.Spec.BGP.RouteReflectorClusterID
	switch asn := m.Spec.BGP.ASNumber; {
	case m.acting && !m.labelled:
		return fmt.Sprintf(": spec.bgp.routeReflectorClusterID %s was set by hand, and auto-topology changes no reflector of others: take it away, or %s", id, doWithout)
	case m.acting && id != c.settings.ClusterID:
		return fmt.Sprintf(": spec.bgp.routeReflectorClusterID is %s, and not %s, which all reflectors of auto-topology have: set it to that", id, c.settings.ClusterID)
	case asn != nil && uint32(*asn) != c.asn():
		return fmt.Sprintf(": spec.bgp.asNumber is %d, not the cluster's %d, and reflectors and their clients have to be of one AS: leave it out, or %s", *asn, c.asn(), doWithout)
	}
	return ""
}

// asn is the cluster's; 64512 is upstream's default.
func (c *cluster) asn() uint32 {
	if conf := c.in.Config; conf != nil && conf.Spec.ASNumber != nil && *conf.Spec.ASNumber != 0 {
		return uint32(*conf.Spec.ASNumber)
	}
	return 64512
}

func (c *cluster) betweenNodes(p *v3.BGPPeer) bool {
	if p.Spec.PeerSelector != "" {
		return true
	}
	addr, _, err := api.ParsePeerIP(p.Spec.PeerIP)
	return err == nil && c.byAddr[addr] != nil
}

// whyUnfit names the reasons, each once.
func (c *cluster) whyUnfit() string {
	nodes := map[string][]string{}
	var reasons []string
	for _, m := range c.nodes {
		why := c.unfit[m]
		if why != "" && nodes[why] == nil {
			reasons = append(reasons, why)
		}
		nodes[why] = append(nodes[why], m.Name)
	}
	for i, why := range reasons {
		reasons[i] = few(nodes[why], ", ") + ": " + why
	}
	return few(reasons, "; ")
}

// few are the first of many.
func few(texts []string, between string) string {
	const most = 3
	if more := len(texts) - most; more > 0 {
		return strings.Join(texts[:most], between) + fmt.Sprintf("%sand %d more", between, more)
	}
	return strings.Join(texts, between)
}

func (c *cluster) state() State {
	s := State{Settings: c.settings, Nodes: len(c.nodes), Mesh: c.mesh, Wanted: c.wanted, Unfit: map[string]string{}}
	if c.settings.Above > 0 {
		s.Back = backAt(c.settings.Above)
	}
	for _, m := range c.nodes {
		if m.labelled || m.acting || c.chosen[m] {
			s.Reflectors = append(s.Reflectors, Reflector{
				Node: m.Name, Zone: m.zone, Labelled: m.labelled, Acting: m.acting, Chosen: c.chosen[m],
			})
		}
		if why := c.unfit[m]; why != "" {
			s.Unfit[m.Name] = why
		}
	}
	slices.SortStableFunc(s.Reflectors, func(a, b Reflector) int { return cmp.Compare(a.Zone, b.Zone) })
	return s
}
