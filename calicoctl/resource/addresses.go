package resource

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Addresses is the state of all addresses of a cluster.
type Addresses struct {
	// Pools are sorted by CIDR. One with an invalid CIDR comes last and holds the
	// blocks that belong to no pool.
	Pools    []PoolUsage
	Borrowed []Borrowed
	// Unclassified counts addresses of which nobody knows the node.
	Unclassified int
}

// PoolUsage is one IP pool.
type PoolUsage struct {
	Name   string
	CIDR   netip.Prefix
	Total  float64 // addresses; an IPv6 pool exceeds every integer type
	InUse  int
	Blocks []BlockUsage // sorted by CIDR
}

// BlockUsage is one block.
type BlockUsage struct {
	CIDR  netip.Prefix
	Total int
	InUse int
}

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

// Addresses reads the state of all addresses.
func (s *Store) Addresses(ctx context.Context) (Addresses, error) {
	pools, err := s.Client.List(ctx, datastore.Range{Kind: api.KindIPPool})
	if err != nil {
		return Addresses{}, err
	}
	blocks, err := s.Client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return Addresses{}, err
	}
	return addressesOf(pools.Entries, blocks.Entries), nil
}

func addressesOf(poolEntries, blockEntries []datastore.Entry) Addresses {
	var state Addresses
	for _, entry := range poolEntries {
		pool := entry.Object.(*v3.IPPool)
		if cidr, err := netip.ParsePrefix(pool.Spec.CIDR); err == nil {
			state.Pools = append(state.Pools, PoolUsage{Name: pool.Name, CIDR: cidr, Total: size(cidr)})
		}
	}
	slices.SortFunc(state.Pools, func(a, b PoolUsage) int { return comparePrefix(a.CIDR, b.CIDR) })
	orphans := PoolUsage{}
	for _, entry := range blockEntries {
		cidr, err := netip.ParsePrefix(entry.Key.Name)
		if err != nil {
			continue
		}
		block := entry.Object.(*api.IPAMBlock)
		state.addBorrowed(cidr, block)
		pool := &orphans
		for i := range state.Pools {
			if p := state.Pools[i].CIDR; p.Bits() <= cidr.Bits() && p.Contains(cidr.Addr()) {
				pool = &state.Pools[i]
			}
		}
		usage := BlockUsage{CIDR: cidr, Total: len(block.Spec.Allocations), InUse: allocated(entry)}
		pool.InUse += usage.InUse
		pool.Blocks = append(pool.Blocks, usage)
	}
	if len(orphans.Blocks) > 0 {
		state.Pools = append(state.Pools, orphans)
	}
	for i := range state.Pools {
		slices.SortFunc(state.Pools[i].Blocks, func(a, b BlockUsage) int { return comparePrefix(a.CIDR, b.CIDR) })
	}
	slices.SortFunc(state.Borrowed, func(a, b Borrowed) int { return a.Addr.Compare(b.Addr) })
	return state
}

func size(cidr netip.Prefix) float64 { return math.Pow(2, float64(cidr.Addr().BitLen()-cidr.Bits())) }

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// addBorrowed notes the addresses of a block that another node than its owner
// has.
func (a *Addresses) addBorrowed(cidr netip.Prefix, block *api.IPAMBlock) {
	owner := ""
	if block.Spec.Affinity != nil {
		if affinity, err := api.ParseAffinity(*block.Spec.Affinity); err == nil {
			owner = affinity.Name
		}
	}
	addr := cidr.Addr()
	for _, index := range block.Spec.Allocations {
		if attrs := attributesAt(block, index); attrs != nil {
			switch node, known := attrs.ActiveOwnerAttrs[api.AttributeNode]; {
			case !known:
				a.Unclassified++
			case node != owner:
				b := Borrowed{Addr: addr, Node: node, Block: cidr, Owner: owner}
				b.Type, b.Holder = holder(attrs.ActiveOwnerAttrs)
				a.Borrowed = append(a.Borrowed, b)
			}
		}
		addr = addr.Next()
	}
}

// attributesAt tolerates an index without attributes, as a damaged block has.
func attributesAt(block *api.IPAMBlock, index *int) *api.BlockAttributes {
	if index == nil {
		return nil
	}
	if *index < 0 || *index >= len(block.Spec.Attributes) {
		return &api.BlockAttributes{}
	}
	return &block.Spec.Attributes[*index]
}

func holder(attrs map[string]string) (kind, name string) {
	if pod, ok := attrs[api.AttributePod]; ok {
		return "pod", attrs[api.AttributeNamespace] + "/" + pod
	}
	return attrs[api.AttributeType], ""
}

// HolderOf says who has an address: nil when nobody has it.
func (s *Store) HolderOf(ctx context.Context, addr netip.Addr) (*api.BlockAttributes, error) {
	addr = addr.Unmap()
	blocks, err := s.Client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return nil, err
	}
	for _, entry := range blocks.Entries {
		cidr, err := netip.ParsePrefix(entry.Key.Name)
		if err != nil || !cidr.Contains(addr) {
			continue
		}
		block := entry.Object.(*api.IPAMBlock)
		at := cidr.Addr()
		for _, index := range block.Spec.Allocations {
			if at == addr {
				return attributesAt(block, index), nil
			}
			at = at.Next()
		}
	}
	return nil, nil
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
