package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
)

// slowKernel is one whose table is so large that reading it ends only when a test says so.
type slowKernel struct {
	*fakekernel.Kernel
	asked, answer chan struct{}
}

func (k *slowKernel) Routes(ctx context.Context, f kernel.RouteFilter) ([]kernel.Route, error) {
	k.asked <- struct{}{}
	<-k.answer
	return k.Kernel.Routes(ctx, f)
}

// TestLargeTableThatIsReadForSomebodyHoldsNothingUp: the engine goes on while the kernel's
// routes are read for those who ask.
func TestLargeTableThatIsReadForSomebodyHoldsNothingUp(t *testing.T) {
	for name, ask := range map[string]func(context.Context, *statusService) error{
		"why": func(ctx context.Context, s *statusService) error {
			_, err := s.Why(ctx, &nodestatus.WhyRequest{Prefix: "10.65.2.0/26"})
			return err
		},
		"the kernel's routes": func(ctx context.Context, s *statusService) error {
			_, err := s.Routes(ctx, &nodestatus.RoutesRequest{Table: nodestatus.Table_FIB})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := routesBench(t)
			slow := &slowKernel{Kernel: b.k, asked: make(chan struct{}), answer: make(chan struct{})}
			b.e.reader = slow
			s := b.service()
			done := make(chan error)
			go func() { done <- ask(t.Context(), s) }()
			<-slow.asked
			if err := b.e.do(t.Context(), func() {}); err != nil {
				t.Error(err)
			}
			close(slow.answer)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestEntriesAreGivenOutInParts, between which the engine can do what it is for; who asks
// for none gets none.
func TestEntriesAreGivenOutInParts(t *testing.T) {
	b := newBench(t)
	b.take(topology.Input{Nodes: []*api.Node{node("node1", "10.1.1.11/24"), node("node2", "10.1.1.12/24")}})
	changes := speaker.Changes{Best: map[netip.Prefix]*speaker.Path{}}
	from := netip.MustParseAddr("10.1.1.12")
	var prefixes []netip.Prefix
	for i := range 2*entriesAtOnce + 1 {
		p := netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", 100+i/256, i%256))
		prefixes = append(prefixes, p)
		changes.Best[p] = &speaker.Path{Prefix: p, NextHop: from, Peer: from, Best: true}
	}
	b.e.fib.Update(changes, time.Now())
	turns := 0
	go func() {
		for f := range b.e.calls {
			turns++
			f()
		}
	}()
	defer close(b.e.calls)
	s := &statusService{engine: b.e, node: "node1"}
	got, err := s.entriesOf(t.Context(), prefixes)
	if err != nil || len(got) != len(prefixes) || turns != 3 {
		t.Errorf("%d entries in %d turns of the engine, %v; want %d in 3", len(got), turns, err, len(prefixes))
	}
	if v, err := s.view(t.Context()); err != nil || v.entries != nil {
		t.Errorf("a view has %d entries that nobody asked for, %v", len(v.entries), err)
	}
}

// TestTakenPlaceIsAProblemAndNoReasonNotToBeReady, is named by why, and costs no retries;
// the route takes its place when the other goes.
func TestTakenPlaceIsAProblemAndNoReasonNotToBeReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := routesBench(t)
		b.s.paths = nil
		k := &counting{Kernel: b.k}
		links, err := b.k.Links()
		if err != nil {
			t.Fatal(err)
		}
		theirs := kernel.Route{
			Dst: netip.MustParsePrefix("10.65.2.0/26"), Protocol: 12, Gateway: netip.MustParseAddr("10.1.1.254"), Priority: 0,
			Link: links[len(links)-1].Index,
		}
		for _, l := range links {
			if l.Name == "eth0" {
				theirs.Link = l.Index
			}
		}
		if err := b.k.AddRoute(theirs); err != nil {
			t.Fatal(err)
		}
		e := newEngine(k, b.s, slog.New(slog.DiscardHandler), time.Now)
		from := netip.MustParseAddr("10.1.1.12")
		b.s.paths = []speaker.Path{{Prefix: theirs.Dst, NextHop: from, Peer: from, Best: true}}
		plans := make(chan plan, 1)
		plans <- plan{Output: b.e.plan.Output}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.run(ctx, plans) }()
		best := b.s.paths[0]
		if err := e.do(ctx, func() {
			e.fib.Update(speaker.Changes{Best: map[netip.Prefix]*speaker.Path{theirs.Dst: &best}}, e.now())
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(resyncEvery + tick)
		synctest.Wait()
		before := k.reads.Load()
		time.Sleep(30 * tick)
		if n := k.reads.Load() - before; n != 0 {
			t.Errorf("the routes were read %d times in half a minute in which nothing happened", n)
		}
		if err := e.probes(ctx).Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		s := &statusService{engine: e, node: "node1", inSync: func() bool { return true }, datastore: func() error { return nil }}
		const holder = "another program's route holds its place: via 10.1.1.254 dev eth0 proto 12 (BIRD)"
		st, err := s.Status(ctx, &nodestatus.StatusRequest{})
		if err != nil || !strings.Contains(strings.Join(st.GetProblems(), "\n"), "10.65.2.0/26 is not installed: "+holder) {
			t.Errorf("problems %q, %v", st.GetProblems(), err)
		}
		why := func() *nodestatus.WhyResponse {
			t.Helper()
			out, err := s.Why(ctx, &nodestatus.WhyRequest{Prefix: "10.65.2.0/26"})
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		if w := why(); !strings.HasPrefix(w.GetFilter(), "accepted, but not installed: "+holder) || w.GetWanted() != "via 10.1.1.12 dev eth0" ||
			strings.Join(w.GetKernel(), "") != "via 10.1.1.254 dev eth0 proto 12 (BIRD)" {
			t.Errorf("why: %+v", w)
		}
		if err := b.k.DeleteRoute(theirs); err != nil {
			t.Fatal(err)
		}
		time.Sleep(readPace)
		synctest.Wait()
		if w := why(); w.GetFilter() != "accepted" || strings.Join(w.GetKernel(), "") != "via 10.1.1.12 dev eth0 proto 81 (bgpd)" {
			t.Errorf("why, when the place is free: %+v", w)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
