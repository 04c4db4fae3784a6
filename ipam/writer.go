package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

const (
	// maxAttempts bounds the transactions in a row that bring nothing forward.
	maxAttempts = 100
	// doubtRetry is how long unresolved doubts wait for another look, when no call
	// comes before; doubtTimeout is how long a look may take.
	doubtRetry   = 5 * time.Second
	doubtTimeout = 5 * time.Second
)

// writer changes the node's blocks: one goroutine at a time, whose turn it is. Calls that
// arrive while a transaction is under way share the next one.
type writer struct {
	turn   turn
	client datastore.Client
	view   View
	now    func() time.Time
	log    *slog.Logger
	node   string
	owner  api.Affinity
	queue  *queue
	state  *state

	recorder *Recorder // nil for no history
	cooldown cooldown
	counters *counters

	// What the View said when the batch began.
	pools    []*v3.IPPool
	news     map[string]poolNews
	reserved reservations
	// held is what the View's reservations say, read when they were reservedBy.
	held       reservations
	reservedBy []*v3.IPReservation
	// considered are the pools for requests of the batch that want the same.
	considered map[poolRequest]considered
	// said are the blocks whose affinity was said to be unreadable.
	said map[netip.Prefix]bool
	// reserve is what the call for which a block is claimed wants kept back in it.
	reserve *BlockReserve
	// released: blocks may have become empty.
	released bool
	// solo restricts a transaction to one call, after a shared one was refused: a
	// call that can't be served must not take others down with it.
	solo bool
}

func newWriter(cfg Config, q *queue, counted *counters) *writer {
	owner := api.HostAffinity(cfg.Node)
	if cfg.Virtual {
		owner.Type = api.AffinityVirtual
	}
	return &writer{
		owner:  owner,
		turn:   make(turn, 1),
		client: cfg.Client,
		view:   cfg.View,
		now:    cfg.Now,
		log:    cfg.Log,
		node:   cfg.Node,
		queue:  q,
		state:  newState(owner, cfg.Log),
		news:   make(map[string]poolNews),

		considered: make(map[poolRequest]considered),
		said:       make(map[netip.Prefix]bool),

		recorder: cfg.Recorder,
		counters: counted,
	}
}

// run serves the queue until ctx ends.
func (w *writer) run(ctx context.Context) {
	defer w.queue.close()
	retry := time.NewTimer(doubtRetry) // the edge: tested with synctest
	defer retry.Stop()
	for {
		due := false
		select {
		case <-ctx.Done():
			return
		case <-w.queue.wake:
		case <-retry.C:
			due = true
		}
		w.turn.take()
		w.gather()
		if calls := w.queue.take(); due || len(calls) > 0 {
			w.attend(ctx, calls)
		}
		w.retire(ctx)
		if len(w.state.doubts) > 0 {
			retry.Reset(doubtRetry)
		} else {
			retry.Stop()
		}
		w.turn.give()
		if w.queue.waiting() > 0 {
			w.queue.signal()
		}
	}
}

// serveAlone serves a call in the goroutine of its caller, if it is nobody's turn and no
// other call waits: that saves a change of goroutines before the transaction and one
// after it. Otherwise the writer's goroutine does it.
func (w *writer) serveAlone(ctx context.Context, c *call) {
	if !w.turn.try() {
		return // whoever gives the turn back finds the call
	}
	w.gather()
	left := false
	if w.queue.takeOnly(c) {
		w.attend(ctx, []*call{c})
		left = len(w.state.doubts) > 0 || w.retirable()
	}
	w.turn.give()
	if left || w.queue.waiting() > 0 {
		w.queue.signal()
	}
}

// gather lets callers that are ready to run join the first transaction, for as long as
// more of them come.
func (w *writer) gather() {
	for before := -1; before < w.queue.waiting() && before < maxOps; {
		before = w.queue.waiting()
		runtime.Gosched()
	}
}

// attend serves calls, or with none of them the open doubts.
func (w *writer) attend(ctx context.Context, calls []*call) {
	if rest := w.tell(ctx, calls); len(rest) > 0 || len(calls) == 0 {
		w.serve(ctx, rest)
	}
}

// virtual reports whether the blocks are not a node's.
func (w *writer) virtual() bool { return w.owner.Type == api.AffinityVirtual }

// serve brings a batch of calls, and the open doubts, to an end.
func (w *writer) serve(closing context.Context, calls []*call) {
	ctx, stop := batchContext(closing, calls)
	defer stop()
	defer w.state.evict()
	w.solo = false
	w.look()
	for idle := 0; idle < maxAttempts; idle++ {
		calls = slices.DeleteFunc(calls, func(c *call) bool { return !c.waiting() })
		if len(calls) == 0 && len(w.state.doubts) == 0 {
			return
		}
		err := w.prepare(ctx, calls)
		switch {
		case closing.Err() != nil:
			failAll(calls, ErrClosed)
			return
		case ctx.Err() != nil:
			return // every caller has left, or is about to
		case err != nil:
			failAll(calls, err)
			return
		}
		if w.advance(ctx, calls) {
			idle = -1
		}
	}
	failAll(calls, fmt.Errorf("gave up after %d attempts: %w", maxAttempts, datastore.ErrConflict))
}

// batchContext ends when the allocator closes or the last caller has left. A
// look at doubts alone has a deadline.
func batchContext(ctx context.Context, calls []*call) (context.Context, context.CancelFunc) {
	if len(calls) == 0 {
		return context.WithTimeout(ctx, doubtTimeout)
	}
	ctx, cancel := context.WithCancel(ctx)
	var left atomic.Int64
	left.Store(int64(len(calls)))
	stops := make([]func() bool, 0, len(calls))
	for _, c := range calls {
		stops = append(stops, context.AfterFunc(c.ctx, func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		}))
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}

// plan fills a transaction: first the doubts, then the calls in the order of
// their arrival. short is the first call for which the node's blocks have no
// room; calls that can't succeed are answered.
func (w *writer) plan(calls []*call) (p *plan, short *call) {
	w.coolSeen()
	p = newPlan(w.state, w.reserved, w.now())
	for _, d := range slices.Clone(w.state.doubts) {
		w.resolve(p, d, calls)
	}
	for _, c := range calls {
		if w.solo && len(p.assigned)+len(p.released) > 0 {
			break
		}
		switch broken := w.state.brokenHandles[c.handle]; {
		case !c.waiting():
		case broken != nil:
			c.answer(result{err: broken})
		case c.assign == nil:
			w.planRelease(p, c)
		case !w.planAssign(p, c) && short == nil:
			short = c
		}
	}
	return p, short
}

// resolve deals with one doubt.
func (w *writer) resolve(p *plan, d *doubt, calls []*call) {
	switch w.state.judge(d) {
	case verdictOpen:
		p.touch(d.placed[0].block)
	case verdictNothing:
		w.state.dropDoubt(d)
	case verdictLanded:
		for _, c := range calls {
			if c.waiting() && c.assign != nil && c.assign.sameShape(d.request) && w.state.complete(d) {
				w.state.dropDoubt(d)
				if !c.answer(result{assigned: assignments(d.placed)}) {
					w.state.addDoubt(d)
				}
				return
			}
		}
		p.undo(d)
	}
}

func (w *writer) planRelease(p *plan, c *call) {
	if entry, ok := w.state.handles[c.handle]; ok {
		for _, prefix := range handleBlocks(entry) {
			if err := w.state.errBroken(prefix); err != nil {
				c.answer(result{err: err})
				return
			}
		}
	}
	p.release(c)
}

// planAssign reports false when the node's blocks have no room for the call.
func (w *writer) planAssign(p *plan, c *call) bool {
	if c.attrs.HandleID == nil {
		c.attrs = w.attributes(c.assign)
	}
	pools := make(map[family][]pool)
	for _, f := range c.assign.families() { // before a block is claimed for one in vain
		usable, err := w.usablePools(c.assign, f)
		if err != nil {
			c.answer(result{err: err})
			return true
		}
		pools[f] = usable
	}
	if c.ensure {
		return w.planEnsure(c, pools)
	}
	portions, err := w.planAddresses(p, c)
	if err != nil {
		c.answer(result{err: err})
		return true
	}
	if len(portions) < len(c.assign.Addrs) {
		return false
	}
	for _, f := range c.assign.families() {
		num, _ := c.assign.wanted(f)
		more, found := p.search(num, pools[f])
		if found < num {
			return false
		}
		portions = append(portions, more...)
	}
	p.assign(c, portions)
	return true
}

// attributes are what the block says about the addresses of a request.
func (w *writer) attributes(r *Request) api.BlockAttributes {
	handle := string(r.Handle)
	attrs := map[string]string{api.AttributeTimestamp: w.now().UTC().Round(0).String()}
	if !w.virtual() {
		attrs[api.AttributeNode] = w.node
	}
	if r.Namespace != "" {
		attrs[api.AttributeNamespace] = r.Namespace
	}
	maps.Copy(attrs, r.Attrs)
	return api.BlockAttributes{HandleID: &handle, ActiveOwnerAttrs: attrs}
}

// commit carries out a plan and tells the calls. It reports whether anything was
// brought forward.
func (w *writer) commit(ctx context.Context, p *plan) bool {
	ops := p.operations()
	rev, err := w.client.Txn(datastore.WithSent(ctx, p.sent), ops...)
	var conflict *datastore.ConflictError
	switch {
	case err == nil:
		w.counters.count(&w.counters.work.Committed)
		w.committed(p, rev)
		return true
	case errors.As(err, &conflict):
		w.counters.count(&w.counters.work.Conflicts)
		keys := make([]api.Key, len(ops))
		for i, op := range ops {
			keys[i] = op.Key
		}
		w.state.absorb(keys, newPresent().add(conflict))
		p.dropCompanions(func(key api.Key) bool {
			_, exists := conflict.Current[key]
			return exists || slices.ContainsFunc(conflict.Invalid, func(i datastore.Invalid) bool { return i.Key == key })
		})
		return false
	}
	w.counters.count(&w.counters.work.Failures)
	if errors.Is(err, datastore.ErrUnavailable) || ctx.Err() != nil {
		w.unknown(p, ops)
		return false
	}
	// Refused as it stands. A companion may be what the store refuses: it is the
	// first to go.
	if p.dropCompanions(func(api.Key) bool { return true }) {
		return false
	}
	if w.solo || len(p.assigned)+len(p.released) <= 1 {
		w.failPlanned(p, err)
	}
	w.solo = true
	return false
}

func (w *writer) committed(p *plan, rev datastore.Revision) {
	bases := make(map[*call]datastore.Revision, len(p.assigned))
	for c, placed := range p.assigned {
		bases[c] = w.state.blocks[placed[0].block].entry.Revision
	}
	w.state.settle(p, rev)
	for c, placed := range p.assigned {
		_, accompanied := p.companions[c]
		if !c.answer(result{assigned: assignments(placed), companion: accompanied}) {
			w.state.addDoubt(&doubt{request: *c.assign, attrs: c.attrs, placed: placed, base: bases[c]})
		}
	}
	w.keepFreed(p.freed[nil])
	for c := range p.released {
		w.endRelease(c, p)
	}
}

// endRelease answers a release that is carried out; maybe an earlier attempt did it.
func (w *writer) endRelease(c *call, p *plan) {
	addrs, freed := p.released[c], p.freed[c]
	if len(addrs) == 0 {
		addrs, freed = c.maybeReleased, c.maybeFreed
	}
	w.keepFreed(freed)
	w.released = w.released || len(freed) > 0
	c.answer(result{released: addrs})
}

// keepFreed remembers releases that were carried out.
func (w *writer) keepFreed(freed []recorded) {
	w.coolReleased(freed)
	for _, r := range freed {
		w.recorder.add(r.block, r.releases)
	}
}

// unknown takes in that a plan may or may not have been carried out.
func (w *writer) unknown(p *plan, ops []datastore.Op) {
	for c, placed := range p.assigned {
		base := w.state.blocks[placed[0].block].entry.Revision
		w.state.addDoubt(&doubt{request: *c.assign, attrs: c.attrs, placed: placed, base: base})
	}
	for c, addrs := range p.released {
		c.maybeReleased, c.maybeFreed = addrs, p.freed[c]
	}
	w.state.distrust(ops)
}

func (w *writer) failPlanned(p *plan, err error) {
	for c := range p.assigned {
		c.answer(result{err: err})
	}
	for c := range p.released {
		c.answer(result{err: err})
	}
}

func assignments(placed []placement) []Assignment {
	out := make([]Assignment, len(placed))
	for i, at := range placed {
		out[i] = Assignment{Addr: addrAt(at.block, at.ordinal), Block: at.block, Pool: at.pool}
	}
	return out
}
