package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Inspection is a block read as far as it goes, also one that the allocator refuses
// because it contradicts itself.
type Inspection struct {
	Prefix netip.Prefix
	// Owner is the block's affinity; Owned is false for a block without one.
	Owner api.Affinity
	Owned bool
	// Allocations are the addresses in use, ascending. One whose attributes are
	// missing has neither handle nor attributes.
	Allocations []Allocation
	// Free are the addresses that are not in use.
	Free int
	// Faults are the contradictions that Mended resolves, each in a few words.
	Faults []string
}

// KeptBack is what upstream calls the holder of the addresses that a block keeps back
// for its host. They have no IPAMHandle, and nobody uses them.
const KeptBack HandleID = "windows-reserved-ipam-handle"

// InUse are the allocations but those kept back.
func (i Inspection) InUse() []Allocation {
	return slices.DeleteFunc(slices.Clone(i.Allocations), func(a Allocation) bool { return a.Handle == KeptBack })
}

// Inspect reads a block. The error is of a block of which can't be told which
// addresses are in use.
func Inspect(entry datastore.Entry) (Inspection, error) {
	b, err := rawBlock(entry)
	if err != nil {
		return Inspection{}, err
	}
	in := Inspection{Prefix: b.prefix}
	in.Owner, in.Owned = b.owner()
	for n, index := range b.spec.Allocations {
		if index == nil {
			in.Free++
			continue
		}
		a := Allocation{Addr: b.addr(n), Block: b.prefix, Sequence: b.sequence(n)}
		if b.hasAttributes(*index) {
			attrs := b.spec.Attributes[*index]
			a.Handle, a.Attrs, a.Alternate = b.holder(n), attrs.ActiveOwnerAttrs, attrs.AlternateOwnerAttrs
		}
		in.Allocations = append(in.Allocations, a)
	}
	in.Faults = b.faults()
	return in, nil
}

// rawBlock is asBlock for a block whose lists may contradict one another.
func rawBlock(entry datastore.Entry) (block, error) {
	obj, ok := entry.Object.(*api.IPAMBlock)
	if !ok {
		return block{}, fmt.Errorf("%s: it holds a %T: %w", entry.Key, entry.Object, datastore.ErrInvalid)
	}
	prefix, err := netip.ParsePrefix(obj.Spec.CIDR)
	switch {
	case err != nil || prefix != prefix.Masked() || prefix.String() != entry.Key.Name:
		return block{}, fmt.Errorf("%s: its value is of block %q: %w", entry.Key, obj.Spec.CIDR, datastore.ErrInvalid)
	case prefix.Addr().BitLen()-prefix.Bits() > maxBlockBits:
		return block{}, fmt.Errorf("%s: more than %d addresses: %w", entry.Key, 1<<maxBlockBits, datastore.ErrInvalid)
	case len(obj.Spec.Allocations) != blockSize(prefix):
		return block{}, fmt.Errorf("%s: %d allocations, want %d: %w", entry.Key, len(obj.Spec.Allocations), blockSize(prefix), datastore.ErrInvalid)
	}
	return block{prefix: prefix, spec: &obj.Spec}, nil
}

func (b block) hasAttributes(index int) bool { return index >= 0 && index < len(b.spec.Attributes) }

// faults are the contradictions between a block's lists.
func (b block) faults() []string {
	var faults []string
	for n, index := range b.spec.Allocations {
		if index != nil && !b.hasAttributes(*index) {
			faults = append(faults, fmt.Sprintf("%s is in use with attributes that don't exist", b.addr(n)))
		}
	}
	kept := b.freeOrdinals()
	if extra := len(b.spec.Unallocated) - len(kept.listed); extra > 0 {
		faults = append(faults, count(extra, "entry")+" of the list of free addresses can't be: in use, listed twice, or outside the block")
	}
	for _, n := range kept.lost {
		faults = append(faults, fmt.Sprintf("%s is neither in use nor in the list of free addresses, so that nobody gets it", b.addr(n)))
	}
	return faults
}

// freeList is what the list of free ordinals should be.
type freeList struct {
	listed []int // in it, rightly, in their order
	lost   []int // missing from it
}

func (b block) freeOrdinals() freeList {
	var f freeList
	seen := make([]bool, len(b.spec.Allocations))
	for _, n := range b.spec.Unallocated {
		if n >= 0 && n < len(seen) && !seen[n] && b.spec.Allocations[n] == nil {
			seen[n] = true
			f.listed = append(f.listed, n)
		}
	}
	for n, index := range b.spec.Allocations {
		if index == nil && !seen[n] {
			f.lost = append(f.lost, n)
		}
	}
	return f
}

// Mended is a block without its Faults: whatever is allocated stays so, with an
// unknown holder where the holder's attributes don't exist; the addresses lost are
// the last to be given out.
func Mended(entry datastore.Entry) (datastore.Entry, error) {
	raw, err := rawBlock(entry)
	if err != nil {
		return datastore.Entry{}, err
	}
	b := raw.clone()
	unknown := -1
	for n, index := range b.spec.Allocations {
		if index == nil || b.hasAttributes(*index) {
			continue
		}
		if unknown < 0 {
			unknown = len(b.spec.Attributes)
		}
		b.spec.Allocations[n] = &unknown
	}
	if unknown >= 0 {
		b.spec.Attributes = append(b.spec.Attributes, api.BlockAttributes{})
	}
	free := b.freeOrdinals()
	b.spec.Unallocated = append(append([]int{}, free.listed...), free.lost...)
	b.compact()
	return sealed(entry, b), nil
}

// Touched is a block written once more without a change, so that whoever is about
// to write it on what it was before fails.
func Touched(entry datastore.Entry) (datastore.Entry, error) {
	stored, err := asBlock(entry)
	if err != nil {
		return datastore.Entry{}, err
	}
	return sealed(entry, stored.clone()), nil
}

// WithAddress is a block in which a free address is in use by attrs.
func WithAddress(entry datastore.Entry, addr netip.Addr, attrs api.BlockAttributes) (datastore.Entry, error) {
	stored, err := asBlock(entry)
	if err != nil {
		return datastore.Entry{}, err
	}
	if !stored.prefix.Contains(addr) {
		return datastore.Entry{}, fmt.Errorf("%s is not in block %s", addr, stored.prefix)
	}
	b, n := stored.clone(), ordinalOf(stored.prefix, addr)
	at := slices.Index(b.spec.Unallocated, n)
	if at < 0 {
		return datastore.Entry{}, fmt.Errorf("%s is not free in block %s", addr, stored.prefix)
	}
	b.spec.Unallocated = slices.Delete(b.spec.Unallocated, at, at+1)
	index := b.attribute(attrs)
	b.spec.Allocations[n] = &index
	b.spec.SequenceNumberForAllocation[strconv.Itoa(n)] = b.spec.SequenceNumber
	return sealed(entry, b), nil
}

// sealed is the entry with a changed block, as it is to be written.
func sealed(entry datastore.Entry, b block) datastore.Entry {
	b.seal()
	entry.Object = blockObject(entry.Key, b.spec)
	return entry
}
