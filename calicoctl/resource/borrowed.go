package resource

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
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

// Loans are the borrowed addresses of the cluster.
type Loans struct {
	// Borrowed are sorted.
	Borrowed []Borrowed
	// Unclassified counts the addresses of which nobody noted the node.
	Unclassified int
	// Invalid are the blocks that can't be read; their addresses are in neither.
	Invalid []datastore.Invalid
}

// Loans reads the blocks. One that contradicts itself is read as far as it goes.
func (s *Store) Loans(ctx context.Context) (Loans, error) {
	blocks, err := s.Client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return Loans{}, err
	}
	out := Loans{Invalid: blocks.Invalid}
	for _, entry := range blocks.Entries {
		block, err := ipam.Inspect(entry)
		if err != nil {
			out.Invalid = append(out.Invalid, datastore.Invalid{Key: entry.Key, Path: entry.Key.String(), Err: err})
			continue
		}
		for _, a := range block.Allocations {
			switch node, known := a.Attrs[api.AttributeNode]; {
			case !known:
				out.Unclassified++
			case !block.Owned || block.Owner != api.HostAffinity(node):
				b := Borrowed{Addr: a.Addr, Node: node, Block: a.Block, Owner: block.Owner.Name}
				b.Type, b.Holder = holder(a.Attrs)
				out.Borrowed = append(out.Borrowed, b)
			}
		}
	}
	slices.SortFunc(out.Borrowed, func(a, b Borrowed) int { return a.Addr.Compare(b.Addr) })
	return out, nil
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
