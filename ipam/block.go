package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

// block is the state machine of one block: it changes an api.IPAMBlockSpec and
// does nothing else. Its invariants, which hold after every method:
//
//   - an ordinal is in Unallocated at most once, and never while allocated;
//   - every entry of Attributes is used by at least one ordinal;
//   - a write increments SequenceNumber exactly once (seal), and an allocation
//     remembers the number from before that increment.
//
// A block made by others may lack free ordinals in Unallocated: such an address
// is never assigned, which wastes it but endangers nobody.
type block struct {
	prefix netip.Prefix
	spec   *api.IPAMBlockSpec
}

// newBlock is a block without allocations, owned since now.
func newBlock(prefix netip.Prefix, owner api.Affinity, now time.Time) block {
	size := blockSize(prefix)
	affinity := owner.String()
	claimed := metav1.NewTime(now.UTC().Truncate(time.Second))
	spec := &api.IPAMBlockSpec{
		CIDR:                        prefix.String(),
		Affinity:                    &affinity,
		AffinityClaimTime:           &claimed,
		Allocations:                 make([]*int, size),
		Unallocated:                 make([]int, size),
		Attributes:                  []api.BlockAttributes{},
		SequenceNumber:              uint64(now.UnixNano()),
		SequenceNumberForAllocation: map[string]uint64{},
	}
	for n := range spec.Unallocated {
		spec.Unallocated[n] = n
	}
	return block{prefix: prefix, spec: spec}
}

// openBlock checks a stored block so far that the methods below can't go wrong
// on it. It doesn't copy: clone before changing what others may see.
func openBlock(spec *api.IPAMBlockSpec) (block, error) {
	prefix, err := netip.ParsePrefix(spec.CIDR)
	if err != nil {
		return block{}, fmt.Errorf("read block: cidr: %q: want a CIDR such as 10.65.1.0/26", spec.CIDR)
	}
	if prefix != prefix.Masked() || prefix.Addr().BitLen()-prefix.Bits() > maxBlockBits {
		return block{}, fmt.Errorf("read block %s: not a block: host bits set or more than %d addresses", prefix, 1<<maxBlockBits)
	}
	if len(spec.Allocations) != blockSize(prefix) {
		return block{}, fmt.Errorf("read block %s: %d allocations, want %d", prefix, len(spec.Allocations), blockSize(prefix))
	}
	for n, index := range spec.Allocations {
		if index != nil && (*index < 0 || *index >= len(spec.Attributes)) {
			return block{}, fmt.Errorf("read block %s: ordinal %d refers to attribute %d of %d", prefix, n, *index, len(spec.Attributes))
		}
	}
	seen := make([]bool, len(spec.Allocations))
	for _, n := range spec.Unallocated {
		if n < 0 || n >= len(seen) || seen[n] || spec.Allocations[n] != nil {
			return block{}, fmt.Errorf("read block %s: unallocated ordinal %d is out of range, listed twice or allocated", prefix, n)
		}
		seen[n] = true
	}
	return block{prefix: prefix, spec: spec}, nil
}

// clone is a copy that can be changed. The indices in Allocations, the handles and the
// attributes of an owner are shared: they are never changed, only replaced.
func (b block) clone() block {
	spec := *b.spec
	spec.Allocations = slices.Clone(b.spec.Allocations)
	spec.Unallocated = append([]int{}, b.spec.Unallocated...)
	spec.Attributes = append(make([]api.BlockAttributes, 0, len(b.spec.Attributes)+1), b.spec.Attributes...)
	spec.SequenceNumberForAllocation = maps.Clone(b.spec.SequenceNumberForAllocation)
	if spec.SequenceNumberForAllocation == nil {
		spec.SequenceNumberForAllocation = map[string]uint64{}
	}
	return block{prefix: b.prefix, spec: &spec}
}

// owner is the affinity of the block, also in the form of stores older than
// Calico 3; ok is false for a block without one.
func (b block) owner() (owner api.Affinity, ok bool) {
	if b.spec.Affinity != nil && *b.spec.Affinity != "" {
		owner, err := api.ParseAffinity(*b.spec.Affinity)
		return owner, err == nil
	}
	if b.spec.Affinity == nil && b.spec.HostAffinity != nil && *b.spec.HostAffinity != "" {
		return api.HostAffinity(*b.spec.HostAffinity), true
	}
	return api.Affinity{}, false
}

// disown takes the affinity away.
func (b block) disown() {
	b.spec.Affinity, b.spec.HostAffinity, b.spec.AffinityClaimTime = nil, nil, nil
}

// seal counts a write of the block. It is called once per write, after the
// changes.
func (b block) seal() { b.spec.SequenceNumber++ }

// empty reports whether no address is allocated but those kept back for the host.
func (b block) empty() bool {
	for n, index := range b.spec.Allocations {
		if index != nil && b.holder(n) != KeptBack {
			return false
		}
	}
	return true
}

// used counts the allocated addresses.
func (b block) used() int {
	used := 0
	for _, index := range b.spec.Allocations {
		if index != nil {
			used++
		}
	}
	return used
}

// available counts the addresses that assign may take.
func (b block) available(reserved reservations) int {
	if reserved.empty() {
		return len(b.spec.Unallocated)
	}
	free := 0
	for _, n := range b.spec.Unallocated {
		if !reserved.contains(b.addr(n)) {
			free++
		}
	}
	return free
}

// assign takes up to num addresses, the one free for the longest time first, and
// leaves reserved ones where they are in the queue.
func (b block) assign(num int, attrs api.BlockAttributes, reserved reservations) []int {
	taken, kept := b.front(num, reserved)
	if len(taken) == 0 {
		return nil
	}
	index := b.attribute(attrs)
	for _, n := range taken {
		b.spec.Allocations[n] = &index
		b.spec.SequenceNumberForAllocation[strconv.Itoa(n)] = b.spec.SequenceNumber
	}
	b.spec.Unallocated = kept
	return taken
}

// front splits the queue of free addresses into the first num that may be assigned and
// the others.
func (b block) front(num int, reserved reservations) (taken, kept []int) {
	if reserved.empty() {
		num = min(num, len(b.spec.Unallocated))
		return b.spec.Unallocated[:num:num], b.spec.Unallocated[num:]
	}
	kept = make([]int, 0, len(b.spec.Unallocated))
	for _, n := range b.spec.Unallocated {
		if len(taken) == num || reserved.contains(b.addr(n)) {
			kept = append(kept, n)
			continue
		}
		taken = append(taken, n)
	}
	return taken, kept
}

// assignAt takes one address, in whatever state its queue is, and nothing when it isn't
// free.
func (b block) assignAt(ordinal int, attrs api.BlockAttributes) []int {
	at := slices.Index(b.spec.Unallocated, ordinal)
	if at < 0 {
		return nil
	}
	index := b.attribute(attrs)
	b.spec.Allocations[ordinal] = &index
	b.spec.SequenceNumberForAllocation[strconv.Itoa(ordinal)] = b.spec.SequenceNumber
	b.spec.Unallocated = slices.Delete(b.spec.Unallocated, at, at+1)
	return []int{ordinal}
}

// keepBack reserves the ends of a new block for its host.
func (b block) keepBack(r BlockReserve) {
	handle := string(KeptBack)
	attrs := api.BlockAttributes{HandleID: &handle, ActiveOwnerAttrs: map[string]string{"note": r.Note}}
	size := len(b.spec.Allocations)
	for n := range size {
		if n < r.First || n >= size-r.Last {
			b.assignAt(n, attrs)
		}
	}
}

// attribute is the index of attrs, shared with equal ones.
func (b block) attribute(attrs api.BlockAttributes) int {
	for i, have := range b.spec.Attributes {
		if equalAttributes(have, attrs) {
			return i
		}
	}
	b.spec.Attributes = append(b.spec.Attributes, attrs)
	return len(b.spec.Attributes) - 1
}

// held lists the ordinals of a handle in ascending order.
func (b block) held(handle HandleID) []int {
	var ordinals []int
	for n := range b.spec.Allocations {
		if b.holder(n) == handle && b.spec.Allocations[n] != nil {
			ordinals = append(ordinals, n)
		}
	}
	return ordinals
}

// holder is the handle of an ordinal, empty when it is free or has none.
func (b block) holder(n int) HandleID {
	if index := b.spec.Allocations[n]; index != nil {
		return handleOf(b.spec.Attributes[*index])
	}
	return ""
}

// sequence is the sequence number an ordinal was allocated under.
func (b block) sequence(n int) uint64 {
	return b.spec.SequenceNumberForAllocation[strconv.Itoa(n)]
}

// release frees ordinals; those already free are ignored. The attributes they
// used are dropped when nobody else uses them, and the rest re-indexed.
func (b block) release(ordinals []int) {
	for _, n := range ordinals {
		if b.spec.Allocations[n] == nil {
			continue
		}
		b.spec.Allocations[n] = nil
		b.spec.Unallocated = append(b.spec.Unallocated, n)
		delete(b.spec.SequenceNumberForAllocation, strconv.Itoa(n))
	}
	b.compact()
}

// compact drops attributes that no ordinal uses.
func (b block) compact() {
	moved := make([]int, len(b.spec.Attributes))
	for i := range moved {
		moved[i] = -1
	}
	for _, index := range b.spec.Allocations {
		if index != nil {
			moved[*index] = *index
		}
	}
	kept := []api.BlockAttributes{}
	for i, attrs := range b.spec.Attributes {
		if moved[i] == i {
			moved[i] = len(kept)
			kept = append(kept, attrs)
		}
	}
	for n, index := range b.spec.Allocations {
		if index != nil && moved[*index] != *index {
			b.spec.Allocations[n] = &moved[*index]
		}
	}
	b.spec.Attributes = kept
}

// addr is the address of an ordinal.
func (b block) addr(n int) netip.Addr { return addrAt(b.prefix, n) }

// equalAttributes compares the handle and every attribute, as sharing requires.
func equalAttributes(x, y api.BlockAttributes) bool {
	return (x.HandleID == nil) == (y.HandleID == nil) && sameHandle(x, y) && maps.Equal(x.ActiveOwnerAttrs, y.ActiveOwnerAttrs) &&
		maps.Equal(x.AlternateOwnerAttrs, y.AlternateOwnerAttrs)
}

// sortPrefixes puts prefixes in a stable order: by address, then by length.
func sortPrefixes(prefixes []netip.Prefix) {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
}
