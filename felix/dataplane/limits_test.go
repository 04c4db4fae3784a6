package dataplane_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tortie/felix/calc"
	"tortie/felix/dataplane"
	"tortie/internal/api"
	"tortie/internal/kernel/fakekernel"
)

// fakeLimits keeps what it was told, and fails on demand.
type fakeLimits struct {
	mu               sync.Mutex
	desired, applied []dataplane.Limited
	applies, resyncs int
	err              error
}

func (f *fakeLimits) Set(all []dataplane.Limited, _ calc.State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.desired = slices.Clone(all)
}

func (f *fakeLimits) QueueResync() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resyncs++
}

func (f *fakeLimits) Apply(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applies++
	if f.err == nil {
		f.applied = f.desired
	}
	return f.err
}

func (f *fakeLimits) Check(_ context.Context, one dataplane.Limited) ([]string, error) {
	return []string{"limits of " + one.Interface}, nil
}

func (f *fakeLimits) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// look is what stands, as text, and how often something was asked for.
func (f *fakeLimits) look() (applied string, applies, resyncs int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, one := range f.applied {
		all = append(all, one.Interface)
	}
	return strings.Join(all, " "), f.applies, f.resyncs
}

func limited(name, container, iface, ip string, rate int64) calc.Endpoint {
	ep := endpoint(name, container, iface, ip)
	ep.Limits = &api.QoSControls{IngressPacketRate: rate}
	return ep
}

// interfaceError is an error about one interface.
type interfaceError string

func (e interfaceError) Error() string       { return "no limit for " + string(e) }
func (e interfaceError) OnInterface() string { return string(e) }

// newLimitedWorld is a Loop in sync on a fake kernel, in simulated time.
func inLimitedWorld(t *testing.T, test func(w *world, limits *fakeLimits)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w, limits := newWorld(t, fakekernel.New()), &fakeLimits{}
		w.cfg.Limits = []dataplane.Limits{limits}
		w.device("cali00000000001")
		w.device("cali00000000002")
		w.startInSync(state())
		synctest.Wait()
		test(w, limits)
		w.stop()
	})
}

// TestLimitsStandWhenUpsertReturns: they follow the datastore, and go with the endpoint.
func TestLimitsStandWhenUpsertReturns(t *testing.T) {
	inLimitedWorld(t, func(w *world, limits *fakeLimits) {
		want := func(what, applied string) {
			w.Helper()
			if have, _, _ := limits.look(); have != applied {
				w.Errorf("%s: limits of %q, want of %q", what, have, applied)
			}
		}
		ep := limited("a", "c1", "cali00000000001", "10.0.0.1", 5)
		w.upsert(ep)
		want("upsert", "cali00000000001")
		other := limited("b", "c2", "cali00000000002", "10.0.0.2", 5)
		w.loop.SetState(state(ep, other))
		pass(time.Second)
		want("the datastore", "cali00000000001 cali00000000002")
		other.Limits = nil
		w.loop.SetState(state(ep, other))
		pass(time.Second)
		want("no limits any more", "cali00000000001")
		_, before, _ := limits.look()
		ep.Limits = &api.QoSControls{IngressPacketRate: 6}
		w.loop.SetState(state(ep, other))
		pass(time.Second)
		if _, after, _ := limits.look(); after == before {
			w.Error("another rate is not applied")
		}
		w.remove(ep)
		pass(time.Second)
		want("remove", "")
		if wrong, err := w.loop.Check(w.Context(), limited("b", "c2", "cali00000000002", "10.0.0.2", 5)); err != nil || !slices.Contains(wrong, "limits of cali00000000002") {
			w.Errorf("check: %v, %v", wrong, err)
		}
	})
}

// TestEndpointsWithoutLimitsCostNothing: nobody is asked anything for them.
func TestEndpointsWithoutLimitsCostNothing(t *testing.T) {
	inLimitedWorld(t, func(w *world, limits *fakeLimits) {
		_, before, _ := limits.look()
		ep := endpoint("a", "c1", "cali00000000001", "10.0.0.1")
		w.upsert(ep)
		w.loop.SetState(state(ep))
		pass(time.Second)
		w.remove(ep)
		pass(time.Second)
		if _, after, _ := limits.look(); before != 1 || after != before {
			w.Errorf("%d times applied before, %d after; want the one of the start", before, after)
		}
	})
}

// TestLimitThatFailsFailsItsOwnEndpointAlone, and is tried again.
func TestLimitThatFailsFailsItsOwnEndpointAlone(t *testing.T) {
	inLimitedWorld(t, func(w *world, limits *fakeLimits) {
		limits.fail(errors.Join(interfaceError("cali00000000001"), nil))
		a, b := limited("a", "c1", "cali00000000001", "10.0.0.1", 5), limited("b", "c2", "cali00000000002", "10.0.0.2", 5)
		if err := w.loop.Upsert(w.Context(), a, 0); err == nil || !strings.Contains(err.Error(), "no limit for cali00000000001") {
			w.Errorf("its own: %v", err)
		}
		w.upsert(b)
		limits.fail(errors.New("no nft"))
		w.upsert(endpoint("c", "c3", "cali00000000002", "10.0.0.3"))
		a.Limits = &api.QoSControls{IngressPacketRate: 6}
		if err := w.loop.Upsert(w.Context(), a, 0); err == nil || !strings.Contains(err.Error(), "no nft") {
			w.Errorf("of all: %v", err)
		}
		if err := w.loop.Status().LastError; err == nil || !strings.Contains(err.Error(), "no nft") {
			w.Errorf("status: %v", err)
		}
		limits.fail(nil)
		pass(time.Minute)
		if have, _, _ := limits.look(); have != "cali00000000001 cali00000000002" || w.loop.Status().LastError != nil {
			w.Errorf("limits of %q, status %v", have, w.loop.Status().LastError)
		}
	})
}

// TestShaperThatIsTakenAwayIsMissedAtOnce: what its pod sends is lost meanwhile.
func TestShaperThatIsTakenAwayIsMissedAtOnce(t *testing.T) {
	inLimitedWorld(t, func(w *world, limits *fakeLimits) {
		w.upsert(limited("a", "c1", "cali00000000001", "10.0.0.1", 5))
		shaper := w.device("bwcali123456789")
		pass(time.Second)
		_, _, before := limits.look()
		if err := w.kern.DeleteLink(shaper.Index); err != nil {
			w.Fatal(err)
		}
		pass(time.Second)
		if _, _, after := limits.look(); after != before+1 {
			w.Errorf("%d resyncs, then %d", before, after)
		}
	})
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
