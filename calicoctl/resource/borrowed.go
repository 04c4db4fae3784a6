package resource

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Borrowed is an address that a node has from a block it doesn't own.
type Borrowed struct {
	Addr  netip.Addr
	Node  string
	Block netip.Prefix
	Owner string // of the block; empty when nobody owns it
	// Type and Holder say what has the address: "pod" and "ns1/web-0", or the
	// kind of a tunnel address.
	Type, Holder string
}

// Borrowed lists the borrowed addresses, sorted, and counts those of which
// nobody noted the node.
func (s *Store) Borrowed(ctx context.Context) (borrowed []Borrowed, unclassified int, err error) {
	blocks, err := s.Client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return nil, 0, err
	}
	for _, entry := range blocks.Entries {
		cidr, err := netip.ParsePrefix(entry.Key.Name)
		if err != nil {
			continue
		}
		block := entry.Object.(*api.IPAMBlock)
		owner := ownerOf(block)
		addr := cidr.Addr()
		for _, index := range block.Spec.Allocations {
			if attrs, assigned := attributesAt(block, index); assigned {
				switch node, known := attrs[api.AttributeNode]; {
				case !known:
					unclassified++
				case owner != api.HostAffinity(node):
					b := Borrowed{Addr: addr, Node: node, Block: cidr, Owner: owner.Name}
					b.Type, b.Holder = holder(attrs)
					borrowed = append(borrowed, b)
				}
			}
			addr = addr.Next()
		}
	}
	slices.SortFunc(borrowed, func(a, b Borrowed) int { return a.Addr.Compare(b.Addr) })
	return borrowed, unclassified, nil
}

func ownerOf(block *api.IPAMBlock) api.Affinity {
	if block.Spec.Affinity == nil {
		return api.Affinity{}
	}
	owner, _ := api.ParseAffinity(*block.Spec.Affinity) // the zero Affinity is nobody
	return owner
}

// attributesAt is what is known of the holder of an address. A damaged block may
// have an address without attributes.
func attributesAt(block *api.IPAMBlock, index *int) (attrs map[string]string, assigned bool) {
	if index == nil {
		return nil, false
	}
	if *index < 0 || *index >= len(block.Spec.Attributes) {
		return nil, true
	}
	return block.Spec.Attributes[*index].ActiveOwnerAttrs, true
}

func holder(attrs map[string]string) (kind, name string) {
	if pod, ok := attrs[api.AttributePod]; ok {
		return "pod", attrs[api.AttributeNamespace] + "/" + pod
	}
	return attrs[api.AttributeType], ""
}

// IPAMConfig is how addresses are given out: the stored configuration, else what
// holds without one.
func (s *Store) IPAMConfig(ctx context.Context) (api.IPAMConfigSpec, error) {
	entry, err := s.Client.Get(ctx, api.IPAMConfigKey())
	if errors.Is(err, datastore.ErrNotFound) {
		return api.IPAMConfigSpec{AutoAllocateBlocks: true}, nil
	}
	if err != nil {
		return api.IPAMConfigSpec{}, err
	}
	return entry.Object.(*api.IPAMConfig).Spec, nil
}
