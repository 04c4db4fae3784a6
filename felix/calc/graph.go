// Package calc turns datastore updates into the desired state of this node's
// dataplane. It is pure: no I/O, no clock, and its output depends on the current
// content of the datastore only, never on the order or number of the updates
// that led to it.
package calc

import (
	"net/netip"
	"slices"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/advertise"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/overlay"
)

// Graph holds what the datastore says that matters to one node. It is not safe
// for concurrent use: it belongs to the goroutine that receives the updates.
type Graph struct {
	node      string
	endpoints endpoints
	peers     localPeers
	blocks    blocks
	pools     pools
	nodes     nodes
	borrowed  borrowed
	services  []netip.Prefix
	others    others
}

// others is what State says of other nodes, as long as nothing it depends on has
// changed: there may be thousands, and State is asked for at every pod.
type others struct {
	viewKnown, remoteKnown bool
	view                   overlay.View
	overlays               []PoolOverlay
	tunnels                []overlay.Tunnel
	masquerade             TunnelMasquerade
	remote                 []Remote
	secure                 []SecureTunnel
	unsecured              []string
}

// New makes an empty Graph for the node of that name.
func New(node string) *Graph {
	return &Graph{
		node:      node,
		endpoints: newEndpoints(node),
		blocks:    newBlocks(node),
		pools:     newPools(),
		nodes:     newNodes(node),
		borrowed:  newBorrowed(node),
		peers:     newLocalPeers(),
	}
}

// blockPace bounds how often a block is read that changes with every pod: only
// addresses borrowed from another node's block are found there.
const blockPace = 100 * time.Millisecond

// Ranges are the parts of the datastore that a Graph must be fed with at any time.
func (g *Graph) Ranges() []datastore.Range {
	return []datastore.Range{
		{Kind: api.KindBGPConfiguration, NamePrefix: configName},
		{Kind: api.KindBGPPeer},
		{Kind: api.KindIPPool},
		{Kind: api.KindNode},
		{Kind: api.KindBlockAffinity, NamePrefix: string(api.AffinityHost) + ":"},
		{Kind: api.KindWorkloadEndpoint, NamePrefix: api.WorkloadEndpointsOfNode(g.node)},
	}
}

// Follow are those that it must be fed with as well, as things are: all blocks, while a
// route of this node may depend on an address that another node has borrowed. Every pod of
// the cluster changes one, and without an overlay none matters here.
func (g *Graph) Follow() []datastore.Range {
	if !g.overlaid() {
		return nil
	}
	return []datastore.Range{{Kind: api.KindIPAMBlock, Coalesce: blockPace}}
}

// Update takes in changes and reports whether the State may be another now. An
// update replaces all that is known of its key; updates of other kinds and of
// keys that can't be parsed are ignored.
func (g *Graph) Update(updates []datastore.SyncUpdate) (changed bool) {
	for _, u := range updates {
		changed = g.peers.update(u) || changed
		changed = g.update(u) || changed
	}
	return changed
}

func (g *Graph) update(u datastore.SyncUpdate) (changed bool) {
	switch u.Key.Kind {
	case api.KindWorkloadEndpoint:
		return g.endpoints.update(u)
	case api.KindBlockAffinity:
		own := g.blocks.update(u)
		g.others.remoteKnown = g.others.remoteKnown && own
		return own || g.overlaid()
	case api.KindIPAMBlock:
		if !g.borrowed.update(u) {
			return false
		}
		g.others.remoteKnown = false
		return g.overlaid()
	case api.KindBGPConfiguration:
		return g.updateServices(u)
	case api.KindIPPool:
		g.pools.update(u)
	case api.KindNode:
		g.nodes.update(u)
	default:
		return false
	}
	g.others = others{}
	return true
}

// overlaid reports whether anything may go another way than BGP's.
func (g *Graph) overlaid() bool { return g.pools.overlaid() || g.nodes.secured() }

// updateServices takes the ranges that are announced.
func (g *Graph) updateServices(u datastore.SyncUpdate) (changed bool) {
	if u.Key.Name != advertise.ConfigName {
		return false
	}
	var ranges []netip.Prefix
	if u.Entry != nil {
		if config, ok := u.Entry.Object.(*v3.BGPConfiguration); ok {
			for _, r := range advertise.RangesOf(&config.Spec).Whole() {
				ranges = append(ranges, r.Prefix)
			}
		}
	}
	changed = !slices.Equal(ranges, g.services)
	g.services = ranges
	return changed
}

// State is the desired state as of the updates so far. The caller owns the
// result, but for Services and what it says of other nodes, which nobody changes.
func (g *Graph) State() State {
	s := State{}
	var problems problemList
	s.Endpoints, s.HoldDevices = g.endpoints.resolve(&problems)
	s.Services = g.services
	s.Pools, s.Masquerade = g.pools.prefixes(&problems)
	s.PodPools = g.pools.ofPods()
	s.NodeAddrs, s.Nodes = g.nodes.addrs(&problems)
	around := surroundings{pools: s.Pools, own: s.NodeAddrs, nodes: s.Nodes}
	s.Blocks = g.blocks.confirmed(around, &problems)
	s.Peering = g.peers.on(g.peers.usable(around, g.nodes.networks()), s.Endpoints, g.endpoints.labelsOf, g.node, g.nodes.labels())
	s.TunnelPools = g.pools.forTunnels(g.nodes.labels())
	g.others.compute(g, around)
	s.Tunnels, s.TunnelMasquerade, s.Remote = g.others.tunnels, g.others.masquerade, g.others.remote
	s.Overlays, s.IPIP = g.others.overlays, g.others.view.IPIP()
	s.VXLANUsed = len(s.Tunnels) > 0 || g.pools.ask(overlay.VXLAN)
	s.IPIPUsed = s.IPIP.IsValid() || g.pools.ask(overlay.IPIP)
	s.Secure, s.Unsecured = g.others.secure, g.others.unsecured
	s.SecurePools, s.Self, s.KeyRequest = g.pools.forNodes(g.nodes.labels()), g.nodes.own().ends, g.nodes.own().keyRequest
	s.FloatingShown = g.nodes.own().floating
	for _, why := range g.others.view.Refused() {
		problems.add(api.Key{Kind: api.KindNode, Name: g.node}, "%s; it is not used, and no such tunnel leads here: "+
			"correct the Node's tunnel address (or VXLANTunnelMACAddr, or key), or the IP pools", why)
	}
	s.Problems = problems.sorted()
	return s
}

// compute makes known what is not.
func (o *others) compute(g *Graph, around surroundings) {
	if !o.viewKnown {
		ends := g.nodes.ends()
		o.view, o.viewKnown = overlay.NewView(g.node, ends, g.pools.modes()), true
		o.overlays, o.tunnels = g.pools.overlays(o.view), o.view.Tunnels()
		o.masquerade = g.pools.toTunnels(o.view, ends)
		o.unsecured = o.view.Unsecured()
	}
	if !o.remoteKnown {
		o.remote, o.remoteKnown = g.remotes(o.view, around), true
		o.secure = g.secure(o.view, around)
	}
}
