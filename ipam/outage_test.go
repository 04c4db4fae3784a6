package ipam_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

// The answer to an assignment is lost and the store is gone. When it is back,
// the address is taken back though nobody asks.
func TestLostAssignmentIsTakenBackWithoutAnotherCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := faultCluster(t)
		a := c.allocator("n")
		assign(t, a, "warm", 1, 0)
		down := c.store.Client()
		b := c.allocator("m", &ipamtest.Faulty{Client: down, Decide: loseAssignmentThenCut(down.SetUnavailable)})
		_, err := b.AutoAssign(t.Context(), ipam.Request{Handle: "lost", Num4: 1})
		if !errors.Is(err, datastore.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
		owners, _ := ipamtest.Owners(t.Context(), c.store)
		if len(owners) != 2 {
			t.Fatalf("the lost assignment did not take effect: %v", owners)
		}
		down.SetUnavailable(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		owners, _ = ipamtest.Owners(t.Context(), c.store)
		if len(owners) != 1 {
			t.Errorf("owners are %v, want only that of warm", owners)
		}
		c.check()
		a.Close()
		b.Close()
	})
}

// loseAssignmentThenCut loses the answer of the first transaction that writes a
// handle, and cuts the store off.
func loseAssignmentThenCut(cut func(bool)) func(int, []datastore.Op) ipamtest.Fault {
	done := false
	return func(_ int, ops []datastore.Op) ipamtest.Fault {
		for _, op := range ops {
			if op.Kind == datastore.OpCreate && op.Key.Kind == "IPAMHandle" && !done {
				done = true
				return ipamtest.LoseReply
			}
		}
		if done {
			cut(true)
			done = false
		}
		return ipamtest.Pass
	}
}

// hanging is a store that doesn't answer until the context ends.
type hanging struct{ datastore.Client }

func (h hanging) List(ctx context.Context, _ datastore.Range) (datastore.Snapshot, error) {
	<-ctx.Done()
	return datastore.Snapshot{}, ctx.Err()
}

func TestAutoAssignReturnsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := faultCluster(t)
		a := c.allocator("n", hanging{c.store})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		_, err := a.AutoAssign(ctx, ipam.Request{Handle: "h", Num4: 1})
		if !errors.Is(err, datastore.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
		a.Close()
	})
}

func TestCloseAnswersCallsUnderWay(t *testing.T) {
	c := faultCluster(t)
	entered := make(chan struct{})
	client := &ipamtest.Faulty{Client: hanging{c.store}, Decide: func(n int, _ []datastore.Op) ipamtest.Fault {
		if n == 0 {
			close(entered)
		}
		return ipamtest.Pass
	}}
	a := c.allocator("n", client)
	answered := make(chan error, 1)
	go func() {
		_, err := a.AutoAssign(context.Background(), ipam.Request{Handle: "h", Num4: 1})
		answered <- err
	}()
	<-entered
	a.Close()
	if err := <-answered; !errors.Is(err, ipam.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestUnavailableStoreIsReportedAsSuch(t *testing.T) {
	c := faultCluster(t)
	a := c.allocator("n")
	c.store.SetUnavailable(true)
	_, err := a.AutoAssign(t.Context(), ipam.Request{Handle: "h", Num4: 1})
	if !errors.Is(err, datastore.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := a.ReleaseByHandle(t.Context(), "h"); !errors.Is(err, datastore.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	c.store.SetUnavailable(false)
	assign(t, a, "h", 1, 1)
	c.check()
}

// A field that a newer program stored survives every kind of update.
func TestUnknownFieldsSurvive(t *testing.T) {
	c := faultCluster(t)
	a := c.allocator("n")
	assign(t, a, "h", 1, 0)
	paths := c.store.Paths("/calico/ipam/v2/assignment/ipv4/")
	paths = append(paths, "/calico/ipam/v2/handle/h")
	for _, path := range paths {
		value, _ := c.store.RawGet(path)
		c.store.RawPut(path, []byte(strings.TrimSuffix(string(value), "}")+`,"fromTheFuture":{"x":[1]}}`))
	}
	assign(t, a, "h", 1, 0)
	assign(t, a, "other", 1, 0)
	if _, err := ipam.ReleaseHandle(t.Context(), c.store, "other"); err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if value, _ := c.store.RawGet(path); !strings.Contains(string(value), `"fromTheFuture":{"x":[1]}`) {
			t.Errorf("%s lost a field: %s", path, value)
		}
	}
	c.check()
}
