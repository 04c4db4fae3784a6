package ipam

import (
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// state is what the writer believes the store to hold. It may be out of date:
// every write is checked against the store by revision, and a conflict brings
// the truth (absorb).
type state struct {
	owner api.Affinity
	log   *slog.Logger

	// blocks are the node's own and, while a release needs them, those of others. keep and
	// lose change it, so that the index follows.
	blocks map[netip.Prefix]storedBlock
	index  *index
	// claims are the node's affinities that aren't good for allocation: claimed
	// half-way, given up half-way, or without their block.
	claims map[netip.Prefix]claimState
	// broken are the blocks whose value can't be used, with the reason.
	broken map[netip.Prefix]error
	// unreadable are the blocks for which nobody can tell what the node's affinity says:
	// they are left alone.
	unreadable map[netip.Prefix]error
	// handles are those that hold addresses of this node, as last written or read.
	handles map[HandleID]datastore.Entry
	// absent are the handles known not to exist; forgotten with every batch.
	absent map[HandleID]bool
	// brokenHandles are those whose value can't be read; forgotten likewise.
	brokenHandles map[HandleID]error
	// taken has every block of the cluster known to exist, nil before it is built.
	taken *bart.Lite
	// spaces are what taken leaves free, by pool and block length; made when it is asked for.
	spaces map[spaceKey]*space
	// others are the blocks that are not the node's and may still help it, as last
	// seen; nil before taken is built.
	others map[netip.Prefix]other
	// borrowed are blocks of others that the present batch may assign from.
	borrowed map[netip.Prefix]bool
	// borrowing counts the addresses of this node in blocks of others.
	borrowing map[netip.Prefix]int
	// freed are addresses of the node's blocks that somebody else released.
	freed []netip.Addr
	// stale are blocks that must be read before they are used.
	stale map[netip.Prefix]bool
	// loaded says that claims and own blocks reflect all of the node's affinities.
	loaded bool
	doubts []*doubt
}

func newState(owner api.Affinity, log *slog.Logger) *state {
	return &state{
		owner:  owner,
		log:    log,
		index:  newIndex(owner),
		spaces: make(map[spaceKey]*space),

		unreadable: make(map[netip.Prefix]error),
		blocks:     make(map[netip.Prefix]storedBlock),
		claims:     make(map[netip.Prefix]claimState),
		broken:     make(map[netip.Prefix]error),
		handles:    make(map[HandleID]datastore.Entry),
		absent:     make(map[HandleID]bool),
		stale:      make(map[netip.Prefix]bool),

		borrowed:      make(map[netip.Prefix]bool),
		borrowing:     make(map[netip.Prefix]int),
		brokenHandles: make(map[HandleID]error),
	}
}

// own reports whether a block may be allocated from: the node's affinity stands
// in it, and the affinity record is confirmed.
func (s *state) own(prefix netip.Prefix) bool {
	b, ok := s.blocks[prefix]
	if !ok || s.stale[prefix] || s.unreadable[prefix] != nil {
		return false
	}
	if _, unsettled := s.claims[prefix]; unsettled {
		return false
	}
	owner, ok := b.owner()
	return ok && owner == s.owner
}

// ownBlocks lists the node's blocks in a pool by address.
func (s *state) ownBlocks(p pool) []netip.Prefix {
	return slices.Collect(s.usable(p.in(&s.index.mine)))
}

// usable leaves out what may not be allocated from.
func (s *state) usable(blocks iter.Seq[netip.Prefix]) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for prefix := range blocks {
			if s.own(prefix) && !yield(prefix) {
				return
			}
		}
	}
}

// roomy are the node's blocks in a pool that have an address left, by address.
func (s *state) roomy(p pool) iter.Seq[netip.Prefix] { return s.usable(p.in(&s.index.room)) }

// lenders are the blocks of others in a pool that may be assigned from.
func (s *state) lenders(p pool) iter.Seq[netip.Prefix] { return slices.Values(s.borrowedBlocks(p)) }

// borrowedBlocks lists the blocks of others in a pool that may be assigned from.
func (s *state) borrowedBlocks(p pool) []netip.Prefix {
	var prefixes []netip.Prefix
	for prefix := range s.borrowed {
		if _, known := s.blocks[prefix]; known && p.owns(prefix) && !s.stale[prefix] && !s.own(prefix) {
			prefixes = append(prefixes, prefix)
		}
	}
	sortPrefixes(prefixes)
	return prefixes
}

// countBlocks counts the affinities of the node in a family.
func (s *state) countBlocks(f family) int {
	count := 0
	for prefix := range s.blocks {
		if familyOf(prefix) == f && s.own(prefix) {
			count++
		}
	}
	for prefix, claim := range s.claims {
		if familyOf(prefix) == f && claim.affinity != nil {
			count++
		}
	}
	return count
}

// blocksOf lists the known blocks where a handle holds addresses or, according to
// its own count, should.
func (s *state) blocksOf(id HandleID) []netip.Prefix {
	set := make(map[netip.Prefix]bool)
	if entry, ok := s.handles[id]; ok {
		for _, prefix := range handleBlocks(entry) {
			if _, exists := s.blocks[prefix]; exists {
				set[prefix] = true
			}
		}
	}
	for _, prefix := range s.index.holding[id] {
		if s.own(prefix) {
			set[prefix] = true
		}
	}
	return slices.SortedFunc(maps.Keys(set), netip.Prefix.Compare)
}

// setBlock takes in a block as the store holds it.
func (s *state) setBlock(entry datastore.Entry) {
	prefix, ok := blockOfKey(entry.Key)
	if !ok {
		return
	}
	s.take(prefix)
	delete(s.stale, prefix)
	b, err := asBlock(entry)
	if err != nil {
		s.breakBlock(prefix, err)
		return
	}
	delete(s.broken, prefix)
	wasOwn := s.own(prefix)
	if before, known := s.blocks[prefix]; known && wasOwn {
		s.freed = append(s.freed, freedBetween(before.block, b.block)...)
	}
	s.keep(prefix, b)
	s.noteOther(b)
	if wasOwn && !s.own(prefix) {
		s.log.Info("block was taken away from this node", "block", prefix, "affinity", ownerText(b.block))
		s.loaded = false
	}
}

// freedBetween lists the addresses that are free in a block and were not before.
func freedBetween(before, now block) []netip.Addr {
	var freed []netip.Addr
	for n, index := range now.spec.Allocations {
		if index == nil && before.spec.Allocations[n] != nil {
			freed = append(freed, now.addr(n))
		}
	}
	return freed
}

// breakBlock takes in that a block exists whose value can't be used.
func (s *state) breakBlock(prefix netip.Prefix, err error) {
	s.take(prefix)
	delete(s.stale, prefix)
	if s.broken[prefix] == nil {
		s.log.Warn("block can't be used", "block", prefix, "err", err)
	}
	s.broken[prefix] = err
	delete(s.others, prefix)
	s.forget(prefix)
}

// dropBlock takes in that a block doesn't exist.
func (s *state) dropBlock(prefix netip.Prefix) {
	delete(s.stale, prefix)
	delete(s.broken, prefix)
	if s.taken != nil {
		s.taken.Delete(prefix)
		for _, sp := range s.spaces {
			sp.give(prefix, s.taken)
		}
	}
	delete(s.others, prefix)
	delete(s.borrowing, prefix)
	s.forget(prefix)
}

// forget removes a block from use. If it was the node's, the affinities need
// another look.
func (s *state) forget(prefix netip.Prefix) {
	if b, ok := s.blocks[prefix]; ok {
		if owner, _ := b.owner(); owner == s.owner {
			s.loaded = false
		}
		s.lose(prefix)
	}
}

// keep has a block in memory.
func (s *state) keep(prefix netip.Prefix, b storedBlock) {
	s.index.put(prefix, s.blocks[prefix].block, b.block)
	s.blocks[prefix] = b
}

// lose has a block in memory no more.
func (s *state) lose(prefix netip.Prefix) {
	s.index.put(prefix, s.blocks[prefix].block, block{})
	delete(s.blocks, prefix)
}

// take notes that a block exists, or is as good as existing.
func (s *state) take(prefix netip.Prefix) {
	if s.taken != nil {
		s.taken.Insert(prefix)
		for _, sp := range s.spaces {
			sp.take(prefix)
		}
	}
}

// spaceKey is a range with the length of the blocks it is divided into.
type spaceKey struct {
	pool netip.Prefix
	bits int
}

// space is what is free of a pool; taken must have been built.
func (s *state) space(p pool) *space {
	key := spaceKey{p.prefix, p.blockBits}
	if s.spaces[key] == nil {
		s.spaces[key] = newSpace(p.prefix, p.blockBits, s.taken)
	}
	return s.spaces[key]
}

func (s *state) setHandle(id HandleID, entry datastore.Entry) {
	s.handles[id] = entry
	delete(s.absent, id)
}

func (s *state) dropHandle(id HandleID) {
	delete(s.handles, id)
	s.absent[id] = true
}

// absorb takes in the present state of keys, as a conflict or a read gave it.
func (s *state) absorb(keys []api.Key, found present) {
	for _, key := range keys {
		entry, exists := found.entries[key]
		invalid := found.invalid[key]
		prefix, isBlock := blockOfKey(key)
		switch id := HandleID(key.Name); {
		case isBlock && exists:
			s.setBlock(entry)
		case isBlock && invalid != nil:
			s.breakBlock(prefix, invalid)
		case isBlock:
			s.dropBlock(prefix)
		case key.Kind == api.KindIPAMHandle && exists:
			s.setHandle(id, entry)
		case key.Kind == api.KindIPAMHandle:
			s.dropHandle(id)
			if invalid != nil {
				s.brokenHandles[id] = invalid
			}
		}
	}
}

// distrust marks everything a transaction of unknown outcome touched.
func (s *state) distrust(ops []datastore.Op) {
	for _, op := range ops {
		if prefix, ok := blockOfKey(op.Key); ok {
			s.stale[prefix] = true
		} else if op.Key.Kind == api.KindIPAMHandle {
			delete(s.handles, HandleID(op.Key.Name))
			delete(s.absent, HandleID(op.Key.Name))
		}
	}
}

// settle takes in a transaction that committed at rev.
func (s *state) settle(p *plan, rev datastore.Revision) {
	s.doubts = slices.DeleteFunc(s.doubts, func(d *doubt) bool { return p.fences(d) || slices.Contains(p.undone, d) })
	for prefix, b := range p.blocks {
		stored := s.blocks[prefix]
		if stored.write(b).Kind == datastore.OpDelete {
			s.dropBlock(prefix)
			continue
		}
		stored.entry = stored.with(b)
		stored.entry.Revision = rev
		stored.block = b
		s.keep(prefix, stored)
		s.noteOther(stored)
	}
	for id, h := range p.handles {
		if len(h.counts) == 0 {
			s.dropHandle(id)
			continue
		}
		key := api.HandleKey(string(id))
		h.entry.Key, h.entry.Object, h.entry.Revision = key, handleObject(key, h.counts), rev
		s.setHandle(id, h.entry)
	}
}

// evict forgets what only the last batch needed.
func (s *state) evict() {
	clear(s.absent)
	clear(s.brokenHandles)
	clear(s.borrowed)
	for prefix := range s.index.foreign {
		s.lose(prefix)
		delete(s.stale, prefix)
	}
}

func ownerText(b block) string {
	owner, ok := b.owner()
	if !ok {
		return "none"
	}
	return owner.String()
}

// errBroken explains a block that can't be used.
func (s *state) errBroken(prefix netip.Prefix) error {
	if err := s.broken[prefix]; err != nil {
		return fmt.Errorf("block %s can't be used: %w", prefix, err)
	}
	return nil
}
