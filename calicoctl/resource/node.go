package resource

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/overlay"
)

// CheckNodes refuses a Node of the input that gets an address which another Node has:
// packets for the pods of one of them would get lost. A Node of the input takes the place
// of the stored one of its name; one that has the address already may be written.
func (s *Store) CheckNodes(ctx context.Context, objects []api.Object) ([]Refusal, error) {
	if !slices.ContainsFunc(objects, isNode) {
		return nil, nil
	}
	snap, err := s.Client.List(ctx, datastore.Range{Kind: api.KindNode})
	if err != nil {
		return nil, err
	}
	before, now := map[string]*api.Node{}, map[string]*api.Node{}
	for _, entry := range snap.Entries {
		n := entry.Object.(*api.Node)
		before[n.Name], now[n.Name] = n, n
	}
	for _, obj := range objects {
		if n, ok := obj.(*api.Node); ok {
			delete(now, n.Name) // until it is its turn, so that the latter of two is refused
		}
	}
	var refusals []Refusal
	for i, obj := range objects {
		n, ok := obj.(*api.Node)
		if !ok {
			continue
		}
		for _, r := range takenBy(now, before[n.Name], n) {
			r.Index = i
			refusals = append(refusals, r)
		}
		now[n.Name] = n
	}
	return refusals, nil
}

// takenBy says which of the addresses that a Node gets others have; before is nil for a
// new one.
func takenBy(others map[string]*api.Node, before, n *api.Node) (refusals []Refusal) {
	for _, v6 := range []bool{false, true} {
		addr, other := addressOf(n, v6), ""
		if addr.IsValid() && addr != addressOf(before, v6) {
			other = nodeWith(others, addr, v6)
		}
		if other == "" {
			continue
		}
		field := "spec.bgp.ipv4Address"
		if v6 {
			field = "spec.bgp.ipv6Address"
		}
		refusals = append(refusals, Refusal{Field: field, Err: fmt.Errorf(
			"Node(%s): %s: %q: is the address of Node %s, and packets for the pods of one of the two would get lost: give one of them another address, or delete the one that is gone: calicoctl delete node %s",
			n.Name, field, addr.String(), other, other)})
	}
	return refusals
}

func isNode(obj api.Object) bool {
	_, ok := obj.(*api.Node)
	return ok
}

// addressOf is invalid for a Node without one, and for none.
func addressOf(n *api.Node, v6 bool) netip.Addr {
	if n == nil {
		return netip.Addr{}
	}
	ends := overlay.ReadNode(n.Name, &n.Spec)
	if v6 {
		return ends.V6.Address.Addr()
	}
	return ends.V4.Address.Addr()
}

// nodeWith is the first Node by name that has an address; empty for none.
func nodeWith(nodes map[string]*api.Node, addr netip.Addr, v6 bool) string {
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		if addressOf(nodes[name], v6) == addr {
			return name
		}
	}
	return ""
}
