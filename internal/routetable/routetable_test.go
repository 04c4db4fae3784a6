package routetable_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/routetable"
)

// surface is what these tests need of a kernel, beside what a Table does.
type surface interface {
	routetable.Kernel
	AddRoute(kernel.Route) error
	ReplaceRoute(kernel.Route) error
	DeleteRoute(kernel.Route) error
	CreateVeth(kernel.VethSpec) (kernel.Link, error)
	AddAddress(link int, prefix netip.Prefix) error
	SetUp(link int) error
	SetDown(link int) error
	DeleteLink(link int) error
}

// world is a kernel with two links that run: eth0 with 192.0.2.1/24 and
// 2001:db8::1/64, and cali0.
type world struct {
	surface
	eth0, cali0 int
}

// onBoth runs a test on the fake kernel and in a real network namespace.
func onBoth(t *testing.T, test func(*testing.T, world)) {
	t.Run("fake", func(t *testing.T) { test(t, newWorld(t, fakekernel.New())) })
	t.Run("real", func(t *testing.T) {
		kerneltest.Require(t, kerneltest.Netns, kerneltest.Veth, kerneltest.IPv6)
		test(t, newWorld(t, kerneltest.New(t)))
	})
}

func newWorld(t testing.TB, k surface) world {
	t.Helper()
	veth := func(name string) int {
		l, err := k.CreateVeth(kernel.VethSpec{Host: name, Peer: name + "p"})
		ok(t, err)
		ok(t, k.SetUp(l.PeerIndex))
		return l.Index
	}
	w := world{surface: k, eth0: veth("eth0"), cali0: veth("cali0")}
	ok(t, k.AddAddress(w.eth0, netip.MustParsePrefix("192.0.2.1/24")))
	ok(t, k.AddAddress(w.eth0, netip.MustParsePrefix("2001:db8::1/64")))
	return w
}

// tb is what a test and a rapid check have in common.
type tb interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

func ok(t tb, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func p(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// via is a learned route; viaPod one to a workload.
func (w world) via(dst, gw string) kernel.Route {
	return kernel.Route{Dst: p(dst), Link: w.eth0, Gateway: netip.MustParseAddr(gw)}
}

func (w world) viaPod(dst string) kernel.Route { return kernel.Route{Dst: p(dst), Link: w.cali0} }

func blackhole(dst string) kernel.Route {
	return kernel.Route{Dst: p(dst), Type: kernel.RouteBlackhole}
}

// mark gives routes the protocol and form they have in the kernel.
func mark(protocol kernel.Protocol, routes ...kernel.Route) []kernel.Route {
	out := make([]kernel.Route, 0, len(routes))
	for _, r := range routes {
		r.Protocol = protocol
		out = append(out, r.Normal())
	}
	slices.SortFunc(out, func(a, b kernel.Route) int { return a.Dst.Compare(b.Dst) })
	return out
}

// wantRoutes compares what the kernel has of a protocol.
func (w world) wantRoutes(t tb, protocol kernel.Protocol, want ...kernel.Route) {
	t.Helper()
	got, err := w.Routes(context.Background(), kernel.RouteFilter{Protocol: protocol})
	ok(t, err)
	slices.SortFunc(got, func(a, b kernel.Route) int { return a.Dst.Compare(b.Dst) })
	if len(got) == 0 && len(want) == 0 {
		return
	}
	if d := cmp.Diff(mark(protocol, want...), got, cmp.Comparer(func(a, b kernel.Route) bool { return a == b })); d != "" {
		t.Errorf("routes of protocol %d: want -, got +\n%s", protocol, d)
	}
}

func newTable(w world) *routetable.Table {
	return routetable.New(routetable.Config{Kernel: w, Protocol: kernel.ProtocolBGP})
}

func apply(t testing.TB, table *routetable.Table) {
	t.Helper()
	ok(t, table.Apply(context.Background()))
	if n := table.Pending(); n != 0 {
		t.Errorf("%d routes pending after Apply", n)
	}
}

func TestKernelBecomesWhatIsDesired(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		table := newTable(w)
		table.Set([]kernel.Route{
			w.via("10.65.1.0/26", "192.0.2.2"), w.via("fd00:65:1::/122", "2001:db8::2"),
			w.viaPod("10.65.0.2/32"), blackhole("10.65.0.0/26"), blackhole("fd00:65::/122"),
		})
		apply(t, table)
		w.wantRoutes(
			t, kernel.ProtocolBGP,
			w.via("10.65.1.0/26", "192.0.2.2"), w.via("fd00:65:1::/122", "2001:db8::2"),
			w.viaPod("10.65.0.2/32"), blackhole("10.65.0.0/26"), blackhole("fd00:65::/122"),
		)

		// Moved, turned into another type, removed, added.
		table.Update(w.via("10.65.1.0/26", "192.0.2.3"))
		table.Update(w.viaPod("fd00:65::/122"))
		table.Remove(p("10.65.0.2/32"))
		table.Update(w.viaPod("fd00:65::9/128"))
		if n := table.Pending(); n != 4 {
			t.Errorf("%d routes pending, want 4", n)
		}
		apply(t, table)
		w.wantRoutes(
			t, kernel.ProtocolBGP,
			w.via("10.65.1.0/26", "192.0.2.3"), w.via("fd00:65:1::/122", "2001:db8::2"),
			blackhole("10.65.0.0/26"), w.viaPod("fd00:65::/122"), w.viaPod("fd00:65::9/128"),
		)

		table.Set(nil)
		apply(t, table)
		w.wantRoutes(t, kernel.ProtocolBGP)
	})
}

func TestDestinationMovesToAnotherMetric(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		table := newTable(w)
		for _, metric := range []int{0, 50, 1024, 0, 7} {
			r4, r6 := w.via("10.65.1.0/26", "192.0.2.2"), w.via("fd00:65:1::/122", "2001:db8::2")
			r4.Priority, r6.Priority = metric, metric
			table.Update(r4)
			table.Update(r6)
			apply(t, table)
			w.wantRoutes(t, kernel.ProtocolBGP, r4, r6)
		}
		table.Remove(p("10.65.1.0/26"))
		table.Remove(p("fd00:65:1::/122"))
		apply(t, table)
		w.wantRoutes(t, kernel.ProtocolBGP)
	})
}

func TestRestartKeepsWhatIsRightAndSweepsOnlyOurs(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		for _, r := range mark(
			kernel.ProtocolBGP, w.via("10.65.1.0/26", "192.0.2.2"),
			w.via("10.65.2.0/26", "192.0.2.2"), w.via("fd00:65:3::/122", "2001:db8::2"),
		) {
			ok(t, w.AddRoute(r))
		}
		theirs := []kernel.Route{w.viaPod("10.65.9.1/32"), w.viaPod("fd00:65:9::1/128")}
		for _, r := range mark(kernel.ProtocolFelix, theirs...) {
			ok(t, w.AddRoute(r))
		}
		counting := &countingKernel{Kernel: w}
		table := routetable.New(routetable.Config{Kernel: counting, Protocol: kernel.ProtocolBGP})
		table.Set([]kernel.Route{w.via("10.65.1.0/26", "192.0.2.2"), w.via("10.65.2.0/26", "192.0.2.3")})
		apply(t, table)
		w.wantRoutes(t, kernel.ProtocolBGP, w.via("10.65.1.0/26", "192.0.2.2"), w.via("10.65.2.0/26", "192.0.2.3"))
		w.wantRoutes(t, kernel.ProtocolFelix, theirs...)
		if counting.writes != 2 {
			t.Errorf("%d writes, want one replacement and one deletion", counting.writes)
		}
		apply(t, table)
		if counting.writes != 2 || counting.reads != 2 {
			t.Errorf("an Apply with nothing to do costs: %d writes, %d reads in all", counting.writes, counting.reads)
		}
	})
}

// countingKernel counts the requests.
type countingKernel struct {
	routetable.Kernel
	reads, writes int
}

func (c *countingKernel) Routes(ctx context.Context, f kernel.RouteFilter) ([]kernel.Route, error) {
	c.reads++
	return c.Kernel.Routes(ctx, f)
}

func (c *countingKernel) ChangeRoutes(changes []kernel.RouteChange) []error {
	c.writes += len(changes)
	return c.Kernel.ChangeRoutes(changes)
}

func TestStaleRoutesAreHeldUntilReleased(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		stale := []kernel.Route{
			w.via("10.65.1.0/26", "192.0.2.2"), w.via("10.65.2.0/26", "192.0.2.2"),
			w.via("fd00:65:3::/122", "2001:db8::2"), w.via("10.65.4.0/26", "192.0.2.2"),
		}
		for _, r := range mark(kernel.ProtocolBGP, stale...) {
			ok(t, w.AddRoute(r))
		}
		table := newTable(w)
		table.HoldStale(true)
		table.Update(w.via("10.65.1.0/26", "192.0.2.3")) // learned again, elsewhere
		table.Update(w.via("10.65.5.0/26", "192.0.2.3"))
		table.Update(w.via("10.65.4.0/26", "192.0.2.2"))
		apply(t, table)
		w.wantRoutes(
			t, kernel.ProtocolBGP, w.via("10.65.1.0/26", "192.0.2.3"), stale[1], stale[2], stale[3],
			w.via("10.65.5.0/26", "192.0.2.3"),
		)
		if n := table.Stale(); n != 2 {
			t.Errorf("%d stale routes, want 2", n)
		}

		// What a peer says is gone goes at once, held or not.
		table.Remove(p("10.65.4.0/26"))
		table.Remove(p("10.65.2.0/26"))
		apply(t, table)
		w.wantRoutes(
			t, kernel.ProtocolBGP, w.via("10.65.1.0/26", "192.0.2.3"), stale[2], w.via("10.65.5.0/26", "192.0.2.3"),
		)

		table.HoldStale(false)
		if n := table.Pending(); n != 1 {
			t.Errorf("%d routes pending after the release, want the stale one", n)
		}
		apply(t, table)
		w.wantRoutes(t, kernel.ProtocolBGP, w.via("10.65.1.0/26", "192.0.2.3"), w.via("10.65.5.0/26", "192.0.2.3"))
	})
}

// TestHeldRouteGivesWayToOneOfAnotherMetric: who desires a destination has spoken of it.
func TestHeldRouteGivesWayToOneOfAnotherMetric(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		stale, other := w.via("10.65.1.0/26", "192.0.2.2"), w.via("10.65.2.0/26", "192.0.2.2")
		for _, r := range mark(kernel.ProtocolBGP, stale, other) {
			ok(t, w.AddRoute(r))
		}
		table := newTable(w)
		table.HoldStale(true)
		moved := stale
		moved.Priority = 50
		table.Update(moved)
		apply(t, table)
		w.wantRoutes(t, kernel.ProtocolBGP, moved, other)
		if n := table.Stale(); n != 1 {
			t.Errorf("%d stale routes, want 1", n)
		}
	})
}

func TestResyncMendsWhatOthersChanged(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		desired := []kernel.Route{
			w.via("10.65.1.0/26", "192.0.2.2"), w.via("10.65.2.0/26", "192.0.2.2"), w.via("fd00:65:3::/122", "2001:db8::2"),
		}
		table := newTable(w)
		table.Set(desired)
		apply(t, table)
		inKernel := mark(kernel.ProtocolBGP, desired...)

		ok(t, w.DeleteRoute(inKernel[0]))
		ok(t, w.ReplaceRoute(mark(kernel.ProtocolBGP, w.via("10.65.2.0/26", "192.0.2.99"))[0]))
		ok(t, w.AddRoute(mark(kernel.ProtocolBGP, w.viaPod("10.65.99.0/26"))[0]))
		apply(t, table) // believes that all is well

		table.QueueResync()
		apply(t, table)
		w.wantRoutes(t, kernel.ProtocolBGP, desired...)
	})
}

func TestAnotherProgramsRouteIsNeverReplaced(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		theirs4, theirs6 := w.via("10.65.1.0/26", "192.0.2.9"), w.via("fd00:65:3::/122", "2001:db8::9")
		for _, r := range mark(kernel.ProtocolStatic, theirs4, theirs6) {
			ok(t, w.AddRoute(r))
		}
		ours4, ours6 := w.via("10.65.1.0/26", "192.0.2.2"), w.via("fd00:65:3::/122", "2001:db8::2")
		free := w.via("10.65.2.0/26", "192.0.2.2")
		table := newTable(w)
		table.Set([]kernel.Route{ours4, ours6, free})
		for range 2 {
			err := table.Apply(t.Context())
			var conflict *routetable.ConflictError
			if !errors.As(err, &conflict) {
				t.Fatalf("error is %v, want a conflict", err)
			}
			for _, words := range []string{"10.65.1.0/26", "fd00:65:3::/122", "protocol 4", "remove it"} {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("error does not mention %q: %v", words, err)
				}
			}
			w.wantRoutes(t, kernel.ProtocolStatic, theirs4, theirs6)
			w.wantRoutes(t, kernel.ProtocolBGP, free)
			if n := len(table.Conflicts()); n != 2 || table.Pending() != 2 {
				t.Errorf("%d conflicts, %d pending; want 2 of each", n, table.Pending())
			}
			table.QueueResync()
		}
		for _, r := range mark(kernel.ProtocolStatic, theirs4, theirs6) {
			ok(t, w.DeleteRoute(r))
		}
		apply(t, table)
		w.wantRoutes(t, kernel.ProtocolBGP, ours4, ours6, free)
		if n := len(table.Conflicts()); n != 0 {
			t.Errorf("%d conflicts remain", n)
		}
	})
}

func TestConflictGoesWithItsRoute(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		ok(t, w.AddRoute(mark(kernel.ProtocolStatic, w.viaPod("10.65.1.0/26"))[0]))
		table := newTable(w)
		table.Update(w.via("10.65.1.0/26", "192.0.2.2"))
		if err := table.Apply(t.Context()); err == nil {
			t.Fatal("no conflict")
		}
		table.Remove(p("10.65.1.0/26"))
		apply(t, table)
		if c := table.Conflicts(); len(c) != 0 {
			t.Errorf("conflicts of a route that nobody wants: %v", c)
		}
		w.wantRoutes(t, kernel.ProtocolStatic, w.viaPod("10.65.1.0/26"))
	})
}

func TestOwnRouteThatAppearedMeanwhileIsTakenOver(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		table := newTable(w)
		apply(t, table) // the kernel has been read
		for _, r := range mark(kernel.ProtocolBGP, w.via("10.65.1.0/26", "192.0.2.9"), w.via("10.65.2.0/26", "192.0.2.2")) {
			ok(t, w.AddRoute(r))
		}
		table.Set([]kernel.Route{w.via("10.65.1.0/26", "192.0.2.2"), w.via("10.65.2.0/26", "192.0.2.2")})
		apply(t, table)
		w.wantRoutes(t, kernel.ProtocolBGP, w.via("10.65.1.0/26", "192.0.2.2"), w.via("10.65.2.0/26", "192.0.2.2"))
	})
}

func TestRoutesWaitForALinkThatIsGoneInOneError(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		table := newTable(w)
		table.Update(w.via("10.65.1.0/26", "192.0.2.2"))
		for _, dst := range []string{"10.65.0.1/32", "10.65.0.2/32", "10.65.0.3/32"} {
			r := w.viaPod(dst)
			r.Link = 4711
			table.Update(r)
		}
		err := table.Apply(t.Context())
		var waiting *routetable.LinkError
		if !errors.As(err, &waiting) || waiting.Link != 4711 || len(waiting.Dsts) != 3 {
			t.Fatalf("error is %v, want one for link 4711 with three routes", err)
		}
		if !errors.Is(err, kernel.ErrNotFound) {
			t.Errorf("error is not of class ErrNotFound: %v", err)
		}
		if n := strings.Count(err.Error(), "\n"); n != 0 {
			t.Errorf("the error has %d lines, want one:\n%v", n+1, err)
		}
		w.wantRoutes(t, kernel.ProtocolBGP, w.via("10.65.1.0/26", "192.0.2.2"))
		if n := table.Pending(); n != 3 {
			t.Errorf("%d pending, want 3", n)
		}
	})
}

func TestRoutesOfALinkThatWentDownComeBackWithIt(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		pod4, pod6 := w.viaPod("10.65.0.2/32"), w.viaPod("fd00:65::2/128")
		table := newTable(w)
		table.Set([]kernel.Route{pod4, pod6})
		apply(t, table)

		ok(t, w.SetDown(w.cali0))
		table.LinkChanged(w.cali0)
		if err := table.Apply(t.Context()); !errors.Is(err, kernel.ErrLinkDown) {
			t.Errorf("error is %v, want ErrLinkDown", err)
		}
		ok(t, w.SetUp(w.cali0))
		table.LinkChanged(w.cali0)
		apply(t, table)
		w.wantRoutes(t, kernel.ProtocolBGP, pod4, pod6)

		// Nothing happened to the routes: they are found right as they are.
		table.LinkChanged(w.cali0)
		apply(t, table)
		w.wantRoutes(t, kernel.ProtocolBGP, pod4, pod6)
	})
}

func TestRouteOfADeletedLinkNeedsNoDeletion(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		table := newTable(w)
		table.Set([]kernel.Route{w.viaPod("10.65.0.2/32"), w.viaPod("fd00:65::2/128")})
		apply(t, table)
		ok(t, w.DeleteLink(w.cali0))
		table.Set(nil)
		apply(t, table)
	})
}

func TestTablesOfOneProtocolAreApart(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		main := newTable(w)
		other := routetable.New(routetable.Config{Kernel: w, Protocol: kernel.ProtocolBGP, Table: 1000})
		main.Update(w.viaPod("10.65.0.1/32"))
		other.Update(w.viaPod("10.65.0.2/32"))
		apply(t, main)
		apply(t, other)
		main.QueueResync()
		apply(t, main)
		w.wantRoutes(t, kernel.ProtocolBGP, w.viaPod("10.65.0.1/32"))
		got, err := w.Routes(t.Context(), kernel.RouteFilter{Table: 1000})
		ok(t, err)
		if len(got) != 1 || got[0].Dst != p("10.65.0.2/32") {
			t.Errorf("table 1000 has %v", got)
		}
	})
}

func TestTableOfOneFamilyLeavesTheOtherAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		ok(t, w.AddRoute(mark(kernel.ProtocolBGP, w.viaPod("fd00:65::2/128"))[0]))
		table := routetable.New(routetable.Config{
			Kernel: w, Protocol: kernel.ProtocolBGP, Families: []kernel.Family{kernel.IPv4},
		})
		apply(t, table)
		w.wantRoutes(t, kernel.ProtocolBGP, w.viaPod("fd00:65::2/128"))
	})
}

func TestDeletionOfMetricZeroSparesTheOtherMetric(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		table := newTable(w)
		low, high := w.viaPod("10.65.0.0/26"), w.viaPod("10.65.0.0/26")
		high.Priority = 5
		table.Update(low)
		apply(t, table)
		ok(t, w.DeleteRoute(mark(kernel.ProtocolBGP, low)[0])) // behind our back
		table.Update(high)
		apply(t, table)
		w.wantRoutes(t, kernel.ProtocolBGP, high)
	})
}

func TestManyRoutesOfALinkThatWentDownComeBackWithIt(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		var desired []kernel.Route
		for i := range 100 {
			desired = append(desired, w.viaPod(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 65, 0, byte(i)}), 32).String()))
		}
		counting := &countingKernel{Kernel: w}
		table := routetable.New(routetable.Config{Kernel: counting, Protocol: kernel.ProtocolBGP})
		table.Set(desired)
		apply(t, table)
		table.LinkChanged(w.cali0)
		apply(t, table)
		if counting.writes != len(desired) {
			t.Errorf("%d writes, want one for each of the %d routes: the link lost none", counting.writes, len(desired))
		}
		ok(t, w.SetDown(w.cali0))
		ok(t, w.SetUp(w.cali0))
		table.LinkChanged(w.cali0)
		apply(t, table)
		w.wantRoutes(t, kernel.ProtocolBGP, desired...)
	})
}
