package ipam

import (
	"net/netip"
	"slices"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// doubt is an assignment that nobody was told of but that may stand in the store,
// now or later: the outcome of its transaction is unknown, or its caller left
// before the answer. It ends in one of three ways: the same request, repeated,
// gets the addresses; they are released; or the block is written by something
// else at the revision the transaction needed, which makes it impossible.
type doubt struct {
	request Request
	attrs   api.BlockAttributes
	placed  []placement
	// base is the revision of the first placement's block that the transaction
	// depends on. While the block is still there, the outcome is open.
	base datastore.Revision
}

func (d *doubt) blocks() []netip.Prefix {
	var prefixes []netip.Prefix
	for _, at := range d.placed {
		if !slices.Contains(prefixes, at.block) {
			prefixes = append(prefixes, at.block)
		}
	}
	return prefixes
}

// same reports whether two doubts can't be told apart in the store.
func (d *doubt) same(o *doubt) bool {
	return d.request.Handle == o.request.Handle && slices.Equal(d.placed, o.placed) && equalAttributes(d.attrs, o.attrs)
}

// addDoubt remembers a doubt, once.
func (s *state) addDoubt(d *doubt) {
	if !slices.ContainsFunc(s.doubts, d.same) {
		s.doubts = append(s.doubts, d)
	}
}

func (s *state) dropDoubt(d *doubt) {
	s.doubts = slices.DeleteFunc(s.doubts, func(o *doubt) bool { return o == d })
}

// verdict is how a doubt stands.
type verdict int

const (
	verdictOpen    verdict = iota // the transaction may still take effect
	verdictLanded                 // it did, and at least part of it stands
	verdictNothing                // it didn't and never will, or nothing is left of it
)

// judge compares a doubt with the present state of its blocks, which must have
// been read.
func (s *state) judge(d *doubt) verdict {
	if b, ok := s.blocks[d.placed[0].block]; ok && b.entry.Revision == d.base {
		return verdictOpen
	}
	if slices.ContainsFunc(d.placed, func(at placement) bool { return s.landed(d, at) }) {
		return verdictLanded
	}
	return verdictNothing
}

// landed reports whether a placement of a doubt stands in its block.
func (s *state) landed(d *doubt, at placement) bool {
	b, ok := s.blocks[at.block]
	if !ok || b.spec.Allocations[at.ordinal] == nil || b.sequence(at.ordinal) != at.sequence {
		return false
	}
	return equalAttributes(b.spec.Attributes[*b.spec.Allocations[at.ordinal]], d.attrs)
}

// complete reports whether all of a doubt's placements stand.
func (s *state) complete(d *doubt) bool {
	return !slices.ContainsFunc(d.placed, func(at placement) bool { return !s.landed(d, at) })
}

// fences reports whether committing the plan makes the doubt's transaction
// impossible.
func (p *plan) fences(d *doubt) bool {
	first := d.placed[0].block
	_, written := p.blocks[first]
	return written && p.state.blocks[first].entry.Revision == d.base
}
