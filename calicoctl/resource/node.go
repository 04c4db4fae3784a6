package resource

import (
	"context"
	"slices"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
)

// releaseNode gives back every address that a node holds, its workloads' and its
// tunnels', wherever it has them from, and then the blocks it owns. A block in
// which other nodes hold addresses stays, without an owner.
func (s *Store) releaseNode(ctx context.Context, node string) error {
	handles, err := s.handlesOn(ctx, node)
	if err != nil {
		return err
	}
	for _, handle := range handles {
		if _, err := ipam.ReleaseHandle(ctx, s.Client, handle); err != nil {
			return err
		}
	}
	_, err = ipam.ReleaseHost(ctx, s.Client, node)
	return err
}

// heldByWorkloads counts a node's addresses that are not those of its tunnels: some
// containers (calico-ipam under another main plugin) hold one without an endpoint.
func (s *Store) heldByWorkloads(ctx context.Context, node string) (int, error) {
	blocks, err := s.Client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
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
func (s *Store) handlesOn(ctx context.Context, node string) ([]ipam.HandleID, error) {
	blocks, err := s.Client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return nil, err
	}
	var handles []ipam.HandleID
	for _, entry := range blocks.Entries {
		for _, attrs := range entry.Object.(*api.IPAMBlock).Spec.Attributes {
			if attrs.HandleID != nil && attrs.ActiveOwnerAttrs[api.AttributeNode] == node {
				handles = append(handles, ipam.HandleID(*attrs.HandleID))
			}
		}
	}
	slices.Sort(handles)
	return slices.Compact(handles), nil
}
