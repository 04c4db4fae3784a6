package routetable_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
	"tortie/internal/routetable"
)

func TestFailedRouteStaysPendingAndTheRestProceeds(t *testing.T) {
	for _, op := range []string{"add route", "replace route", "delete route"} {
		t.Run(op, func(t *testing.T) {
			k := fakekernel.New()
			w := newWorld(t, k)
			table := newTable(w)
			table.Set([]kernel.Route{w.viaPod("10.65.0.1/32"), w.viaPod("10.65.0.2/32"), w.viaPod("10.65.0.3/32"), w.viaPod("10.65.0.4/32")})
			apply(t, table)
			table.Set([]kernel.Route{ // two are replaced, two deleted, two added
				w.via("10.65.0.1/32", "192.0.2.2"), w.via("10.65.0.2/32", "192.0.2.2"),
				w.viaPod("10.65.0.5/32"), w.viaPod("10.65.0.6/32"),
			})
			k.FailNth(1, op, syscall.ENOMEM)
			err := table.Apply(t.Context())
			if !errors.Is(err, syscall.ENOMEM) || !strings.HasPrefix(err.Error(), op+" 10.65.0.") {
				t.Errorf("error is %v, want one that begins with %q and a prefix", err, op)
			}
			if n := table.Pending(); n != 1 {
				t.Errorf("%d routes pending, want the one that failed", n)
			}
			apply(t, table)
			w.wantRoutes(
				t, kernel.ProtocolBGP, w.via("10.65.0.1/32", "192.0.2.2"), w.via("10.65.0.2/32", "192.0.2.2"),
				w.viaPod("10.65.0.5/32"), w.viaPod("10.65.0.6/32"),
			)
		})
	}
}

func TestNothingIsWrittenBeforeTheKernelWasRead(t *testing.T) {
	k := fakekernel.New()
	w := newWorld(t, k)
	ok(t, k.AddRoute(mark(kernel.ProtocolBGP, w.viaPod("10.65.0.9/32"))[0]))
	table := newTable(w)
	table.Update(w.viaPod("10.65.0.1/32"))
	k.InterruptDumps(2)
	for range 2 {
		if err := table.Apply(t.Context()); !errors.Is(err, kernel.ErrDumpInterrupted) {
			t.Errorf("error is %v, want ErrDumpInterrupted", err)
		}
	}
	w.wantRoutes(t, kernel.ProtocolBGP, w.viaPod("10.65.0.9/32"))
	apply(t, table)
	w.wantRoutes(t, kernel.ProtocolBGP, w.viaPod("10.65.0.1/32"))
}

func TestErrorOfManyFailuresIsBounded(t *testing.T) {
	k := fakekernel.New()
	w := newWorld(t, k)
	table := newTable(w)
	for i := range 1000 {
		table.Update(w.viaPod(fmt.Sprintf("10.65.%d.%d/32", i/250, i%250)))
	}
	k.SetFault(func(op fakekernel.Op) error {
		if op.Name == "add route" {
			return syscall.EPERM
		}
		return nil
	})
	err := table.Apply(t.Context())
	if lines := strings.Count(err.Error(), "\n") + 1; lines > 12 {
		t.Errorf("the error has %d lines", lines)
	}
	if !strings.Contains(err.Error(), "and 990 more routes") || !errors.Is(err, kernel.ErrPermission) {
		t.Errorf("error is %v", err)
	}
}

func TestCancelledApplyLeavesTheRestPending(t *testing.T) {
	k := fakekernel.New()
	w := newWorld(t, k)
	table := newTable(w)
	for i := range 1000 {
		table.Update(w.viaPod(fmt.Sprintf("10.65.%d.%d/32", i/250, i%250)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	k.SetFault(func(op fakekernel.Op) error {
		if op.Name == "add route" {
			cancel() // while the first part of the routes is being written
		}
		return nil
	})
	if err := table.Apply(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want Canceled", err)
	}
	written, err := k.Routes(t.Context(), kernel.RouteFilter{Protocol: kernel.ProtocolBGP})
	ok(t, err)
	if n := table.Pending(); len(written) == 0 || len(written) == 1000 || n != 1000-len(written) {
		t.Errorf("%d routes written, %d pending; want some of each, 1000 in all", len(written), n)
	}
	apply(t, table)
}

// TestConvergesWhateverHappens changes what is desired, the kernel behind the
// table's back, links and the success of requests in any order; once the faults
// end and the table was told to resync, the kernel has exactly what is desired,
// and what others own is as they left it.
func TestConvergesWhateverHappens(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		k := fakekernel.New()
		w := newWorld(t, k)
		c := &chaos{world: w, k: k, table: newTable(w), desired: map[netip.Prefix]kernel.Route{}}
		rt.Repeat(map[string]func(*rapid.T){
			"update":  c.update,
			"remove":  c.remove,
			"apply":   func(*rapid.T) { _ = c.table.Apply(context.Background()) },
			"behind":  c.behind,
			"fault":   c.fault,
			"flap":    c.flap,
			"hold":    func(rt *rapid.T) { c.table.HoldStale(rapid.Bool().Draw(rt, "hold")) },
			"resync":  func(*rapid.T) { c.table.QueueResync() },
			"changed": func(*rapid.T) { c.table.LinkChanged(w.cali0) },
		})
		c.converge(rt)
	})
}

type chaos struct {
	world
	k       *fakekernel.Kernel
	table   *routetable.Table
	desired map[netip.Prefix]kernel.Route
}

var dsts = []string{"10.65.0.0/26", "10.65.0.1/32", "10.65.0.2/32", "fd00:65::/122", "fd00:65::1/128"}

func (c *chaos) anyRoute(rt *rapid.T) kernel.Route {
	dst := rapid.SampledFrom(dsts).Draw(rt, "dst")
	gw := map[bool]string{true: "192.0.2.2", false: "2001:db8::2"}[p(dst).Addr().Is4()]
	r := rapid.SampledFrom([]kernel.Route{c.viaPod(dst), c.via(dst, gw), blackhole(dst)}).Draw(rt, "route")
	r.Priority = rapid.SampledFrom([]int{0, 0, 5}).Draw(rt, "metric")
	return r
}

func (c *chaos) update(rt *rapid.T) {
	r := c.anyRoute(rt)
	c.desired[r.Dst] = r
	c.table.Update(r)
}

func (c *chaos) remove(rt *rapid.T) {
	dst := p(rapid.SampledFrom(dsts).Draw(rt, "dst"))
	delete(c.desired, dst)
	c.table.Remove(dst)
}

// behind is another program at work, which may use our protocol.
func (c *chaos) behind(rt *rapid.T) {
	r := c.anyRoute(rt)
	r.Protocol = rapid.SampledFrom([]kernel.Protocol{kernel.ProtocolBGP, kernel.ProtocolStatic}).Draw(rt, "protocol")
	if rapid.Bool().Draw(rt, "delete") {
		_ = c.k.DeleteRoute(r)
	} else {
		_ = c.k.AddRoute(r)
	}
}

func (c *chaos) fault(rt *rapid.T) {
	op := rapid.SampledFrom([]string{"add", "replace", "delete", "read"}).Draw(rt, "op")
	c.k.FailNth(rapid.IntRange(1, 3).Draw(rt, "n"), op, syscall.ENOBUFS)
}

func (c *chaos) flap(*rapid.T) {
	_ = c.k.SetDown(c.cali0)
	_ = c.k.SetUp(c.cali0)
}

func (c *chaos) converge(rt *rapid.T) {
	c.k.SetFault(nil)
	theirs, err := c.k.Routes(context.Background(), kernel.RouteFilter{Protocol: kernel.ProtocolStatic})
	ok(rt, err)
	c.table.HoldStale(false)
	c.table.QueueResync()
	_ = c.table.Apply(context.Background()) // may report conflicts
	c.wantRoutes(rt, kernel.ProtocolStatic, theirs...)
	taken := map[routeKey]bool{}
	for _, r := range theirs {
		taken[routeKey{r.Dst, r.Priority}] = true
	}
	var want []kernel.Route
	conflicts := 0
	for _, r := range c.desired {
		if n := r.Normal(); taken[routeKey{n.Dst, n.Priority}] {
			conflicts++
		} else {
			want = append(want, r)
		}
	}
	c.wantRoutes(rt, kernel.ProtocolBGP, want...)
	if got := len(c.table.Conflicts()); got != conflicts || c.table.Pending() != conflicts {
		rt.Errorf("%d conflicts and %d pending, want %d of each", got, c.table.Pending(), conflicts)
	}
}

type routeKey struct {
	dst      netip.Prefix
	priority int
}
