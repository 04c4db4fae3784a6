package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Allocator assigns and releases the addresses of one node. All methods are safe
// for concurrent use; concurrent calls share transactions.
type Allocator struct {
	queue  *queue
	client datastore.Client
	now    func() time.Time

	recorder *Recorder
	counters *counters
	last     atomic.Pointer[Stats]

	writer *writer
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	done   chan struct{}
}

// AutoAssign assigns addresses from the node's blocks, claiming further blocks
// as needed. On an error no address is held: what may have been written is taken
// back as soon as the store answers, unless the same request is repeated first,
// which then gets the same addresses. A handle that already holds addresses gets
// more.
//
// Errors: *ExhaustedError (ErrNoPool, ErrPoolFull, ErrBlockLimit,
// ErrNodeUnknown), ErrInvalid, ErrClosed, datastore.ErrUnavailable; when ctx ends
// first both its error and datastore.ErrUnavailable.
func (a *Allocator) AutoAssign(ctx context.Context, req Request) ([]Assignment, error) {
	if err := req.validate(); err != nil {
		return nil, fmt.Errorf("assign addresses for handle %q: %w", req.Handle, err)
	}
	began := a.now()
	r, err := a.do(ctx, &call{ctx: ctx, handle: req.Handle, assign: &req, alone: req.With == nil})
	if err != nil {
		return nil, fmt.Errorf("assign addresses for handle %q: %w", req.Handle, err)
	}
	a.counters.assigned(a.now().Sub(began))
	if req.With != nil {
		req.With.Created = r.companion
	}
	return r.assigned, nil
}

// AssignIP assigns an address that was chosen by somebody else; req says for whom. The
// node claims the block the address lies in if nobody has it, or borrows the address.
//
// Errors beside those of AutoAssign: *AddressError (ErrNoPool, ErrInUse, ErrNotOurs,
// ErrBlockLimit).
func (a *Allocator) AssignIP(ctx context.Context, addr netip.Addr, req Request) (Assignment, error) {
	req.Num4, req.Num6, req.Addrs = 0, 0, []netip.Addr{addr}
	got, err := a.AutoAssign(ctx, req)
	if err != nil {
		return Assignment{}, err
	}
	return got[0], nil
}

// EnsureBlock sees to it that the node owns a block of each IP version of which req
// wants addresses, in a pool that may serve it, and returns the node's blocks there. It
// assigns nothing, and takes no block from another node, not even an empty one. Errors
// are those of AutoAssign.
func (a *Allocator) EnsureBlock(ctx context.Context, req Request) ([]netip.Prefix, error) {
	if err := req.validateNumbers(); err != nil {
		return nil, fmt.Errorf("ensure a block: %w", err)
	}
	r, err := a.do(ctx, &call{ctx: ctx, assign: &req, ensure: true, alone: true})
	if err != nil {
		return nil, fmt.Errorf("ensure a block: %w", err)
	}
	return r.blocks, nil
}

// ReleaseByHandle releases every address of a handle and returns them; a handle
// that holds nothing is no error. datastore.ErrUnavailable leaves open whether
// they are released: repeat it.
func (a *Allocator) ReleaseByHandle(ctx context.Context, handle HandleID) ([]netip.Addr, error) {
	if !handle.valid() {
		return nil, fmt.Errorf("release addresses of handle %q: %w", handle, errHandle)
	}
	r, err := a.do(ctx, &call{ctx: ctx, handle: handle})
	if err != nil {
		return nil, fmt.Errorf("release addresses of handle %q: %w", handle, err)
	}
	return r.released, nil
}

// Release releases some addresses of a handle; the others stay with it. What the handle
// does not hold is ignored. datastore.ErrUnavailable leaves open whether they are
// released: repeat it.
func (a *Allocator) Release(ctx context.Context, handle HandleID, addrs []netip.Addr) error {
	freed, err := releaseSome(ctx, a.client, handle, addrs)
	if err != nil {
		return fmt.Errorf("release %v of handle %q: %w", addrs, handle, err)
	}
	for _, r := range freed {
		a.recorder.add(r.block, r.releases)
	}
	return nil
}

// ByHandle reads the addresses a handle holds from the store.
func (a *Allocator) ByHandle(ctx context.Context, handle HandleID) ([]netip.Addr, error) {
	return AddressesOf(ctx, a.client, handle)
}

// Close stops the allocator. Calls under way answer ErrClosed; what they may have
// written stays, as after a crash.
func (a *Allocator) Close() {
	a.cancel()
	<-a.done
	a.writer.turn.take() // of a caller that was just served
	a.writer.turn.give()
}

// do has a call served, by its own goroutine when nothing else is under way, else by the
// writer's, and waits for the answer or the end of ctx.
func (a *Allocator) do(ctx context.Context, c *call) (result, error) {
	c.result = make(chan result, 1)
	if err := a.queue.push(c); err != nil {
		return result{}, err
	}
	a.writer.serveAlone(a.ctx, c) //nolint:contextcheck // others may join: it ends with the allocator or its last caller
	select {
	case r := <-c.result:
		return r, r.err
	case <-ctx.Done():
		if c.state.CompareAndSwap(callWaiting, callAbandoned) {
			return result{}, fmt.Errorf("the store did not answer in time: %w (%w)", context.Cause(ctx), datastore.ErrUnavailable)
		}
		r := <-c.result
		return r, r.err
	}
}

// errHandle refuses a handle that no store could keep.
var errHandle = fmt.Errorf("the handle must not be empty or contain a slash: %w", ErrInvalid)

func (h HandleID) valid() bool { return h != "" && !strings.Contains(string(h), "/") }

func (r Request) validate() error {
	if !r.Handle.valid() {
		return errHandle
	}
	for i, addr := range r.Addrs {
		switch num, _ := r.wanted(familyOfAddr(addr)); {
		case !addr.IsValid() || addr.Is4In6() || addr.Zone() != "":
			return fmt.Errorf("address %q: want one such as 10.0.0.1 or fd00::1: %w", addr, ErrInvalid)
		case slices.Contains(r.Addrs[:i], addr):
			return fmt.Errorf("address %s is asked for twice: %w", addr, ErrInvalid)
		case num > 0:
			return fmt.Errorf("address %s and any address of its IP version are asked for: %w", addr, ErrInvalid)
		}
	}
	return r.validateNumbers()
}

func (r Request) validateNumbers() error {
	switch {
	case r.Num4 < 0 || r.Num6 < 0:
		return fmt.Errorf("negative number of addresses: %w", ErrInvalid)
	case r.Num4+r.Num6+len(r.Addrs) == 0:
		return fmt.Errorf("no address is asked for: %w", ErrInvalid)
	case r.Reserve != nil && (r.Reserve.First < 0 || r.Reserve.Last < 0):
		return fmt.Errorf("negative number of reserved addresses: %w", ErrInvalid)
	}
	return nil
}

// families are the IP versions of which addresses are asked for.
func (r Request) families() []family {
	var families []family
	for _, f := range []family{ipv4, ipv6} {
		if num, _ := r.wanted(f); num > 0 {
			families = append(families, f)
		}
	}
	return families
}

// wanted is how many addresses of a family are asked for, and from which pools.
func (r Request) wanted(f family) (num int, pools []string) {
	if f == ipv4 {
		return r.Num4, r.Pools4
	}
	return r.Num6, r.Pools6
}

// sameShape reports whether two requests are answered by the same addresses.
func (r Request) sameShape(o Request) bool {
	return r.Handle == o.Handle && r.Num4 == o.Num4 && r.Num6 == o.Num6 && r.Use == o.Use &&
		r.Namespace == o.Namespace && slices.Equal(r.Addrs, o.Addrs) && slices.Equal(r.Pools4, o.Pools4) && slices.Equal(r.Pools6, o.Pools6) && maps.Equal(r.Avoid, o.Avoid)
}

// The states of a call. Exactly one side moves it out of callWaiting.
const (
	callWaiting int32 = iota
	callAnswered
	callAbandoned
)

// call is one AutoAssign or ReleaseByHandle on its way through the writer.
type call struct {
	ctx    context.Context
	handle HandleID
	// assign is nil for a release.
	assign *Request
	// ensure: a block of the node is wanted for assign, and no address.
	ensure bool
	// stats: only statistics are wanted.
	stats bool
	// attrs are set when the writer first sees an assign: a repeated attempt
	// writes the same.
	attrs api.BlockAttributes
	// alone says that no companion is, or can be, written with the addresses.
	alone bool
	// maybeReleased is what a release of unknown outcome was about to free.
	maybeReleased []netip.Addr
	maybeFreed    []recorded
	// searched is set once the node's blocks and the index were re-read for this
	// call: only then may it be told that nothing is free.
	searched bool
	// located are the addresses of the request around which the store was read for this
	// call: only then may one be refused.
	located map[netip.Addr]bool

	result chan result
	state  atomic.Int32
}

type result struct {
	assigned []Assignment
	// companion: the object of the request was written too.
	companion bool
	released  []netip.Addr
	blocks    []netip.Prefix
	stats     Stats
	err       error
}

// answer gives the result to the caller, and reports false when it has left.
func (c *call) answer(r result) bool {
	if !c.state.CompareAndSwap(callWaiting, callAnswered) {
		return false
	}
	c.result <- r
	return true
}

func (c *call) waiting() bool { return c.state.Load() == callWaiting }

// turn is held by the one goroutine that works on the writer's state.
type turn chan struct{} // capacity 1

func (t turn) take() { t <- struct{}{} }
func (t turn) give() { <-t }

func (t turn) try() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

// queue holds calls until somebody whose turn it is takes them, all at once. Whoever gives
// the turn back looks whether there are any, and wakes the writer's goroutine.
type queue struct {
	mu     sync.Mutex
	calls  []*call
	closed bool
	wake   chan struct{} // capacity 1
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) push(c *call) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	q.calls = append(q.calls, c)
	return nil
}

// signal wakes the writer's goroutine.
func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.calls)
}

// takeOnly takes a call if no other waits.
func (q *queue) takeOnly(c *call) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.calls) != 1 || q.calls[0] != c {
		return false
	}
	q.calls = nil
	return true
}

func (q *queue) take() []*call {
	q.mu.Lock()
	defer q.mu.Unlock()
	calls := q.calls
	q.calls = nil
	return calls
}

// close refuses further calls and answers those that wait.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	failAll(q.take(), ErrClosed)
}

func failAll(calls []*call, err error) {
	for _, c := range calls {
		c.answer(result{err: err})
	}
}

// isFailure reports whether a transaction ended in anything but success or a
// conflict. It may have taken effect.
func isFailure(err error) bool {
	var conflict *datastore.ConflictError
	return err != nil && !errors.As(err, &conflict)
}
