package ipam

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// space has what is free of a pool for blocks of one size, as the largest prefixes that no
// known block overlaps: the next free block is found in as many steps as the pool has
// levels, however many blocks are taken before it.
type space struct {
	pool netip.Prefix
	bits int
	free bart.Lite
}

// newSpace is a pool in which the blocks of taken exist.
func newSpace(pool netip.Prefix, bits int, taken *bart.Lite) *space {
	s := &space{pool: pool, bits: bits}
	if taken.LookupPrefix(pool) {
		return s
	}
	s.free.Insert(pool)
	for prefix := range taken.Subnets(pool) {
		s.take(prefix)
	}
	return s
}

// units is the part of a prefix that lies in the pool, in whole blocks of its size.
func (s *space) units(prefix netip.Prefix) (netip.Prefix, bool) {
	switch {
	case !s.pool.Overlaps(prefix):
		return netip.Prefix{}, false
	case prefix.Bits() < s.pool.Bits():
		return s.pool, true
	case prefix.Bits() > s.bits:
		return netip.PrefixFrom(prefix.Addr(), s.bits).Masked(), true
	}
	return prefix, true
}

// take takes a prefix out.
func (s *space) take(prefix netip.Prefix) {
	prefix, ok := s.units(prefix)
	if !ok {
		return
	}
	around, ok := s.free.LookupPrefixLPM(prefix)
	if !ok {
		s.clear(prefix)
		return
	}
	s.free.Delete(around)
	for ; prefix.Bits() > around.Bits(); prefix = parent(prefix) {
		s.free.Insert(sibling(prefix))
	}
}

// give puts a prefix back in, but for what something that still exists overlaps.
func (s *space) give(prefix netip.Prefix, taken *bart.Lite) {
	if prefix, ok := s.units(prefix); ok {
		s.giveUnits(prefix, taken)
	}
}

func (s *space) giveUnits(prefix netip.Prefix, taken *bart.Lite) {
	switch {
	case taken.LookupPrefix(prefix) || s.free.LookupPrefix(prefix):
		return
	case taken.OverlapsPrefix(prefix):
		if half := netip.PrefixFrom(prefix.Addr(), prefix.Bits()+1); half.Bits() <= s.bits {
			s.giveUnits(half, taken)
			s.giveUnits(sibling(half), taken)
		}
		return
	}
	for prefix != s.pool && s.free.Get(sibling(prefix)) {
		s.free.Delete(sibling(prefix))
		prefix = parent(prefix)
	}
	s.clear(prefix)
	s.free.Insert(prefix)
}

// clear takes out what lies in a prefix.
func (s *space) clear(prefix netip.Prefix) {
	for _, part := range slices.Collect(s.free.Subnets(prefix)) {
		s.free.Delete(part)
	}
}

// from lists the free blocks from one of the pool's on, upwards, wrapping once.
func (s *space) from(first netip.Prefix) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		around, inside := s.free.LookupPrefixLPM(first)
		if inside && !s.blocks(first, around, yield) {
			return
		}
		var before []netip.Prefix // those that lie before first, the nearest first
		for part := first; part != s.pool; part = parent(part) {
			switch other := sibling(part); {
			case other.Addr().Less(first.Addr()):
				before = append(before, other)
			case !s.within(other, yield):
				return
			}
		}
		for _, part := range slices.Backward(before) {
			if !s.within(part, yield) {
				return
			}
		}
		if inside {
			start := netip.PrefixFrom(around.Addr(), s.bits)
			s.blocks(start, around, func(b netip.Prefix) bool { return b != first && yield(b) })
		}
	}
}

// within yields the free blocks in a prefix, and reports false when there shall be no
// more.
func (s *space) within(prefix netip.Prefix, yield func(netip.Prefix) bool) bool {
	for part := range s.free.Subnets(prefix) {
		if !s.blocks(netip.PrefixFrom(part.Addr(), s.bits), part, yield) {
			return false
		}
	}
	return true
}

// blocks yields the blocks of a free prefix from one on.
func (s *space) blocks(block, free netip.Prefix, yield func(netip.Prefix) bool) bool {
	for ok := true; ok && free.Overlaps(block); block, ok = next(block) {
		if !yield(block) {
			return false
		}
	}
	return true
}
