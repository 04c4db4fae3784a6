package dataplane_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tortie/felix/calc"
	"tortie/felix/ruleset"
	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
)

// inBubble runs a test on the fake kernel with a clock that jumps.
func inBubble(t *testing.T, test func(*world, *fakekernel.Kernel)) {
	synctest.Test(t, func(t *testing.T) {
		k := fakekernel.New()
		w := newWorld(t, k)
		test(w, k)
		if w.stop != nil {
			w.stop()
		}
	})
}

func (w *world) hasDevice(name string) bool {
	w.Helper()
	_, err := w.kern.LinkByName(name)
	if err != nil && !errors.Is(err, kernel.ErrNotFound) {
		w.Fatal(err)
	}
	return err == nil
}

// after lets time pass and the Loop act.
func after(d time.Duration) {
	time.Sleep(d) // virtual: the bubble's clock jumps
	synctest.Wait()
}

func TestLeftOverDeviceIsRemovedOnlyAfterInSyncAndGrace(t *testing.T) {
	inBubble(t, func(w *world, _ *fakekernel.Kernel) {
		w.cfg.SweepGrace = 2 * time.Minute
		w.device(if1)
		w.device(if2)
		w.start()
		after(time.Hour)
		if !w.hasDevice(if1) {
			t.Fatal("removed before InSync")
		}
		w.loop.SetState(state(endpoint("b", "c2", if2, "10.65.0.2")))
		w.loop.InSync()
		after(2*time.Minute - time.Second)
		if !w.hasDevice(if1) {
			t.Fatal("removed before the grace was over")
		}
		after(2 * time.Second)
		if w.hasDevice(if1) {
			t.Error("still there after the grace")
		}
		if !w.hasDevice(if2) {
			t.Error("the endpoint's device was removed")
		}
	})
}

func TestDeviceThatGetsItsEndpointInTimeSurvives(t *testing.T) {
	inBubble(t, func(w *world, _ *fakekernel.Kernel) {
		w.cfg.SweepGrace = 2 * time.Minute
		w.device(if1)
		w.startInSync(calc.State{})
		after(119 * time.Second)
		w.upsert(endpoint("a", "c1", if1, "10.65.0.1"))
		after(time.Hour)
		if !w.hasDevice(if1) {
			t.Error("the device of a late endpoint was removed")
		}
		// Its grace begins anew when the endpoint goes.
		w.remove(endpoint("a", "c1", if1))
		after(time.Minute)
		if !w.hasDevice(if1) {
			t.Error("removed without a grace of its own")
		}
		after(5 * time.Minute)
		if w.hasDevice(if1) {
			t.Error("never removed")
		}
	})
}

func TestUnreadableEndpointHoldsAllDevices(t *testing.T) {
	inBubble(t, func(w *world, _ *fakekernel.Kernel) {
		w.device(if1)
		w.startInSync(calc.State{HoldDevices: true})
		after(time.Hour)
		if !w.hasDevice(if1) {
			t.Fatal("removed though it may belong to the endpoint that can't be read")
		}
		w.loop.SetState(calc.State{})
		after(time.Hour)
		if w.hasDevice(if1) {
			t.Error("never removed")
		}
	})
}

func TestRepeatedForeignChangesCostOneResyncASecond(t *testing.T) {
	inBubble(t, func(w *world, k *fakekernel.Kernel) {
		l := w.device(if1)
		w.startInSync(state(endpoint("a", "c1", if1, "10.65.0.1")))
		after(time.Second)
		before := w.loop.Status().Resyncs
		route := kernel.Route{
			Dst: netip.MustParsePrefix("10.65.0.1/32"), Protocol: kernel.ProtocolFelix,
			Scope: kernel.ScopeLink, Link: l.Index,
		}
		for range 50 { // over five seconds
			w.must(k.DeleteRoute(route))
			after(100 * time.Millisecond)
		}
		after(time.Second)
		w.wantRoutes("10.65.0.1/32 " + if1)
		if n := w.loop.Status().Resyncs - before; n > 7 {
			t.Errorf("%d resyncs in six seconds", n)
		}
	})
}

// deaf is a kernel that says nothing by itself.
type deaf struct{ *fakekernel.Kernel }

func (deaf) Subscribe(ctx context.Context, _ kernel.Topics) (<-chan kernel.Event, error) {
	events := make(chan kernel.Event)
	context.AfterFunc(ctx, func() { close(events) })
	return events, nil
}

func TestPeriodicResyncRepairsWhatNoEventTold(t *testing.T) {
	inBubble(t, func(w *world, k *fakekernel.Kernel) {
		l := w.device(if1)
		w.cfg.Kernel = deaf{k}
		w.startInSync(state(endpoint("a", "c1", if1, "10.65.0.1")))
		after(time.Second)
		w.wantRoutes("10.65.0.1/32 " + if1)
		w.must(k.DeleteLink(l.Index))
		w.device(if1)
		w.wantRoutes()
		after(100 * time.Second) // 90 s and its jitter
		w.wantRoutes("10.65.0.1/32 " + if1)
	})
}

// dropping is a kernel that ends its first subscription at once.
type dropping struct {
	*fakekernel.Kernel
	times int
}

func (d *dropping) Subscribe(ctx context.Context, topics kernel.Topics) (<-chan kernel.Event, error) {
	d.times++
	if d.times > 1 {
		return d.Kernel.Subscribe(ctx, topics)
	}
	events := make(chan kernel.Event)
	close(events)
	return events, nil
}

func TestAnotherResyncIntervalCountsAtOnce(t *testing.T) {
	inBubble(t, func(w *world, k *fakekernel.Kernel) {
		l := w.device(if1)
		w.cfg.Kernel, w.cfg.ResyncInterval = deaf{k}, time.Hour
		w.startInSync(state(endpoint("a", "c1", if1, "10.65.0.1")))
		after(time.Second)
		w.must(k.DeleteLink(l.Index))
		w.device(if1)
		w.loop.SetResyncInterval(10 * time.Second)
		after(12 * time.Second) // with its jitter
		w.wantRoutes("10.65.0.1/32 " + if1)
	})
}

func TestEndedSubscriptionIsRenewed(t *testing.T) {
	inBubble(t, func(w *world, k *fakekernel.Kernel) {
		w.cfg.Kernel = &dropping{Kernel: k}
		w.startInSync(state(endpoint("a", "c1", if1, "10.65.0.1")))
		synctest.Wait()
		w.device(if1) // nobody is told
		after(2 * time.Second)
		w.wantRoutes("10.65.0.1/32 " + if1)
	})
}

// discreet is a kernel that says nothing of routes, as the real one does of the
// IPv4 routes that go with a link.
type discreet struct{ *fakekernel.Kernel }

func (d discreet) Subscribe(ctx context.Context, topics kernel.Topics) (<-chan kernel.Event, error) {
	return d.Kernel.Subscribe(ctx, topics&^kernel.RouteEvents)
}

// TestDeviceOfAnAddUnderWayIsWorthNoTurn: many are made at once, and each ADD asks
// for its turn when it is done.
func TestDeviceOfAnAddUnderWayIsWorthNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fakekernel.New())
		w.startInSync(calc.State{})
		synctest.Wait()
		before := w.loop.Status().Applies
		l := w.device(if1)
		synctest.Wait()
		if n := w.loop.Status().Applies - before; n != 0 {
			t.Errorf("%d turns for a device that nobody has asked for", n)
		}
		w.upsert(endpoint("a", "c1", if1, "10.65.0.1"))
		w.wantRoutes("10.65.0.1/32 " + if1)
		w.must(w.kern.SetDown(l.Index))
		synctest.Wait()
		w.wantRoutes()
	})
}

// TestEchoOfAnAddSharesOneTurn: the store's echo and the device's events wait a
// moment, an ADD does not.
func TestEchoOfAnAddSharesOneTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fakekernel.New())
		w.startInSync(calc.State{})
		synctest.Wait()
		before, began := w.loop.Status().Applies, time.Now()
		ep := endpoint("a", "c1", if1, "10.65.0.1")
		w.loop.SetState(state(ep))
		w.device(if1)
		w.upsert(ep)
		w.wantRoutes("10.65.0.1/32 " + if1)
		if took := time.Since(began); took != 0 {
			t.Errorf("the ADD waited %s", took)
		}
		time.Sleep(time.Second)
		if n := w.loop.Status().Applies - before; n != 2 {
			t.Errorf("%d turns, want that of the ADD and one for all the rest", n)
		}
	})
}

func TestFastFlapOfADeviceIsNotMissed(t *testing.T) {
	inBubble(t, func(w *world, k *fakekernel.Kernel) {
		w.cfg.Kernel = discreet{k}
		l := w.device(if1)
		w.startInSync(state(endpoint("a", "c1", if1, "10.65.0.1")))
		after(time.Minute)
		// Down and up again before the Loop looks.
		w.must(k.SetDown(l.Index))
		w.must(k.SetUp(l.Index))
		after(time.Second)
		w.wantRoutes("10.65.0.1/32 " + if1)
	})
}

func TestAnotherDeviceUnderTheNameHasItsOwnGrace(t *testing.T) {
	inBubble(t, func(w *world, _ *fakekernel.Kernel) {
		w.cfg.SweepGrace = 2 * time.Minute
		l := w.device(if1)
		w.startInSync(calc.State{})
		after(119 * time.Second)
		w.must(w.kern.DeleteLink(l.Index))
		w.device(if1)
		after(time.Minute)
		if !w.hasDevice(if1) {
			t.Error("removed within its own grace")
		}
		after(5 * time.Minute)
		if w.hasDevice(if1) {
			t.Error("never removed")
		}
	})
}

func TestRefusedRouteIsTriedAgainWithPauses(t *testing.T) {
	inBubble(t, func(w *world, k *fakekernel.Kernel) {
		w.cfg.RetryMin, w.cfg.RetryMax = 100*time.Millisecond, 10*time.Second
		w.device(if1)
		w.startInSync(calc.State{})
		attempts := 0
		k.SetFault(func(op fakekernel.Op) error {
			if !strings.HasPrefix(op.Name, "add route") {
				return nil
			}
			attempts++
			return kernel.ErrBusy
		})
		if err := w.loop.Upsert(w.Context(), endpoint("a", "c1", if1, "10.65.0.1"), 0); !errors.Is(err, kernel.ErrBusy) {
			t.Errorf("error %v", err)
		}
		after(5 * time.Minute)
		if attempts < 10 || attempts > 60 {
			t.Errorf("%d attempts in five minutes", attempts)
		}
		if s := w.loop.Status(); !errors.Is(s.LastError, kernel.ErrBusy) || s.PendingRoutes != 1 {
			t.Errorf("status %+v", s)
		}
		k.SetFault(nil)
		after(11 * time.Second)
		w.wantRoutes("10.65.0.1/32 " + if1)
		if s := w.loop.Status(); s.LastError != nil || s.PendingRoutes != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestUnreadableKernelChangesNothing(t *testing.T) {
	inBubble(t, func(w *world, k *fakekernel.Kernel) {
		w.device(if1)
		k.SetFault(func(op fakekernel.Op) error {
			if op.Name == "read routes" {
				return kernel.ErrDumpInterrupted
			}
			return nil
		})
		w.startInSync(state())
		err := w.loop.Upsert(w.Context(), endpoint("a", "c1", if1, "10.65.0.1"), 0)
		if !errors.Is(err, kernel.ErrDumpInterrupted) {
			t.Errorf("error %v", err)
		}
		k.SetFault(nil)
		after(time.Second)
		w.wantRoutes("10.65.0.1/32 " + if1)
	})
}

func TestRulesFollowTheDatastoreAndHoldNobodyUp(t *testing.T) {
	inBubble(t, func(w *world, _ *fakekernel.Kernel) {
		w.cfg.RetryMin, w.cfg.RetryMax = time.Second, 10*time.Second
		w.device(if1)
		pool := []netip.Prefix{netip.MustParsePrefix("10.65.0.0/16")}
		s := calc.State{Pools: pool, Masquerade: pool}
		w.start()
		w.loop.SetState(s)
		after(time.Minute)
		if n, _ := w.nat.look(); n != 0 {
			t.Error("the rules were touched before InSync")
		}
		w.nat.fail(ruleset.ErrNoNft)
		w.loop.InSync()
		synctest.Wait()
		failed, _ := w.nat.look()
		for range 20 {
			w.upsert(endpoint("a", "c1", if1, "10.65.0.1"))
		}
		if n, _ := w.nat.look(); n != failed {
			t.Errorf("%d CNI calls tried the rules again", n-failed)
		}
		if err := w.loop.Status().LastError; !errors.Is(err, ruleset.ErrNoNft) {
			t.Errorf("status %v", err)
		}
		w.nat.fail(nil)
		after(20 * time.Second)
		if _, s := w.nat.look(); len(s.Masquerade) != 1 || s.Masquerade[0] != pool[0] {
			t.Errorf("applied %+v", s)
		}
	})
}

// TestRulesAreLookedAtAloneWhenTheyAloneChanged: without a reading of all routes.
func TestRulesAreLookedAtAloneWhenTheyAloneChanged(t *testing.T) {
	inBubble(t, func(w *world, _ *fakekernel.Kernel) {
		w.startInSync(calc.State{})
		after(time.Second)
		before, _ := w.nat.look()
		resyncs := w.loop.Status().Resyncs
		w.loop.ResyncRules()
		after(time.Second)
		if now, _ := w.nat.look(); now != before+1 || w.nat.resyncs == 0 || w.loop.Status().Resyncs != resyncs {
			t.Errorf("%d looks at the rules, %d of them at the kernel, %d resyncs of routes; want one, one and none", now-before, w.nat.resyncs, w.loop.Status().Resyncs-resyncs)
		}
	})
}

func TestMissingInterfaceIsToldOfOnce(t *testing.T) {
	inBubble(t, func(w *world, _ *fakekernel.Kernel) {
		var log bytes.Buffer
		w.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		w.startInSync(state(endpoint("a", "c1", if1, "10.65.0.1"), endpoint("b", "c2", if2, "10.65.0.2")))
		after(5 * time.Second)
		w.device(if2) // in time: not worth a word
		after(time.Hour)
		if n := strings.Count(log.String(), "waits for its interface"); n != 1 || !strings.Contains(log.String(), if1) {
			t.Errorf("told %d times:\n%s", n, log.String())
		}
	})
}

// After a restart the devices can't be read at first: a pod whose device was never
// looked at must not be taken for gone.
func TestRoutesStayWhileTheDevicesCannotBeRead(t *testing.T) {
	inBubble(t, func(w *world, k *fakekernel.Kernel) {
		w.device(if1)
		s := state(endpoint("a", "c1", if1, "10.65.0.1"))
		w.startInSync(s)
		after(time.Second)
		w.wantRoutes("10.65.0.1/32 " + if1)
		w.stop()
		k.SetFault(func(op fakekernel.Op) error {
			if op.Name == "read links" {
				return kernel.ErrDumpInterrupted
			}
			return nil
		})
		w.startInSync(s)
		after(time.Minute)
		if err := w.loop.Status().LastError; !errors.Is(err, kernel.ErrDumpInterrupted) {
			t.Errorf("status %v", err)
		}
		k.SetFault(nil) // the loop doesn't notice before time passes
		w.wantRoutes("10.65.0.1/32 " + if1)
		after(time.Minute)
		w.wantRoutes("10.65.0.1/32 " + if1)
		if err := w.loop.Status().LastError; err != nil {
			t.Errorf("status %v", err)
		}
	})
}

// hanging is a kernel whose answer to the first question takes an hour.
type hanging struct {
	*fakekernel.Kernel
	once sync.Once
}

func (k *hanging) Links() ([]kernel.Link, error) {
	k.once.Do(func() { time.Sleep(time.Hour) })
	return k.Kernel.Links()
}

func TestLoopThatHangsIsNotAlive(t *testing.T) {
	inBubble(t, func(w *world, k *fakekernel.Kernel) {
		w.cfg.Kernel = &hanging{Kernel: k}
		w.start()
		after(4 * time.Minute)
		if err := w.loop.Live(); err != nil {
			t.Errorf("a slow kernel: %v", err)
		}
		after(2 * time.Minute)
		if err := w.loop.Live(); err == nil || !strings.Contains(err.Error(), "for 6m") {
			t.Errorf("a kernel that hangs: %v", err)
		}
		after(time.Hour)
		if err := w.loop.Live(); err != nil {
			t.Errorf("it answered after all: %v", err)
		}
	})
}

// TestSettleReturnsWhenTheRulesOfTheEndpointStand, not those of an earlier State.
func TestSettleReturnsWhenTheRulesOfTheEndpointStand(t *testing.T) {
	inBubble(t, func(w *world, _ *fakekernel.Kernel) {
		w.device(if1)
		ep := endpoint("a", "c1", if1, "10.65.0.1")
		old := ep
		old.ContainerID = "c0"
		w.startInSync(state(old))
		done := make(chan error, 1)
		go func() { done <- w.loop.Settle(w.Context(), ep.ID, "c1") }()
		settled := func() bool {
			synctest.Wait()
			select {
			case err := <-done:
				if err != nil {
					w.Error(err)
				}
				return true
			default:
				return false
			}
		}
		after(time.Minute)
		if settled() {
			t.Error("it returns though the endpoint is another container's")
		}
		w.nat.fail(ruleset.ErrNoNft)
		w.loop.SetState(state(ep))
		after(time.Minute)
		if settled() {
			t.Error("it returns though the rules could not be written")
		}
		w.nat.fail(nil)
		after(time.Minute)
		if _, s := w.nat.look(); !settled() || s.Endpoints[ep.ID].ContainerID != "c1" {
			t.Errorf("it does not return though the rules stand: %+v", s)
		}
		if err := w.loop.Settle(w.Context(), ep.ID, "c1"); err != nil {
			t.Errorf("once they stand: %v", err)
		}
		w.nat.fail(ruleset.ErrNoNft)
		w.loop.SetState(calc.State{})
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		if err := w.loop.Settle(ctx, ep.ID, "c1"); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ruleset.ErrNoNft) {
			t.Errorf("given up: %v", err)
		}
	})
}
