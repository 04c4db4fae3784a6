package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// ReleaseNode gives back every address that a node holds, its workloads' and its
// tunnels', wherever it has them from, and then the blocks it owns. A block in
// which other nodes hold addresses stays, without an owner. It returns the addresses
// given back, also with an error, and can be repeated.
func ReleaseNode(ctx context.Context, client datastore.Client, node string) ([]netip.Addr, error) {
	handles, err := handlesOn(ctx, client, node)
	if err != nil {
		return nil, fmt.Errorf("release the addresses of node %s: %w", node, err)
	}
	var released []netip.Addr
	ctx = WithReason(ctx, "node "+node+" was deleted")
	for _, handle := range handles {
		addrs, err := ReleaseHandle(ctx, client, handle)
		if released = append(released, addrs...); err != nil {
			return released, err
		}
	}
	if _, err := ReleaseHost(ctx, client, node); err != nil {
		return released, err
	}
	return released, MendLoans(ctx, client, node)
}

// HeldByWorkloads counts a node's addresses that are not those of its tunnels: some
// containers (calico-ipam under another main plugin) hold one without an endpoint.
func HeldByWorkloads(ctx context.Context, client datastore.Client, node string) (int, error) {
	blocks, err := client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return 0, err
	}
	held := 0
	for _, entry := range blocks.Entries {
		spec := entry.Object.(*api.IPAMBlock).Spec
		for _, index := range spec.Allocations {
			if index == nil || *index < 0 || *index >= len(spec.Attributes) {
				continue
			}
			owner := spec.Attributes[*index].ActiveOwnerAttrs
			if owner[api.AttributeNode] == node && owner[api.AttributeType] == "" {
				held++
			}
		}
	}
	return held, nil
}

// handlesOn are the handles with an address on a node, sorted.
func handlesOn(ctx context.Context, client datastore.Client, node string) ([]HandleID, error) {
	blocks, err := client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return nil, err
	}
	var handles []HandleID
	for _, entry := range blocks.Entries {
		for _, attrs := range entry.Object.(*api.IPAMBlock).Spec.Attributes {
			if attrs.HandleID != nil && attrs.ActiveOwnerAttrs[api.AttributeNode] == node {
				handles = append(handles, HandleID(*attrs.HandleID))
			}
		}
	}
	slices.Sort(handles)
	return slices.Compact(handles), nil
}
