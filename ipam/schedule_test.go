package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

// schedule decides who does the next operation on the store: every operation of every
// program waits here until it is let through.
type schedule struct {
	mu      sync.Mutex
	waiting []*turn
}

// turn is one operation that waits.
type turn struct {
	who    *program
	decide chan ipamtest.Fault
}

// program is one process: an allocator, or somebody who works from outside.
type program struct {
	node  string
	alloc *ipam.Allocator // nil outside
	dead  bool            // it was killed: no operation of it gets through any more
	// doubted are the handles of assignments that failed because the store did: it
	// takes them back, while it lives.
	doubted []string
}

func (s *schedule) client(who *program, store datastore.Client) datastore.Client {
	return gated{&ipamtest.Faulty{Client: store, Decide: func(int, []datastore.Op) ipamtest.Fault { return ipamtest.Pass }}, s, who}
}

// gated is a client whose operations wait for their turn.
type gated struct {
	datastore.Client
	s   *schedule
	who *program
}

func (g gated) wait() ipamtest.Fault {
	t := &turn{who: g.who, decide: make(chan ipamtest.Fault)}
	g.s.mu.Lock()
	g.s.waiting = append(g.s.waiting, t)
	g.s.mu.Unlock()
	return <-t.decide
}

func (g gated) List(ctx context.Context, r datastore.Range) (datastore.Snapshot, error) {
	if g.wait() != ipamtest.Pass {
		return datastore.Snapshot{}, fmt.Errorf("list: %w", datastore.ErrUnavailable)
	}
	return g.Client.List(ctx, r)
}

func (g gated) Get(ctx context.Context, key api.Key) (datastore.Entry, error) {
	if g.wait() != ipamtest.Pass {
		return datastore.Entry{}, fmt.Errorf("get: %w", datastore.ErrUnavailable)
	}
	return g.Client.Get(ctx, key)
}

func (g gated) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	fault := g.wait()
	if fault == ipamtest.Refuse {
		return 0, fmt.Errorf("transaction: %w", datastore.ErrUnavailable)
	}
	rev, err := g.Client.Txn(context.WithoutCancel(ctx), ops...)
	if fault == ipamtest.LoseReply {
		return 0, fmt.Errorf("transaction: %w", datastore.ErrUnavailable)
	}
	return rev, err
}

// pick takes one of those that wait out, nil when nobody does.
func (s *schedule) pick(choose func(n int) int) *turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		return nil
	}
	// The order in which goroutines came here is nobody's choice.
	slices.SortStableFunc(s.waiting, func(a, b *turn) int { return compareText(a.who.node, b.who.node) })
	at := choose(len(s.waiting))
	t := s.waiting[at]
	s.waiting = slices.Delete(s.waiting, at, at+1)
	return t
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// world is several programs on one store, and what their callers were told.
type world struct {
	*cluster
	schedule
	strict bool
	// strangers: who works from outside, and the node n2, know nothing of loans.
	strangers bool
	nodes     map[string]*program
	outside   *program
	calls     sync.WaitGroup

	tell   sync.Mutex // of what follows
	model  *ipamtest.Model
	held   []string // handles that their callers know to hold addresses
	unsure []string // handles whose last call had no clear answer
	count  int
	failed error

	sequences map[string]uint64
}

func (w *world) boot(node string) {
	p := &program{node: node}
	p.alloc = ipam.New(ipam.Config{Client: w.clientOf(p), Node: node, View: w.view(node), Now: w.now})
	w.nodes[node] = p
}

// clientOf is how a program writes: an older one, like upstream's, without loans.
func (w *world) clientOf(p *program) datastore.Client {
	if w.strangers && (p == w.outside || p.node == "n2") {
		return w.client(p, loanless{w.store})
	}
	return w.client(p, w.store)
}

// loanless writes all but the loans of a transaction.
type loanless struct{ datastore.Client }

func (l loanless) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	return l.Client.Txn(ctx, slices.DeleteFunc(slices.Clone(ops), func(op datastore.Op) bool { return op.Key.Kind == api.KindIPAMLoan })...)
}

func (w *world) newHandle() string {
	w.tell.Lock()
	defer w.tell.Unlock()
	w.count++
	return fmt.Sprintf("h%d", w.count)
}

// take removes a handle that is held, for its release.
func (w *world) take(at int) (string, bool) {
	w.tell.Lock()
	defer w.tell.Unlock()
	if len(w.held) == 0 {
		return "", false
	}
	at %= len(w.held)
	handle := w.held[at]
	w.held = slices.Delete(w.held, at, at+1)
	w.model.Released(handle)
	return handle, true
}

// assigned takes in the end of an assignment.
func (w *world) assigned(p *program, handle string, got []ipam.Assignment, err error) {
	w.tell.Lock()
	defer w.tell.Unlock()
	var full *ipam.ExhaustedError
	var refused *ipam.AddressError
	switch {
	case err == nil:
		if err := w.model.Assigned(handle, addrsOf(got)); err != nil && w.failed == nil {
			w.failed = err
		}
		w.held = append(w.held, handle)
	case p.dead:
		w.unsure = append(w.unsure, handle) // what the caller's journal is for
	case errors.Is(err, datastore.ErrUnavailable):
		p.doubted = append(p.doubted, handle)
	case errors.As(err, &full), errors.As(err, &refused), errors.Is(err, datastore.ErrConflict):
	default:
		if w.failed == nil {
			w.failed = fmt.Errorf("assign for %s on %s: %w", handle, p.node, err)
		}
	}
}

func (w *world) released(handle string, err error) {
	if err != nil {
		w.tell.Lock()
		defer w.tell.Unlock()
		w.unsure = append(w.unsure, handle)
	}
}

// begin starts one call of some program; it goes on when its operations get their turns.
func (w *world) begin(t *rapid.T) {
	node := rapid.SampledFrom([]string{"n0", "n1", "n2"}).Draw(t, "node")
	p := w.nodes[node]
	ctx := context.Background()
	switch what := rapid.SampledFrom([]string{"assign", "assign", "assign", "release", "release", "given", "ensure", "outside", "node gone", "mend"}).Draw(t, "call"); what {
	case "assign", "given", "ensure":
		req := ipam.Request{Handle: ipam.HandleID(w.newHandle()), Num4: rapid.IntRange(1, 3).Draw(t, "num4"), Num6: rapid.IntRange(0, 1).Draw(t, "num6")}
		if what == "given" {
			req.Num4, req.Addrs = 0, []netip.Addr{addrOf("10.0.0.0", rapid.IntRange(0, 11).Draw(t, "given"))}
		}
		w.calls.Go(func() {
			if what == "ensure" {
				_, _ = p.alloc.EnsureBlock(ctx, req)
				return
			}
			got, err := p.alloc.AutoAssign(ctx, req)
			w.assigned(p, string(req.Handle), got, err)
		})
	case "release":
		if handle, ok := w.take(rapid.IntRange(0, 99).Draw(t, "held")); ok {
			w.calls.Go(func() {
				_, err := p.alloc.ReleaseByHandle(ctx, ipam.HandleID(handle))
				w.released(handle, err)
			})
		}
	case "outside":
		if handle, ok := w.take(rapid.IntRange(0, 99).Draw(t, "held")); ok {
			w.calls.Go(func() {
				_, err := ipam.ReleaseHandle(ctx, w.clientOf(w.outside), ipam.HandleID(handle))
				w.released(handle, err)
			})
		}
	case "node gone":
		w.calls.Go(func() { _, _ = ipam.ReleaseHost(ctx, w.clientOf(w.outside), node) })
	case "mend":
		w.calls.Go(func() { _ = ipam.MendLoans(ctx, w.client(p, w.store), node) })
	}
}

func addrOf(first string, n int) netip.Addr {
	addr := netip.MustParseAddr(first)
	for range n {
		addr = addr.Next()
	}
	return addr
}

// step lets one operation through, or has it fail.
func (w *world) step(choose func(n int) int, fault ipamtest.Fault) bool {
	t := w.pick(choose)
	if t == nil {
		return false
	}
	if t.who.dead {
		fault = ipamtest.Refuse
	}
	w.sleep(time.Millisecond)
	t.decide <- fault
	synctest.Wait()
	return true
}

// kill ends a program where it stands; its operation that waits may or may not take
// effect.
func (w *world) kill(t *rapid.T) {
	p := w.nodes[rapid.SampledFrom([]string{"n0", "n1", "n2"}).Draw(t, "node")]
	fault := rapid.SampledFrom([]ipamtest.Fault{ipamtest.Refuse, ipamtest.LoseReply}).Draw(t, "last")
	p.dead = true
	for w.release(p, fault) {
		fault = ipamtest.Refuse
	}
	p.alloc.Close()
	synctest.Wait()
	w.tell.Lock()
	w.unsure = append(w.unsure, p.doubted...) // what the caller's journal is for
	w.tell.Unlock()
	w.boot(p.node)
}

// release answers an operation of one program.
func (w *world) release(p *program, fault ipamtest.Fault) bool {
	w.mu.Lock()
	at := slices.IndexFunc(w.waiting, func(t *turn) bool { return t.who == p })
	if at < 0 {
		w.mu.Unlock()
		return false
	}
	t := w.waiting[at]
	w.waiting = slices.Delete(w.waiting, at, at+1)
	w.mu.Unlock()
	w.sleep(time.Millisecond)
	t.decide <- fault
	synctest.Wait()
	return true
}

// invariants hold after every operation.
func (w *world) invariants() error {
	w.tell.Lock()
	failed := w.failed
	w.tell.Unlock()
	if failed != nil {
		return failed
	}
	check := ipamtest.Check
	if w.strangers {
		check = ipamtest.CheckBesideStrangers
	}
	if err := check(context.Background(), w.store); err != nil {
		return err
	}
	snap, err := w.store.List(context.Background(), datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return err
	}
	before := w.sequences
	w.sequences = map[string]uint64{} // of the blocks that are there; a new one starts by the clock
	for _, entry := range snap.Entries {
		spec := entry.Object.(*api.IPAMBlock).Spec
		if spec.SequenceNumber < before[spec.CIDR] {
			return fmt.Errorf("block %s: sequence number %d after %d", spec.CIDR, spec.SequenceNumber, before[spec.CIDR])
		}
		w.sequences[spec.CIDR] = spec.SequenceNumber
	}
	if w.strict {
		return nothingBorrowed(snap.Entries)
	}
	return nil
}

// nothingBorrowed allows one thing: a block whose node was deleted while it was used.
func nothingBorrowed(blocks []datastore.Entry) error {
	for _, entry := range blocks {
		owner, owned := ipam.OwnerOf(entry)
		allocations, err := ipam.AllocationsOf(entry)
		if err != nil {
			return err
		}
		for _, a := range allocations {
			if node := a.Attrs[api.AttributeNode]; owned && owner != api.HostAffinity(node) {
				return fmt.Errorf("%s of the block of %s is used on %s", a.Addr, owner, node)
			}
		}
	}
	return nil
}

// rest lets everything come to its end.
func (w *world) rest() error {
	first := func(int) int { return 0 }
	for range 15 {
		for n := 0; w.step(first, ipamtest.Pass); n++ {
			if n == 20000 {
				return errors.New("no end after 20000 operations")
			}
			if err := w.invariants(); err != nil {
				return err
			}
		}
		time.Sleep(time.Second) // doubts are settled within seconds
		synctest.Wait()
	}
	w.calls.Wait()
	return nil
}

// finish has the callers' journals do their work, compares, and takes everything down.
func (w *world) finish() error {
	if err := w.rest(); err != nil {
		return err
	}
	for _, handle := range w.unsure {
		if _, err := ipam.ReleaseHandle(context.Background(), w.store, ipam.HandleID(handle)); err != nil {
			return err
		}
	}
	for node := range w.nodes {
		if err := ipam.MendLoans(context.Background(), w.store, node); err != nil {
			return err
		}
	}
	if err := w.model.Verify(context.Background(), w.store); err != nil {
		return err
	}
	for _, handle := range slices.Clone(w.held) {
		if _, err := ipam.ReleaseHandle(context.Background(), w.store, ipam.HandleID(handle)); err != nil {
			return err
		}
	}
	for _, node := range slices.Sorted(maps.Keys(w.nodes)) {
		if _, err := ipam.ReleaseHost(context.Background(), w.store, node); err != nil {
			return err
		}
	}
	for _, path := range slices.Concat(w.store.Paths("/calico/ipam/"), w.store.Paths("/calico/tortie/v1/loans/")) {
		if path != "/calico/ipam/v2/config" {
			return fmt.Errorf("after releasing everything: %s is left", path)
		}
	}
	return nil
}

// close ends the programs.
func (w *world) close() {
	for _, p := range w.nodes {
		p.dead = true
		for w.release(p, ipamtest.Refuse) {
		}
		p.alloc.Close()
	}
	w.outside.dead = true
	for w.release(w.outside, ipamtest.Refuse) {
	}
	synctest.Wait()
	w.calls.Wait()
}

// run is one history: calls begin, operations get their turns, programs die, time
// passes, in an order that rapid chooses.
func (w *world) run(t *rapid.T, steps int) error {
	for range steps {
		switch rapid.IntRange(0, 19).Draw(t, "what") {
		case 0, 1, 2, 3, 4:
			w.begin(t)
			synctest.Wait()
		case 5:
			w.kill(t)
		case 6:
			w.sleep(2 * time.Minute) // blocks are old enough to be reclaimed
		case 7:
			w.step(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "who") }, ipamtest.Refuse)
		case 8:
			w.step(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "who") }, ipamtest.LoseReply)
		default:
			w.step(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "who") }, ipamtest.Pass)
		}
		if err := w.invariants(); err != nil {
			return err
		}
	}
	return w.finish()
}

// newWorld is a world of three nodes. In a tight one there are fewer blocks than nodes.
func newWorld(t *testing.T, tight, strangers bool, config *api.IPAMConfig) *world {
	objects := []api.Object{newNode("n0", nil), newNode("n1", nil), newNode("n2", nil), config, newPool("p6", "fd00::/124", blockSize(126))}
	if tight {
		objects = append(objects, newPool("p4", "10.0.0.0/30", blockSize(31)))
	} else {
		objects = append(objects, newPool("p4", "10.0.0.0/29", blockSize(30)), newPool("q4", "10.0.0.8/30", blockSize(31)))
	}
	w := &world{
		cluster: newCluster(t, objects...),
		strict:  config.Spec.StrictAffinity, strangers: strangers, model: ipamtest.NewModel(), nodes: map[string]*program{}, outside: &program{node: "outside"},
		sequences: map[string]uint64{},
	}
	for i := range 3 {
		w.boot(fmt.Sprintf("n%d", i))
	}
	return w
}

// TestEveryOrderOfOperationsKeepsTheInvariants lets rapid choose who does the next
// operation on the store, which of them fail or lose their answer, and who dies when;
// every invariant is checked after every single operation. rapid prints the seed of a
// failure, and replays it.
func TestEveryOrderOfOperationsKeepsTheInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tight, strict, strangers, limit := rapid.Bool().Draw(rt, "tight"), rapid.Bool().Draw(rt, "strict"), rapid.Bool().Draw(rt, "strangers"), rapid.IntRange(0, 3).Draw(rt, "limit")
		var err error
		var panicked any
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, tight, strangers, newConfig(func(s *api.IPAMConfigSpec) { s.StrictAffinity, s.MaxBlocksPerHost = strict, limit }))
			defer w.close()
			defer func() { panicked = recover() }() // rapid's own way to end a history
			err = w.run(rt, 60)
		})
		if panicked != nil {
			panic(panicked)
		}
		if err != nil {
			rt.Fatal(err)
		}
	})
}
