package resource

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// defaultPort is that of a peer whose port is not said.
const defaultPort = 179

// CheckPeers refuses a BGPPeer of the input with the address of another and another port,
// where some node would have both: bgpd has one session with an address. A BGPPeer of the
// input takes the place of the stored one of its name.
func (s *Store) CheckPeers(ctx context.Context, objects []api.Object) ([]Refusal, error) {
	written := map[string]int{}
	for i, obj := range objects {
		if p, ok := obj.(*v3.BGPPeer); ok && p.Spec.PeerIP != "" {
			written[p.Name] = i
		}
	}
	if len(written) == 0 {
		return nil, nil
	}
	peers, nodes, err := s.peersAndNodes(ctx, objects)
	if err != nil {
		return nil, err
	}
	var refusals []Refusal
	for _, name := range slices.SortedFunc(maps.Keys(written), func(a, b string) int { return cmp.Compare(written[a], written[b]) }) {
		p := peers[name]
		for _, other := range slices.SortedFunc(maps.Values(peers), func(a, b *v3.BGPPeer) int { return strings.Compare(a.Name, b.Name) }) {
			addr, ports, clash := otherPorts(p, other)
			if later, both := written[other.Name]; both && later > written[name] {
				continue // which is refused for this one
			}
			if !clash || !together(p, other, nodes) {
				continue
			}
			refusals = append(refusals, Refusal{Index: written[name], Field: "spec.peerIP", Err: fmt.Errorf(
				"BGPPeer(%s): spec.peerIP: %q: %s is the peer of BGPPeer %s, on port %d: a node has one session with an address, whatever the ports; "+
					"give the other speaker there an address of its own", name, p.Spec.PeerIP, addr, other.Name, ports[1])})
			break
		}
	}
	return refusals, nil
}

// peersAndNodes are those stored, with those of the input in their place.
func (s *Store) peersAndNodes(ctx context.Context, objects []api.Object) (map[string]*v3.BGPPeer, map[string]*api.Node, error) {
	peers, nodes := map[string]*v3.BGPPeer{}, map[string]*api.Node{}
	take := func(obj api.Object) {
		switch o := obj.(type) {
		case *v3.BGPPeer:
			peers[o.Name] = o
		case *api.Node:
			nodes[o.Name] = o
		}
	}
	for _, kind := range []api.Kind{api.KindBGPPeer, api.KindNode} {
		snap, err := s.Client.List(ctx, datastore.Range{Kind: kind})
		if err != nil {
			return nil, nil, err
		}
		for _, entry := range snap.Entries {
			take(entry.Object)
		}
	}
	for _, obj := range objects {
		take(obj)
	}
	return peers, nodes, nil
}

// otherPorts: both are at one address, on two ports.
func otherPorts(p, q *v3.BGPPeer) (addr netip.Addr, ports [2]uint16, clash bool) {
	if p.Name == q.Name {
		return addr, ports, false
	}
	a, aPort, aErr := api.ParsePeerIP(p.Spec.PeerIP)
	b, bPort, bErr := api.ParsePeerIP(q.Spec.PeerIP)
	ports = [2]uint16{cmp.Or(aPort, defaultPort), cmp.Or(bPort, defaultPort)}
	return a, ports, aErr == nil && bErr == nil && a == b && ports[0] != ports[1]
}

// together: some node is meant by both.
func together(p, q *v3.BGPPeer, nodes map[string]*api.Node) bool {
	for _, n := range nodes {
		a, aErr := api.PeerIsFor(p, n.Name, n.Labels)
		b, bErr := api.PeerIsFor(q, n.Name, n.Labels)
		if aErr == nil && bErr == nil && a && b {
			return true
		}
	}
	return false
}
