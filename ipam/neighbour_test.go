package ipam_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

// neighbourhood is a pool of two blocks that are both m's: one with an address in it, one
// empty for long. n has to reclaim and to borrow.
func neighbourhood(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t, newPool("p4", "10.0.0.0/29", blockSize(30)), newPool("p6", "fd00::/124", blockSize(126)), newNode("n", nil), newNode("m", nil))
	m := c.allocator("m")
	defer m.Close()
	assign(t, m, "m", 1, 0)
	assign(t, m, "full", 4, 0)
	if _, err := m.ReleaseByHandle(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	assign(t, m, "m2", 1, 0)
	if _, err := m.ReleaseByHandle(t.Context(), "full"); err != nil {
		t.Fatal(err)
	}
	c.sleep(time.Hour)
	return c
}

// neighbourly is what n does: it reclaims, borrows, takes addresses it names, and gives
// all of it back.
func neighbourly() []func(c *cluster, a *ipam.Allocator) (handle string, addrs []netip.Addr, err error) {
	request := func(r ipam.Request) func(*cluster, *ipam.Allocator) (string, []netip.Addr, error) {
		return func(c *cluster, a *ipam.Allocator) (string, []netip.Addr, error) {
			got, err := a.AutoAssign(c.t.Context(), r)
			return string(r.Handle), addrsOf(got), err
		}
	}
	release := func(handle string) func(*cluster, *ipam.Allocator) (string, []netip.Addr, error) {
		return func(c *cluster, a *ipam.Allocator) (string, []netip.Addr, error) {
			_, err := a.ReleaseByHandle(c.t.Context(), ipam.HandleID(handle))
			return handle, nil, err
		}
	}
	return []func(*cluster, *ipam.Allocator) (string, []netip.Addr, error){
		request(ipam.Request{Handle: "a", Num4: 2, Num6: 1}), // reclaims a block
		request(ipam.Request{Handle: "b", Num4: 4}),          // two of its own, two borrowed
		release("a"),
		request(ipam.Request{Handle: "c", Addrs: []netip.Addr{netip.MustParseAddr("fd00::9")}, Num4: 1}),
		release("b"),
		request(ipam.Request{Handle: "d", Num4: 5}),
		release("c"),
		release("d"),
	}
}

// A process that dies after any of its operations while it reclaims and borrows leaves a
// sound state, in which its successor and its neighbour do all of their work.
func TestCrashAfterEveryOperationAmongNeighbours(t *testing.T) {
	for _, last := range []ipamtest.Fault{ipamtest.Refuse, ipamtest.LoseReply} {
		for k := 0; ; k++ {
			c := neighbourhood(t)
			reached := false
			dying := c.allocator("n", &ipamtest.Faulty{Client: c.store, Decide: func(n int, _ []datastore.Op) ipamtest.Fault {
				switch {
				case n < k:
					return ipamtest.Pass
				case n == k:
					reached = true
					return last
				}
				return ipamtest.Refuse
			}})
			for _, do := range neighbourly() {
				_, _, _ = do(c, dying)
			}
			dying.Close()
			if err := ipamtest.Check(t.Context(), c.store); err != nil {
				t.Fatalf("crash at operation %d (%v): %v", k, last, err)
			}
			next := c.allocator("n")
			for _, handle := range []ipam.HandleID{"a", "b", "c", "d"} { // what the callers' journal does
				if _, err := next.ReleaseByHandle(t.Context(), handle); err != nil {
					t.Fatal(err)
				}
			}
			c.goOn(t, next, k)
			next.Close()
			if !reached {
				t.Logf("%d operations in all", k)
				break
			}
		}
	}
}

// One operation fails or loses its answer, and the process lives on.
func TestOneFaultAtEveryOperationAmongNeighboursIsSurvived(t *testing.T) {
	for _, fault := range []ipamtest.Fault{ipamtest.Refuse, ipamtest.LoseReply} {
		for k := 0; ; k++ {
			c := neighbourhood(t)
			reached := false
			a := c.allocator("n", &ipamtest.Faulty{Client: c.store, Decide: func(n int, _ []datastore.Op) ipamtest.Fault {
				if n == k {
					reached = true
					return fault
				}
				return ipamtest.Pass
			}})
			c.goOn(t, a, k)
			a.Close()
			if !reached {
				break
			}
		}
	}
}

// goOn has n do all of its work, and then m.
func (c *cluster) goOn(t *testing.T, n *ipam.Allocator, k int) {
	t.Helper()
	model := ipamtest.NewModel()
	if err := model.Assigned("m2", addrsOfHandle(t, n, "m2")); err != nil {
		t.Fatal(err)
	}
	for _, do := range neighbourly() {
		handle, addrs, err := do(c, n)
		for errors.Is(err, datastore.ErrUnavailable) {
			handle, addrs, err = do(c, n)
		}
		if err != nil {
			t.Fatalf("at operation %d: %s: %v", k, handle, err)
		}
		model.Released(handle) // nothing, or what it had
		if err := model.Assigned(handle, addrs); err != nil {
			t.Fatalf("at operation %d: %v", k, err)
		}
	}
	m := c.allocator("m")
	defer m.Close()
	if err := model.Assigned("m3", assign(t, m, "m3", 7, 0)); err != nil { // all that is left
		t.Fatalf("at operation %d: %v", k, err)
	}
	if err := model.Verify(t.Context(), c.store); err != nil {
		t.Fatalf("at operation %d: %v", k, err)
	}
}

func addrsOfHandle(t *testing.T, a *ipam.Allocator, handle string) []netip.Addr {
	t.Helper()
	for {
		addrs, err := a.ByHandle(t.Context(), ipam.HandleID(handle))
		if errors.Is(err, datastore.ErrUnavailable) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return addrs
	}
}
