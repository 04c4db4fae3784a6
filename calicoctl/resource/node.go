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
