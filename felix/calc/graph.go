// Package calc turns datastore updates into the desired state of this node's
// dataplane. It is pure: no I/O, no clock, and its output depends on the current
// content of the datastore only, never on the order or number of the updates
// that led to it.
package calc

import (
	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Graph holds what the datastore says that matters to one node. It is not safe
// for concurrent use: it belongs to the goroutine that receives the updates.
type Graph struct {
	node      string
	endpoints endpoints
	blocks    blocks
	pools     pools
	nodes     nodes
}

// New makes an empty Graph for the node of that name.
func New(node string) *Graph {
	return &Graph{
		node:      node,
		endpoints: newEndpoints(node),
		blocks:    newBlocks(node),
		pools:     newPools(),
		nodes:     newNodes(node),
	}
}

// Ranges are the parts of the datastore that a Graph must be fed with.
// Endpoints come from every namespace, so those of other nodes pass by too and
// are dropped at once.
func (g *Graph) Ranges() []datastore.Range {
	return []datastore.Range{
		{Kind: api.KindIPPool},
		{Kind: api.KindNode},
		{Kind: api.KindBlockAffinity, NamePrefix: api.HostAffinity(g.node).String() + "/"},
		{Kind: api.KindWorkloadEndpoint},
	}
}

// Update takes in changes and reports whether the State may be another now. An
// update replaces all that is known of its key; updates of other kinds and of
// keys that can't be parsed are ignored.
func (g *Graph) Update(updates []datastore.SyncUpdate) (changed bool) {
	for _, u := range updates {
		switch u.Key.Kind {
		case api.KindWorkloadEndpoint:
			changed = g.endpoints.update(u) || changed
		case api.KindBlockAffinity:
			changed = true
			g.blocks.update(u)
		case api.KindIPPool:
			changed = true
			g.pools.update(u)
		case api.KindNode:
			changed = true
			g.nodes.update(u)
		}
	}
	return changed
}

// State is the desired state as of the updates so far. The caller owns the
// result: nothing in it is shared with the Graph.
func (g *Graph) State() State {
	s := State{}
	var problems problemList
	s.Endpoints, s.HoldDevices = g.endpoints.resolve(&problems)
	s.Pools, s.Masquerade = g.pools.prefixes(&problems)
	s.NodeAddrs, s.Nodes = g.nodes.addrs(&problems)
	s.Blocks = g.blocks.confirmed(surroundings{pools: s.Pools, own: s.NodeAddrs, nodes: s.Nodes}, &problems)
	s.Problems = problems.sorted()
	return s
}
