// Package ipamtest checks what the allocator leaves in a store, and makes stores
// that fail on demand.
package ipamtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Check reads the whole IPAM state of a store and returns every violated
// invariant, joined, or nil:
//
//   - every key and value can be read;
//   - a block lies in a pool, and overlaps no other block;
//   - every ordinal is either allocated or free exactly once, no attribute is
//     without an ordinal, and every allocation has a sequence number below the
//     block's;
//   - the counts of every handle equal what the blocks hold;
//   - a block with an owner has that owner's affinity, and at most one affinity
//     of a block is confirmed;
//   - a node has a loan from a block if it has an address of it that is in use and isn't
//     its own, and else none.
//
// An affinity alone, pending or without its block, is no violation: it is what a
// crash may leave, and a claim goes on from there. The store must be at rest.
func Check(ctx context.Context, client datastore.Client) error { return check(ctx, client, true) }

// CheckBesideStrangers is Check of a store where somebody writes who knows nothing of loans.
func CheckBesideStrangers(ctx context.Context, client datastore.Client) error {
	return check(ctx, client, false)
}

func check(ctx context.Context, client datastore.Client, loans bool) error {
	s, err := read(ctx, client)
	if err != nil {
		return err
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for _, prefix := range slices.SortedFunc(maps.Keys(s.blocks), netip.Prefix.Compare) {
		checkBlock(s.blocks[prefix], prefix, fault)
		s.checkPlace(prefix, fault)
		s.checkOwner(prefix, fault)
	}
	s.checkHandles(fault)
	if loans {
		s.checkLoans(fault)
	}
	return errors.Join(faults...)
}

// reservedHandle holds the addresses that a block keeps back for its host: it has no
// record of its own.
const reservedHandle = "windows-reserved-ipam-handle"

type faultFunc func(format string, args ...any)

// content is the IPAM state of a store.
type content struct {
	pools      []*v3.IPPool
	blocks     map[netip.Prefix]*api.IPAMBlockSpec
	affinities map[netip.Prefix]map[api.Affinity]api.AffinityState
	handles    map[string]map[string]int
	loans      map[string]bool // by name
}

func read(ctx context.Context, client datastore.Client) (*content, error) {
	s := &content{
		blocks:     make(map[netip.Prefix]*api.IPAMBlockSpec),
		affinities: make(map[netip.Prefix]map[api.Affinity]api.AffinityState),
		handles:    make(map[string]map[string]int),
		loans:      make(map[string]bool),
	}
	var faults []error
	for _, kind := range []api.Kind{api.KindIPPool, api.KindIPAMBlock, api.KindBlockAffinity, api.KindIPAMHandle, api.KindIPAMLoan} {
		snap, err := client.List(ctx, datastore.Range{Kind: kind})
		if err != nil {
			return nil, fmt.Errorf("check ipam: %w", err)
		}
		for i := range snap.Invalid {
			faults = append(faults, &snap.Invalid[i])
		}
		for _, entry := range snap.Entries {
			if err := s.add(entry); err != nil {
				faults = append(faults, err)
			}
		}
	}
	return s, errors.Join(faults...)
}

func (s *content) add(entry datastore.Entry) error {
	switch obj := entry.Object.(type) {
	case *v3.IPPool:
		s.pools = append(s.pools, obj)
	case *api.IPAMHandle:
		s.handles[entry.Key.Name] = obj.Spec.Block
	case *api.IPAMLoan:
		s.loans[entry.Key.Name] = true
	case *api.IPAMBlock:
		prefix, err := netip.ParsePrefix(entry.Key.Name)
		if err != nil || obj.Spec.CIDR != prefix.String() || prefix != prefix.Masked() {
			return fmt.Errorf("%s: cidr %q", entry.Key, obj.Spec.CIDR)
		}
		s.blocks[prefix] = &obj.Spec
	case *api.BlockAffinity:
		owner, prefix, err := api.ParseBlockAffinityName(entry.Key.Name)
		if err != nil {
			return fmt.Errorf("%s: %w", entry.Key, err)
		}
		if s.affinities[prefix] == nil {
			s.affinities[prefix] = make(map[api.Affinity]api.AffinityState)
		}
		s.affinities[prefix][owner] = obj.Spec.State
	}
	return nil
}

func checkBlock(b *api.IPAMBlockSpec, prefix netip.Prefix, fault faultFunc) {
	size := 1 << (prefix.Addr().BitLen() - prefix.Bits())
	if len(b.Allocations) != size {
		fault("block %s: %d allocations, want %d", prefix, len(b.Allocations), size)
		return
	}
	listed := make([]int, size)
	for _, n := range b.Unallocated {
		if n < 0 || n >= size {
			fault("block %s: unallocated ordinal %d is out of range", prefix, n)
			continue
		}
		listed[n]++
	}
	uses := make([]int, len(b.Attributes))
	for n, index := range b.Allocations {
		switch {
		case index == nil && listed[n] != 1:
			fault("block %s: free ordinal %d is listed %d times as unallocated", prefix, n, listed[n])
		case index == nil:
		case listed[n] != 0:
			fault("block %s: allocated ordinal %d is also listed as unallocated", prefix, n)
		case *index < 0 || *index >= len(uses):
			fault("block %s: ordinal %d refers to attribute %d of %d", prefix, n, *index, len(uses))
		default:
			uses[*index]++
			seq, ok := b.SequenceNumberForAllocation[strconv.Itoa(n)]
			if !ok || seq >= b.SequenceNumber {
				fault("block %s: ordinal %d was allocated at sequence number %d, block is at %d", prefix, n, seq, b.SequenceNumber)
			}
		}
	}
	for i, used := range uses {
		if used == 0 {
			fault("block %s: attribute %d belongs to no address", prefix, i)
		}
	}
}

// checkPlace checks that a block lies in one pool and overlaps no block.
func (s *content) checkPlace(prefix netip.Prefix, fault faultFunc) {
	pools := 0
	for _, p := range s.pools {
		cidr, err := netip.ParsePrefix(p.Spec.CIDR)
		if err == nil && cidr.Contains(prefix.Addr()) && cidr.Bits() <= prefix.Bits() {
			pools++
		}
	}
	if pools == 0 {
		fault("block %s: in no pool", prefix)
	}
	for other := range s.blocks {
		if other != prefix && other.Overlaps(prefix) {
			fault("block %s: overlaps block %s", prefix, other)
		}
	}
}

// checkOwner checks the block's owner against the affinities.
func (s *content) checkOwner(prefix netip.Prefix, fault faultFunc) {
	confirmed := 0
	for _, state := range s.affinities[prefix] {
		if state == api.AffinityConfirmed {
			confirmed++
		}
	}
	if confirmed > 1 {
		fault("block %s: %d confirmed affinities", prefix, confirmed)
	}
	text := s.blocks[prefix].Affinity
	if text == nil {
		if confirmed > 0 {
			fault("block %s: a confirmed affinity, but the block has no owner", prefix)
		}
		return
	}
	owner, err := api.ParseAffinity(*text)
	if err != nil {
		fault("block %s: %v", prefix, err)
		return
	}
	state, ok := s.affinities[prefix][owner]
	if !ok {
		fault("block %s: owner %s has no affinity", prefix, owner)
	}
	if confirmed > 0 && state != api.AffinityConfirmed {
		fault("block %s: owner %s is %s, but another affinity is confirmed", prefix, owner, state)
	}
}

// checkHandles compares the counts of handles with the blocks.
func (s *content) checkHandles(fault faultFunc) {
	held := s.held(fault)
	for id, counts := range s.handles {
		if !maps.Equal(counts, held[id]) {
			fault("handle %s: counts %v, blocks hold %v", id, counts, held[id])
		}
		delete(held, id)
	}
	for id, counts := range held {
		fault("handle %s: no such handle, but blocks hold %v", id, counts)
	}
}

// held counts what the blocks hold for every handle.
func (s *content) held(fault faultFunc) map[string]map[string]int {
	held := make(map[string]map[string]int)
	for prefix, b := range s.blocks {
		for n, index := range b.Allocations {
			if index == nil || *index >= len(b.Attributes) {
				continue
			}
			if handle := b.Attributes[*index].HandleID; handle != nil && *handle == reservedHandle {
				continue
			}
			if b.Attributes[*index].HandleID == nil {
				fault("block %s: ordinal %d has no handle", prefix, n)
				continue
			}
			id := *b.Attributes[*index].HandleID
			if held[id] == nil {
				held[id] = make(map[string]int)
			}
			held[id][prefix.String()]++
		}
	}
	return held
}

// Owners maps every allocated address to the handle that holds it.
func Owners(ctx context.Context, client datastore.Client) (map[netip.Addr]string, error) {
	s, err := read(ctx, client)
	if err != nil {
		return nil, err
	}
	owners := make(map[netip.Addr]string)
	for prefix, b := range s.blocks {
		addr := prefix.Addr()
		for _, index := range b.Allocations {
			if index != nil && b.Attributes[*index].HandleID != nil && *b.Attributes[*index].HandleID != reservedHandle {
				owners[addr] = *b.Attributes[*index].HandleID
			}
			addr = addr.Next()
		}
	}
	return owners, nil
}

func (s *content) checkLoans(fault faultFunc) {
	want := make(map[string]bool)
	for prefix, spec := range s.blocks {
		for _, index := range spec.Allocations {
			if index == nil || *index < 0 || *index >= len(spec.Attributes) {
				continue
			}
			node := spec.Attributes[*index].ActiveOwnerAttrs[api.AttributeNode]
			if node != "" && (spec.Affinity == nil || *spec.Affinity != api.HostAffinity(node).String()) {
				want[api.LoanKey(node, prefix).Name] = true
			}
		}
	}
	for name := range want {
		if !s.loans[name] {
			fault("loan %s is missing", name)
		}
	}
	for name := range s.loans {
		if !want[name] {
			fault("loan %s: nothing is borrowed", name)
		}
	}
}
