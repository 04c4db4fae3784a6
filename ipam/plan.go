package ipam

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// placement is one address as a transaction assigns it. Block, ordinal and
// sequence number together happen only once in the life of a store.
type placement struct {
	block    netip.Prefix
	ordinal  int
	sequence uint64
	pool     string
}

// plan is one transaction in the making: the changed copies of blocks and
// handles, and what each call gets when it commits. Building it reads the
// writer's state and changes nothing there.
type plan struct {
	state    *state
	reserved reservations
	blocks   map[netip.Prefix]block
	handles  map[HandleID]*stagedHandle
	assigned map[*call][]placement
	released map[*call][]netip.Addr
	// companions are the objects created along with the addresses of calls.
	companions map[*call]datastore.Op
	// undone are the doubts whose addresses this transaction takes back.
	undone []*doubt
	// freed is what the history says of this transaction's releases, by the call that
	// asked for them; nil for those that are undone.
	freed map[*call][]recorded
	// ops counts the operations so far.
	ops int
	// now is when the transaction is made.
	now time.Time
}

// stagedHandle is a handle as it will be.
type stagedHandle struct {
	entry  datastore.Entry
	exists bool
	counts map[string]int
	// grows says that the handle is written before the blocks: a count above
	// what the blocks hold is harmless, one below would lose addresses.
	grows bool
}

func newPlan(s *state, reserved reservations, now time.Time) *plan {
	return &plan{
		state:    s,
		reserved: reserved,
		blocks:   make(map[netip.Prefix]block),
		handles:  make(map[HandleID]*stagedHandle),
		assigned: make(map[*call][]placement),
		released: make(map[*call][]netip.Addr),

		companions: make(map[*call]datastore.Op),
		freed:      make(map[*call][]recorded),
		now:        now,
	}
}

// view is a block as it is at this point of the plan.
func (p *plan) view(prefix netip.Prefix) block {
	if b, ok := p.blocks[prefix]; ok {
		return b
	}
	return p.state.blocks[prefix].block
}

// stage is the plan's own copy of a block, which it will write.
func (p *plan) stage(prefix netip.Prefix) block {
	b, ok := p.blocks[prefix]
	if !ok {
		b = p.state.blocks[prefix].clone()
		p.blocks[prefix] = b
		p.ops += p.cost(prefix)
	}
	return b
}

// cost is how many operations it takes to write a block: one of others may begin or end a
// loan.
func (p *plan) cost(prefix netip.Prefix) int {
	if owner, _ := p.state.blocks[prefix].owner(); owner != p.state.owner {
		return 2
	}
	return 1
}

// stageHandle is the plan's own copy of a handle. A handle that isn't known is
// taken to be absent: the transaction checks it.
func (p *plan) stageHandle(id HandleID, grows bool) *stagedHandle {
	entry, exists := p.state.handles[id]
	h := &stagedHandle{entry: entry, exists: exists, counts: handleCounts(entry), grows: grows}
	p.handles[id] = h
	p.ops++
	return h
}

// fits reports whether a handle and blocks can still be added. A handle takes
// part in a transaction once.
func (p *plan) fits(id HandleID, blocks []netip.Prefix) bool {
	if _, busy := p.handles[id]; busy {
		return false
	}
	more := 2 // the handle, and perhaps a companion
	for _, prefix := range blocks {
		if _, staged := p.blocks[prefix]; !staged {
			more += p.cost(prefix)
		}
	}
	return p.ops+more <= maxOps || p.ops == 0
}

// portion is a number of addresses to take from a block.
type portion struct {
	block netip.Prefix
	num   int
	pool  string
	// exact: not any num addresses, but the one at ordinal.
	exact   bool
	ordinal int
}

// take assigns a portion.
func (part portion) take(b block, attrs api.BlockAttributes, reserved reservations) []int {
	if part.exact {
		return b.assignAt(part.ordinal, attrs)
	}
	return b.assign(part.num, attrs, reserved)
}

// search finds num addresses in the node's blocks, in the order of the pools, and then
// in those it may borrow from; it reports how many it found.
func (p *plan) search(num int, pools []pool) (portions []portion, found int) {
	if portions, found = p.searchIn(portions, num, pools, p.state.roomy); found < num && len(p.state.borrowed) > 0 {
		var more int
		portions, more = p.searchIn(portions, num-found, pools, p.state.lenders)
		found += more
	}
	return portions, found
}

// searchIn adds portions of the blocks that a pool has according to blocks.
func (p *plan) searchIn(portions []portion, num int, pools []pool, blocks func(pool) iter.Seq[netip.Prefix]) (_ []portion, found int) {
	for _, pl := range pools {
		if found == num {
			return portions, found
		}
		for prefix := range blocks(pl) {
			b := p.view(prefix)
			if n := min(b.available(p.reserved), num-found); n > 0 {
				portions = append(portions, portion{block: prefix, num: n, pool: pl.name})
				found += n
			}
			if found == num {
				break
			}
		}
	}
	return portions, found
}

// assign adds the addresses of a call. It reports false, having changed nothing,
// when the transaction has no room for it.
func (p *plan) assign(c *call, portions []portion) bool {
	prefixes := make([]netip.Prefix, len(portions))
	for i, part := range portions {
		prefixes[i] = part.block
	}
	if !p.fits(c.handle, prefixes) {
		return false
	}
	h := p.stageHandle(c.handle, true)
	for _, part := range portions {
		b := p.stage(part.block)
		for _, n := range part.take(b, c.attrs, p.reserved) {
			p.assigned[c] = append(p.assigned[c], placement{
				block: part.block, ordinal: n, sequence: b.sequence(n), pool: part.pool,
			})
		}
		h.counts[part.block.String()] += part.num
	}
	p.accompany(c)
	return true
}

// accompany adds the companion of a call. Of two with one key in a transaction
// the second call goes without.
func (p *plan) accompany(c *call) {
	if c.alone {
		return
	}
	key, obj := c.assign.With.Make(assignments(p.assigned[c]))
	for _, op := range p.companions {
		if op.Key == key {
			c.alone = true
			return
		}
	}
	p.companions[c] = datastore.Create(key, obj)
	p.ops++
}

// dropCompanions lets the calls whose companion stands in the way go without it,
// all of them when the reason isn't known. It reports whether there were any.
func (p *plan) dropCompanions(inTheWay func(api.Key) bool) (dropped bool) {
	for c, op := range p.companions {
		if inTheWay(op.Key) {
			c.alone, dropped = true, true
		}
	}
	return dropped
}

// release adds the release of all addresses of a handle. It reports false,
// having changed nothing, when the transaction has no room for it. A block that
// the handle counts without holding anything there is written all the same: that
// makes an assignment half done by another program fail instead of escaping.
func (p *plan) release(c *call) bool {
	blocks := p.state.blocksOf(c.handle)
	if !p.fits(c.handle, blocks) {
		return false
	}
	_, exists := p.state.handles[c.handle]
	p.released[c] = nil
	if !exists && len(blocks) == 0 {
		return true
	}
	for _, prefix := range blocks {
		b := p.stage(prefix)
		held := b.held(c.handle)
		for _, n := range held {
			p.released[c] = append(p.released[c], b.addr(n))
		}
		p.freed[c] = append(p.freed[c], recorded{prefix, b.released(held, p.now, reasonOf(c.ctx))})
		for _, n := range held {
			p.reserved.rest(b.addr(n))
		}
		b.release(held)
	}
	clear(p.stageHandle(c.handle, false).counts)
	return true
}

// undo adds the release of exactly what a doubt placed, as far as it is still
// there.
func (p *plan) undo(d *doubt) bool {
	blocks := d.blocks()
	if !p.fits(d.request.Handle, blocks) {
		return false
	}
	h := p.stageHandle(d.request.Handle, false)
	for _, at := range d.placed {
		if !p.state.landed(d, at) {
			continue
		}
		b, gone := p.stage(at.block), []int{at.ordinal}
		p.freed[nil] = append(p.freed[nil], recorded{at.block, b.released(gone, p.now, reasonUndone)})
		b.release(gone)
		name := at.block.String()
		if h.counts[name]--; h.counts[name] <= 0 {
			delete(h.counts, name)
		}
	}
	p.undone = append(p.undone, d)
	return true
}

// sent tells the calls that their addresses are on the way to the store.
func (p *plan) sent() {
	for c := range p.assigned {
		if c.assign.Sent != nil {
			c.assign.Sent()
		}
	}
}

// touch makes the plan write a block without changing it, so that an earlier
// transaction whose outcome is unknown can't take effect any more.
func (p *plan) touch(prefix netip.Prefix) { p.stage(prefix) }

// operations seals the blocks and lists the operations in the order that is safe
// even if carried out one by one: handles that grow, blocks, handles that shrink,
// companions.
func (p *plan) operations() []datastore.Op {
	before, after := p.handleOperations()
	prefixes := slices.SortedFunc(maps.Keys(p.blocks), netip.Prefix.Compare)
	ops := before
	for _, prefix := range prefixes {
		b := p.blocks[prefix]
		b.seal()
		ops = append(ops, p.state.blocks[prefix].writes(b)...)
	}
	ops = append(ops, after...)
	return append(ops, slices.SortedFunc(maps.Values(p.companions), func(a, b datastore.Op) int {
		return cmp.Compare(a.Key.String(), b.Key.String())
	})...)
}

func (p *plan) handleOperations() (before, after []datastore.Op) {
	ids := slices.SortedFunc(maps.Keys(p.handles), cmp.Compare[HandleID])
	for _, id := range ids {
		h, key := p.handles[id], api.HandleKey(string(id))
		var op datastore.Op
		switch {
		case len(h.counts) == 0 && !h.exists:
			op = datastore.Check(key, 0)
		case len(h.counts) == 0:
			op = datastore.Delete(key, h.entry.Revision)
		case !h.exists:
			op = datastore.Create(key, handleObject(key, h.counts))
		default:
			h.entry.Object = handleObject(key, h.counts)
			op = datastore.Update(h.entry)
		}
		if h.grows {
			before = append(before, op)
		} else {
			after = append(after, op)
		}
	}
	return before, after
}
