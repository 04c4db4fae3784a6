package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

// scenario is a life of a node that goes through every kind of write: two
// claims, dual stack, several blocks in one call, releases.
var scenario = []struct {
	handle     string
	num4, num6 int // both 0: release
}{
	{"a", 1, 1}, {"b", 2, 0}, {"c", 3, 1}, {"a", 0, 0}, {"d", 1, 1}, {"c", 0, 0}, {"b", 0, 0}, {"d", 0, 0},
}

func faultCluster(t testing.TB) *cluster {
	return newCluster(t, newPool("p4", "10.0.0.0/28", blockSize(30)), newPool("p6", "fd00::/120", blockSize(126)),
		newNode("n", nil), newNode("m", nil))
}

// A process that dies after any of its operations on the store leaves a state
// that satisfies every invariant, and its successor can do all of its work.
func TestCrashAfterEveryOperation(t *testing.T) {
	for _, last := range []ipamtest.Fault{ipamtest.Refuse, ipamtest.LoseReply} {
		for k := 0; ; k++ {
			if !crashAfter(t, k, last) {
				t.Logf("%d operations in all", k)
				break
			}
		}
	}
}

// crashAfter runs the scenario with a client that dies at operation k, then
// again with a healthy one. It reports whether there was an operation k.
func crashAfter(t *testing.T, k int, last ipamtest.Fault) bool {
	c := faultCluster(t)
	reached := false
	client := &ipamtest.Faulty{Client: c.store, Decide: func(n int, _ []datastore.Op) ipamtest.Fault {
		switch {
		case n < k:
			return ipamtest.Pass
		case n == k:
			reached = true
			return last
		}
		return ipamtest.Refuse
	}}
	dying := c.allocator("n", client)
	for _, s := range scenario {
		if s.num4+s.num6 == 0 {
			_, _ = dying.ReleaseByHandle(t.Context(), ipam.HandleID(s.handle))
		} else {
			_, _ = dying.AutoAssign(t.Context(), ipam.Request{Handle: ipam.HandleID(s.handle), Num4: s.num4, Num6: s.num6})
		}
	}
	dying.Close()
	if err := ipamtest.Check(t.Context(), c.store); err != nil {
		t.Fatalf("crash at operation %d (%v): %v", k, last, err)
	}
	model, next := ipamtest.NewModel(), c.allocator("n")
	defer next.Close()
	for _, s := range scenario { // what the caller's own journal or a later DEL does
		if _, err := next.ReleaseByHandle(t.Context(), ipam.HandleID(s.handle)); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range scenario {
		if s.num4+s.num6 == 0 {
			model.Released(s.handle)
			if _, err := next.ReleaseByHandle(t.Context(), ipam.HandleID(s.handle)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := model.Assigned(s.handle, assign(t, next, s.handle, s.num4, s.num6)); err != nil {
			t.Fatal(err)
		}
	}
	if err := model.Verify(t.Context(), c.store); err != nil {
		t.Fatalf("crash at operation %d (%v): after it: %v", k, last, err)
	}
	return reached
}

// One operation fails or loses its answer, and the process lives on: the calls
// succeed all the same, because the store answers the next question.
func TestOneFaultAtEveryOperationIsSurvived(t *testing.T) {
	for _, fault := range []ipamtest.Fault{ipamtest.Refuse, ipamtest.LoseReply} {
		for k := 0; ; k++ {
			c := faultCluster(t)
			reached := false
			client := &ipamtest.Faulty{Client: c.store, Decide: func(n int, _ []datastore.Op) ipamtest.Fault {
				if n == k {
					reached = true
					return fault
				}
				return ipamtest.Pass
			}}
			model, a := ipamtest.NewModel(), c.allocator("n", client)
			for _, s := range scenario {
				if err := step(t.Context(), a, model, s.handle, s.num4, s.num6); err != nil {
					t.Fatalf("fault %v at operation %d: %v", fault, k, err)
				}
			}
			a.Close()
			if err := model.Verify(t.Context(), c.store); err != nil {
				t.Fatalf("fault %v at operation %d: %v", fault, k, err)
			}
			if !reached {
				break
			}
		}
	}
}

// step does one call and tells the model. A call that fails because the store
// does is repeated, as a caller does.
func step(ctx context.Context, a *ipam.Allocator, model *ipamtest.Model, handle string, num4, num6 int) error {
	for {
		var err error
		var got []ipam.Assignment
		if num4+num6 == 0 {
			_, err = a.ReleaseByHandle(ctx, ipam.HandleID(handle))
		} else {
			got, err = a.AutoAssign(ctx, ipam.Request{Handle: ipam.HandleID(handle), Num4: num4, Num6: num6})
		}
		switch {
		case errors.Is(err, datastore.ErrUnavailable):
			continue
		case err != nil:
			return err
		case num4+num6 == 0:
			model.Released(handle)
			return nil
		}
		return model.Assigned(handle, addrsOf(got))
	}
}

// A transaction whose answer is lost may still take effect after everything was
// read again. Here it does, in the moment before the retry.
func TestLateTransactionNeitherLeaksNorDoubles(t *testing.T) {
	c := faultCluster(t)
	var late []datastore.Op
	state := 0
	client := &ipamtest.Faulty{Client: c.store, Decide: func(_ int, ops []datastore.Op) ipamtest.Fault {
		writes := len(ops) > 0 && ops[0].Kind != datastore.OpCheck
		switch {
		case state == 1 && writes: // the assignment: held back
			late, state = ops, 2
			return ipamtest.Refuse
		case state == 2 && writes: // the retry: the first one arrives just before
			state = 3
			if _, err := c.store.Txn(context.Background(), late...); err != nil {
				t.Errorf("the late transaction did not apply: %v", err)
			}
		}
		return ipamtest.Pass
	}}
	a := c.allocator("n", client)
	model := ipamtest.NewModel()
	if err := step(t.Context(), a, model, "warm", 1, 0); err != nil {
		t.Fatal(err)
	}
	state = 1
	if err := step(t.Context(), a, model, "h", 2, 0); err != nil {
		t.Fatal(err)
	}
	if state != 3 {
		t.Fatal("the retry did not happen")
	}
	if err := model.Verify(t.Context(), c.store); err != nil {
		t.Error(err)
	}
}

// The caller of an assignment gives up while the transaction is under way. The
// address is taken back, or given to whoever repeats the request.
func TestAbandonedAssignmentIsTakenBack(t *testing.T) {
	for _, repeat := range []bool{false, true} {
		c := faultCluster(t)
		ctx, cancel := context.WithCancel(t.Context())
		var armed atomic.Bool
		returned := make(chan struct{})
		client := &ipamtest.Faulty{Client: c.store, Decide: func(int, []datastore.Op) ipamtest.Fault {
			if armed.CompareAndSwap(true, false) {
				cancel()
				<-returned
			}
			return ipamtest.Pass
		}}
		store := &detached{Client: client, landed: make(chan struct{}, 1)}
		a := c.allocator("n", store)
		model := ipamtest.NewModel()
		if err := step(t.Context(), a, model, "warm", 1, 0); err != nil {
			t.Fatal(err)
		}
		armed.Store(true)
		_, err := a.AutoAssign(ctx, ipam.Request{Handle: "h", Num4: 1})
		close(returned)
		<-store.landed
		if !errors.Is(err, context.Canceled) || !errors.Is(err, datastore.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
		handle := "other"
		if repeat {
			handle = "h"
		}
		if err := step(t.Context(), a, model, handle, 1, 0); err != nil {
			t.Fatal(err)
		}
		a.Close()
		if err := model.Verify(t.Context(), c.store); err != nil {
			t.Errorf("repeated %v: %v", repeat, err)
		}
	}
}

// detached carries out transactions even when the context has ended, as a store
// does that has already received them.
type detached struct {
	datastore.Client
	landed chan struct{} // gets a value for each whose caller had left
}

func (d *detached) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	var rev datastore.Revision
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		rev, err = d.Client.Txn(context.WithoutCancel(ctx), ops...)
		if ctx.Err() != nil {
			d.landed <- struct{}{}
		}
	}()
	select {
	case <-done:
		return rev, err
	case <-ctx.Done():
		return 0, fmt.Errorf("transaction: %w: %w", datastore.ErrUnavailable, context.Cause(ctx))
	}
}

// machine is the model-based test: several nodes, foreign writers, faults and
// crashes at chosen operations.
type machine struct {
	*cluster
	model   *ipamtest.Model
	handles []string
	nodes   map[string]*member
}

// member is a node's allocator and the fault it will meet next.
type member struct {
	alloc *ipam.Allocator
	// at is the operation, counted from the last arm, that meets fault; from then
	// on all are refused when dead is set. before runs at that operation.
	at     int
	fault  ipamtest.Fault
	dead   bool
	before func()
	count  int
}

func (m *member) decide(int, []datastore.Op) ipamtest.Fault {
	n := m.count
	m.count++
	switch {
	case m.at < 0 || n < m.at:
		return ipamtest.Pass
	case n == m.at:
		if m.before != nil {
			m.before()
		}
		return m.fault
	case m.dead:
		return ipamtest.Refuse
	}
	return ipamtest.Pass
}

func (m *machine) start(node string) {
	mem := &member{at: -1}
	mem.alloc = m.allocator(node, &ipamtest.Faulty{Client: m.store, Decide: mem.decide})
	m.nodes[node] = mem
}

// arm draws what the node's next operations will meet.
func (m *machine) arm(t *rapid.T, node string) *member {
	mem := m.nodes[node]
	mem.count, mem.at, mem.dead, mem.before, mem.fault = 0, -1, false, nil, ipamtest.Pass
	switch rapid.IntRange(0, 4).Draw(t, "trouble") {
	case 1:
		mem.at = rapid.IntRange(0, 6).Draw(t, "at")
		mem.fault = rapid.SampledFrom([]ipamtest.Fault{ipamtest.Refuse, ipamtest.LoseReply}).Draw(t, "fault")
		mem.dead = rapid.Bool().Draw(t, "stays down")
	case 2:
		mem.at = rapid.IntRange(0, 6).Draw(t, "at")
		pick := rapid.IntRange(0, 1000).Draw(t, "block")
		mem.before = func() { m.disturb(pick) }
	}
	return mem
}

// strict reads every key as strictly as can be.
func (m *machine) strict(t *rapid.T) {
	reg := api.NewRegistry()
	for _, path := range m.store.Paths("/calico/") {
		if value, ok := m.store.RawGet(path); ok {
			if err := ipamtest.CheckRaw(reg, path, value); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// disturb writes a block without changing it, as any other program may.
func (m *machine) disturb(pick int) {
	snap, err := m.store.List(context.Background(), datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil || len(snap.Entries) == 0 {
		return
	}
	entry := snap.Entries[pick%len(snap.Entries)]
	entry.Object.(*api.IPAMBlock).Spec.SequenceNumber++
	_, _ = m.store.Txn(context.Background(), datastore.Update(entry))
}

// settle brings a node to rest: its doubts are resolved.
func (m *machine) settle(t *rapid.T, node string) {
	mem := m.nodes[node]
	mem.at = -1
	if _, err := mem.alloc.ReleaseByHandle(t.Context(), "nobody"); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) assign(t *rapid.T) {
	node, handle := m.draw(t)
	mem := m.arm(t, node)
	num4, num6 := rapid.IntRange(0, 3).Draw(t, "num4"), rapid.IntRange(0, 1).Draw(t, "num6")
	if num4+num6 == 0 {
		num4 = 1
	}
	got, err := mem.alloc.AutoAssign(t.Context(), ipam.Request{Handle: ipam.HandleID(handle), Num4: num4, Num6: num6})
	var full *ipam.ExhaustedError
	switch {
	case err == nil:
		if err := m.model.Assigned(handle, addrsOf(got)); err != nil {
			t.Fatal(err)
		}
	case !errors.As(err, &full) && !errors.Is(err, datastore.ErrUnavailable):
		t.Fatal(err)
	}
	m.settle(t, node)
}

func (m *machine) release(t *rapid.T) {
	node, handle := m.draw(t)
	mem := m.arm(t, node)
	_, err := mem.alloc.ReleaseByHandle(t.Context(), ipam.HandleID(handle))
	if err != nil {
		mem.at = -1
		_, err = mem.alloc.ReleaseByHandle(t.Context(), ipam.HandleID(handle))
	}
	if err != nil {
		t.Fatal(err)
	}
	m.model.Released(handle)
	m.settle(t, node)
}

// crash kills a node in the middle of an assignment; the handle's owner releases
// it later, as CNI DEL does.
func (m *machine) crash(t *rapid.T) {
	node, handle := m.draw(t)
	mem := m.nodes[node]
	mem.count, mem.before, mem.dead = 0, nil, true
	mem.at = rapid.IntRange(0, 6).Draw(t, "at")
	mem.fault = rapid.SampledFrom([]ipamtest.Fault{ipamtest.Refuse, ipamtest.LoseReply}).Draw(t, "fault")
	got, err := mem.alloc.AutoAssign(t.Context(), ipam.Request{Handle: ipam.HandleID(handle), Num4: 2, Num6: 1})
	mem.alloc.Close()
	m.start(node)
	if err == nil {
		if err := m.model.Assigned(handle, addrsOf(got)); err != nil {
			t.Fatal(err)
		}
		return
	}
	if _, err := m.nodes[node].alloc.ReleaseByHandle(t.Context(), ipam.HandleID(handle)); err != nil {
		t.Fatal(err)
	}
	m.model.Released(handle)
}

func (m *machine) draw(t *rapid.T) (node, handle string) {
	return rapid.SampledFrom([]string{"n0", "n1", "n2"}).Draw(t, "node"), rapid.SampledFrom(m.handles).Draw(t, "handle")
}

func TestAllocatorsAgreeWithTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{
			cluster: newCluster(t, newPool("p4", "10.0.0.0/28", blockSize(30)), newPool("q4", "10.0.1.0/29", blockSize(31)),
				newPool("p6", "fd00::/123", blockSize(125)), newNode("n0", nil), newNode("n1", nil), newNode("n2", nil)),
			model: ipamtest.NewModel(),
			nodes: make(map[string]*member),
		}
		for i := range 8 {
			m.handles = append(m.handles, fmt.Sprintf("h%d", i))
		}
		for i := range 3 {
			m.start(fmt.Sprintf("n%d", i))
		}
		defer func() {
			for _, mem := range m.nodes {
				mem.alloc.Close()
			}
		}()
		rt.Repeat(map[string]func(*rapid.T){
			"assign":  m.assign,
			"release": m.release,
			"crash":   m.crash,
			"release host": func(t *rapid.T) {
				node, _ := m.draw(t)
				if _, err := ipam.ReleaseHost(t.Context(), m.store, node); err != nil {
					t.Fatal(err)
				}
			},
			"release from outside": func(t *rapid.T) {
				_, handle := m.draw(t)
				if _, err := ipam.ReleaseHandle(t.Context(), m.store, ipam.HandleID(handle)); err != nil {
					t.Fatal(err)
				}
				m.model.Released(handle)
			},
			"": func(t *rapid.T) {
				if err := m.model.Verify(context.Background(), m.store); err != nil {
					t.Fatal(err)
				}
				m.strict(t)
			},
		})
		for _, handle := range m.handles {
			if _, err := ipam.ReleaseHandle(rt.Context(), m.store, ipam.HandleID(handle)); err != nil {
				rt.Fatal(err)
			}
		}
		for i := range 3 {
			if _, err := ipam.ReleaseHost(rt.Context(), m.store, fmt.Sprintf("n%d", i)); err != nil {
				rt.Fatal(err)
			}
		}
		if left := m.store.Paths("/calico/ipam/"); len(left) != 0 {
			rt.Fatalf("after releasing everything: %v", left)
		}
	})
}
