package dataplane_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"tortie/felix/calc"
	"tortie/felix/dataplane"
	"tortie/internal/kernel"
	"tortie/internal/routetable"
)

const (
	if1 = "cali00000000001"
	if2 = "cali00000000002"
)

func TestUpsertReturnsWithTheRoutesInTheKernel(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		w.start() // not in sync: a pod need not wait for the datastore
		w.upsert(endpoint("a", "c1", if1, "10.65.0.1", "fd00:65::1"))
		w.wantRoutes("10.65.0.1/32 "+if1, "fd00:65::1/128 "+if1)
	})
}

// An interface that is said to be up is not looked at, but news of it are heeded.
func TestUpsertTakesTheCallersWordForTheInterface(t *testing.T) {
	onEachKernel(t, func(w *world) {
		link := w.device(if1)
		w.startInSync(calc.State{})
		ep := endpoint("a", "c1", if1, "10.65.0.1")
		if err := w.loop.Upsert(w.Context(), ep, link.Index); err != nil {
			w.Fatal(err)
		}
		w.wantRoutes("10.65.0.1/32 " + if1)
		if err := w.kern.DeleteLink(link.Index); err != nil {
			w.Fatal(err)
		}
		w.device(if1) // another, under the same name
		w.becomes("10.65.0.1/32 " + if1)
	})
}

func TestManyUpsertsAtOnce(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.startInSync(calc.State{})
		var want []string
		var all sync.WaitGroup
		for n := range 50 {
			name, ip := fmt.Sprintf("cali%011x", n), fmt.Sprintf("10.65.0.%d", n)
			w.device(name)
			want = append(want, ip+"/32 "+name)
			all.Go(func() {
				if err := w.loop.Upsert(w.Context(), endpoint(name, "c", name, ip), 0); err != nil {
					w.Error(err)
				}
			})
		}
		all.Wait()
		w.wantRoutes(want...)
	})
}

func TestUpsertSaysWhenTheInterfaceIsMissing(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.startInSync(calc.State{})
		ep := endpoint("a", "c1", if1, "10.65.0.1")
		err := w.loop.Upsert(w.Context(), ep, 0)
		if !errors.Is(err, dataplane.ErrNoInterface) || !strings.Contains(err.Error(), if1) {
			w.Errorf("error %v", err)
		}
		w.barrier()
		if got := w.loop.Status().Waiting; !slices.Equal(got, []calc.EndpointID{ep.ID}) {
			w.Errorf("waiting %v", got)
		}
		w.device(if1)
		w.becomes("10.65.0.1/32 " + if1)
	})
}

func TestRemoveReturnsWithTheRoutesGone(t *testing.T) {
	for _, inSync := range []bool{false, true} {
		onEachKernel(t, func(w *world) {
			w.device(if1)
			w.device(if2)
			w.start()
			if inSync {
				w.loop.InSync()
			}
			a, b := endpoint("a", "c1", if1, "10.65.0.1"), endpoint("b", "c2", if2, "10.65.0.2")
			w.upsert(a)
			w.upsert(b)
			w.remove(a)
			w.wantRoutes("10.65.0.2/32 " + if2)
			w.remove(a) // absent by now
			w.wantRoutes("10.65.0.2/32 " + if2)
		})
	}
}

func TestRemoveOfAnOldSandboxLeavesTheNewOne(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		w.startInSync(calc.State{})
		w.upsert(endpoint("a", "new", if1, "10.65.0.1"))
		w.remove(endpoint("a", "old", if1, "10.65.0.1"))
		w.barrier()
		w.wantRoutes("10.65.0.1/32 " + if1)
	})
}

func TestAddedEndpointHoldsUntilTheDatastoreShowsIt(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		w.startInSync(calc.State{})
		a := endpoint("a", "c1", if1, "10.65.0.1")
		w.upsert(a)
		w.loop.SetState(state(endpoint("a", "c0", if1, "10.65.0.7"))) // the life before
		w.barrier()
		w.wantRoutes("10.65.0.1/32 " + if1)
		w.loop.SetState(state(a))
		w.barrier()
		w.wantRoutes("10.65.0.1/32 " + if1)
		w.loop.SetState(state()) // from here on the datastore is the truth
		w.barrier()
		w.wantRoutes()
	})
}

func TestRemovedEndpointStaysAwayUntilItsContainerChanges(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		a := endpoint("a", "c1", if1, "10.65.0.1")
		w.startInSync(state(a))
		w.becomes("10.65.0.1/32 " + if1)
		w.remove(a)
		w.wantRoutes()
		w.loop.SetState(state(a)) // its deletion waits in the journal
		w.barrier()
		w.wantRoutes()
		w.loop.SetState(state(endpoint("a", "c2", if1, "10.65.0.2")))
		w.barrier()
		w.wantRoutes("10.65.0.2/32 " + if1)
	})
}

func TestEndpointRemovedBeforeInSyncStaysAway(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		a := endpoint("a", "c1", if1, "10.65.0.1")
		w.start()
		w.remove(a)
		w.loop.SetState(state(a))
		w.loop.InSync()
		w.barrier()
		w.wantRoutes()
	})
}

func TestHalfOfTheDatastoreSettlesNothing(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		w.device(if2)
		a, b := endpoint("a", "c1", if1, "10.65.0.1"), endpoint("b", "c2", if2, "10.65.0.2")
		w.start()
		w.upsert(a)
		w.upsert(b)
		w.remove(b)
		w.loop.SetState(state(a)) // b is not in this half
		w.barrier()
		w.wantRoutes("10.65.0.1/32 " + if1)
		w.loop.SetState(state(a, b))
		w.loop.InSync()
		w.barrier()
		w.wantRoutes("10.65.0.1/32 " + if1)
	})
}

func TestRemoveBeforeInSyncTakesAnEarlierProcesssRoutes(t *testing.T) {
	onEachKernel(t, func(w *world) {
		l := w.device(if1)
		w.must(w.kern.AddRoute(kernel.Route{
			Dst: netip.MustParsePrefix("10.65.0.1/32"), Protocol: kernel.ProtocolFelix,
			Scope: kernel.ScopeLink, Link: l.Index,
		}))
		a := endpoint("a", "c1", if1, "10.65.0.1")
		w.start()
		w.loop.SetState(state(a))
		w.barrier()
		w.wantRoutes("10.65.0.1/32 " + if1)
		w.remove(a)
		w.wantRoutes()
	})
}

func TestRepeatedAddAfterRemoveComesBack(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		a := endpoint("a", "c1", if1, "10.65.0.1")
		w.startInSync(state(a))
		w.remove(a)
		w.upsert(a)
		w.loop.SetState(state(a))
		w.barrier()
		w.wantRoutes("10.65.0.1/32 " + if1)
	})
}

func TestNothingIsRemovedBeforeInSync(t *testing.T) {
	onEachKernel(t, func(w *world) {
		l := w.device(if1)
		foreign := kernel.Route{Dst: netip.MustParsePrefix("10.70.0.0/16"), Protocol: kernel.ProtocolStatic, Type: kernel.RouteBlackhole}
		learned := kernel.Route{Dst: netip.MustParsePrefix("10.71.0.0/16"), Protocol: kernel.ProtocolBGP, Type: kernel.RouteBlackhole}
		for _, r := range []kernel.Route{
			{Dst: netip.MustParsePrefix("10.65.0.1/32"), Protocol: kernel.ProtocolFelix, Scope: kernel.ScopeLink, Link: l.Index},
			{Dst: netip.MustParsePrefix("10.65.0.9/32"), Protocol: kernel.ProtocolFelix, Scope: kernel.ScopeLink, Link: l.Index},
			{Dst: netip.MustParsePrefix("10.65.9.0/26"), Protocol: kernel.ProtocolFelix, Type: kernel.RouteBlackhole},
			foreign, learned,
		} {
			if err := w.kern.AddRoute(r); err != nil {
				w.Fatal(err)
			}
		}
		w.start()
		w.loop.SetState(state(endpoint("a", "c1", if1, "10.65.0.1")))
		w.barrier()
		w.wantRoutes("10.65.0.1/32 "+if1, "10.65.0.9/32 "+if1, "blackhole 10.65.9.0/26")
		w.loop.InSync()
		w.becomes("10.65.0.1/32 " + if1)
		all, err := w.kern.Routes(w.Context(), kernel.RouteFilter{})
		if err != nil {
			w.Fatal(err)
		}
		for _, r := range []kernel.Route{foreign, learned} {
			if !slices.Contains(all, r.Normal()) {
				w.Errorf("%s of another owner is gone", r)
			}
		}
	})
}

func TestRestartRewritesNothingThatIsRight(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		w.device(probeIf)
		s := state(endpoint("a", "c1", if1, "10.65.0.1", "fd00:65::1"))
		s.Blocks = []netip.Prefix{netip.MustParsePrefix("10.65.0.0/26"), netip.MustParsePrefix("fd00:65::/122")}
		want := []string{"10.65.0.1/32 " + if1, "fd00:65::1/128 " + if1, "blackhole 10.65.0.0/26", "blackhole fd00:65::/122"}
		w.startInSync(s)
		w.becomes(want...)
		w.stop()
		w.wantRoutes(want...)

		ctx, cancel := context.WithCancel(w.Context())
		events, err := w.kern.Subscribe(ctx, kernel.RouteEvents)
		if err != nil {
			w.Fatal(err)
		}
		w.startInSync(s)
		w.barrier()
		w.wantRoutes(want...)
		cancel()
		for ev := range events {
			r, ok := ev.(kernel.RouteEvent)
			if !ok || r.Route.Protocol == kernel.ProtocolFelix && r.Route.Dst.Addr() != netip.MustParseAddr("10.99.0.1") {
				w.Errorf("event %+v", ev)
			}
		}
	})
}

func TestRoutesFollowTheInterface(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.startInSync(state(endpoint("a", "c1", if1, "10.65.0.1", "fd00:65::1")))
		w.wantRoutes()
		want := []string{"10.65.0.1/32 " + if1, "fd00:65::1/128 " + if1}
		l := w.device(if1)
		w.becomes(want...)
		w.must(w.kern.SetDown(l.Index))
		w.becomes()
		w.must(w.kern.SetUp(l.Index))
		w.becomes(want...)
		w.must(w.kern.DeleteLink(l.Index))
		w.becomes()
		w.device(if1) // another one under the same name
		w.becomes(want...)
	})
}

func TestBlackholesAreThoseOfTheBlocks(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		s := state(endpoint("a", "c1", if1, "10.65.2.1"))
		for _, p := range []string{"10.65.1.0/26", "fd00:65::/122", "10.65.2.1/32"} {
			s.Blocks = append(s.Blocks, netip.MustParsePrefix(p))
		}
		w.startInSync(s)
		// A block of one address belongs to the workload that has it.
		w.becomes("10.65.2.1/32 "+if1, "blackhole 10.65.1.0/26", "blackhole fd00:65::/122")
		w.loop.SetState(state())
		w.becomes()
	})
}

func TestForeignChangeOfOurRoutesIsUndone(t *testing.T) {
	onEachKernel(t, func(w *world) {
		l := w.device(if1)
		w.startInSync(state(endpoint("a", "c1", if1, "10.65.0.1")))
		w.becomes("10.65.0.1/32 " + if1)
		w.barrier()
		ours := kernel.Route{
			Dst: netip.MustParsePrefix("10.65.0.1/32"), Protocol: kernel.ProtocolFelix,
			Scope: kernel.ScopeLink, Link: l.Index,
		}
		w.must(w.kern.DeleteRoute(ours))
		w.becomes("10.65.0.1/32 " + if1)
		ours.Dst = netip.MustParsePrefix("10.65.0.77/32")
		w.must(w.kern.AddRoute(ours))
		w.becomes("10.65.0.1/32 " + if1)
	})
}

// TestMendReturnsWithTheRoutesBack: events of foreign changes are heeded at most so
// often, but whoever repeats an ADD waits for its routes.
func TestMendReturnsWithTheRoutesBack(t *testing.T) {
	onEachKernel(t, func(w *world) {
		l := w.device(if1)
		ep := endpoint("a", "c1", if1, "10.65.0.1")
		w.startInSync(state(ep))
		w.becomes("10.65.0.1/32 " + if1)
		ours := kernel.Route{
			Dst: netip.MustParsePrefix("10.65.0.1/32"), Protocol: kernel.ProtocolFelix,
			Scope: kernel.ScopeLink, Link: l.Index,
		}
		for range 3 {
			w.must(w.kern.DeleteRoute(ours))
			w.must(w.loop.Mend(w.Context(), ep, l.Index))
			w.wantRoutes("10.65.0.1/32 " + if1)
		}
	})
}

func TestConflictWithAForeignRouteFailsOnlyItsEndpoint(t *testing.T) {
	onEachKernel(t, func(w *world) {
		l := w.device(if1)
		w.device(if2)
		foreign := kernel.Route{
			Dst: netip.MustParsePrefix("10.65.0.1/32"), Protocol: kernel.ProtocolStatic,
			Scope: kernel.ScopeLink, Link: l.Index,
		}
		w.must(w.kern.AddRoute(foreign))
		w.startInSync(calc.State{})
		err := w.loop.Upsert(w.Context(), endpoint("a", "c1", if1, "10.65.0.1"), 0)
		var conflict *routetable.ConflictError
		if !errors.As(err, &conflict) || !strings.Contains(err.Error(), "ns1/a") {
			w.Errorf("error %v", err)
		}
		w.upsert(endpoint("b", "c2", if2, "10.65.0.2"))
		w.wantRoutes("10.65.0.2/32 " + if2)
		w.barrier()
		if s := w.loop.Status(); s.LastError == nil || s.PendingRoutes != 1 {
			w.Errorf("status %+v", s)
		}
	})
}

func TestChangedEndpointLosesWhatItNoLongerHas(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		w.startInSync(state(endpoint("a", "c1", if1, "10.65.0.1", "10.65.0.2")))
		w.becomes("10.65.0.1/32 "+if1, "10.65.0.2/32 "+if1)
		w.loop.SetState(state(endpoint("a", "c1", if1, "10.65.0.2", "10.65.0.3")))
		w.becomes("10.65.0.2/32 "+if1, "10.65.0.3/32 "+if1)
	})
}

func TestAddressGoesToTheEndpointThatWasJustAdded(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		w.device(if2)
		w.startInSync(state(endpoint("stale", "c1", if1, "10.65.0.1")))
		w.becomes("10.65.0.1/32 " + if1)
		w.upsert(endpoint("fresh", "c2", if2, "10.65.0.1"))
		w.wantRoutes("10.65.0.1/32 " + if2)
		// The stale one's DEL must not take the address from its new owner.
		w.remove(endpoint("stale", "c1", if1))
		w.barrier()
		w.wantRoutes("10.65.0.1/32 " + if2)
	})
}

func TestCallsEndWithTheirContextAndWithTheLoop(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		ep := endpoint("a", "c1", if1, "10.65.0.1")
		w.start()
		w.stop()
		if err := w.loop.Upsert(w.Context(), ep, 0); !errors.Is(err, dataplane.ErrStopped) {
			w.Errorf("error %v", err)
		}
		unstarted, err := dataplane.New(w.cfg)
		if err != nil {
			w.Fatal(err)
		}
		ctx, cancel := context.WithCancel(w.Context())
		cancel()
		if err := unstarted.Upsert(ctx, ep, 0); !errors.Is(err, context.Canceled) {
			w.Errorf("error %v", err)
		}
	})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// TestFloatingAddressesAreRoutedBehindTheOwn: an endpoint's own address is nobody else's.
func TestFloatingAddressesAreRoutedBehindTheOwn(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.device(if1)
		w.device(if2)
		a := endpoint("a", "c1", if1, "10.65.0.1")
		for _, external := range []string{"10.65.9.9", "10.65.0.2"} {
			a.Floating = append(a.Floating, calc.Floating{External: netip.MustParseAddr(external), Internal: a.Addrs[0]})
		}
		w.startInSync(state(a))
		w.becomes("10.65.0.1/32 "+if1, "10.65.9.9/32 "+if1, "10.65.0.2/32 "+if1)
		b := endpoint("b", "c2", if2, "10.65.0.2")
		w.upsert(b)
		w.wantRoutes("10.65.0.1/32 "+if1, "10.65.9.9/32 "+if1, "10.65.0.2/32 "+if2)
		w.remove(b)
		w.remove(a)
		w.wantRoutes()
	})
}
