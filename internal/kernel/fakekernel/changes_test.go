package fakekernel_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
)

func TestEachOfManyRouteChangesHasItsOwnResult(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		link := w.underlay(t)
		const n = 200 // several messages' worth
		var changes []kernel.RouteChange
		var classes []error
		var want []kernel.Route
		for i := range n {
			r := kernel.Route{
				Dst:      netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 65, 0, byte(i)}), 32),
				Protocol: kernel.ProtocolFelix, Link: link.Index,
			}
			c := kernel.RouteChange{Op: kernel.Add, Route: r}
			var class error
			switch i % 5 {
			case 0: // written
				want = append(want, r.Normal())
			case 1: // written and deleted again, within one message
				changes, classes = append(changes, c), append(classes, nil)
				c.Op = kernel.Delete
			case 2: // its link is gone
				c.Route.Link, class = 4000, kernel.ErrNotFound
			case 3: // never sent
				c.Route.Protocol, class = 0, kernel.ErrInvalid
			case 4: // deleted though absent
				c.Op = kernel.Delete
			}
			changes, classes = append(changes, c), append(classes, class)
		}
		for i, err := range w.ChangeRoutes(changes) {
			if !errors.Is(err, classes[i]) {
				t.Errorf("change %d, %s %s: error is %v, want one of class %v", i, changes[i].Op, changes[i].Route, err, classes[i])
			}
		}
		diff(t, "routes", want, w.ours(t))
		if got := w.ChangeRoutes(nil); len(got) != 0 {
			t.Errorf("no changes gave %v", got)
		}
		wantClass(t, w.ChangeRoutes([]kernel.RouteChange{{Op: 9}})[0], kernel.ErrInvalid)
	})
}

// eventWait bounds how long a test waits for an event that must come.
const eventWait = 10 * time.Second

// awaitEvents reads events until all those wanted have come, in their order;
// others may come in between.
func awaitEvents(t *testing.T, events <-chan kernel.Event, wanted ...func(kernel.Event) bool) {
	t.Helper()
	timeout := time.After(eventWait)
	for i, is := range wanted {
		for found := false; !found; {
			select {
			case ev, open := <-events:
				if !open {
					t.Fatalf("the channel was closed before event %d of %d", i+1, len(wanted))
				}
				found = is(ev)
			case <-timeout:
				t.Fatalf("waited in vain for event %d of %d", i+1, len(wanted))
			}
		}
	}
}

func TestSubscriberIsToldInOrder(t *testing.T) {
	defer goleak.VerifyNone(t)
	onBoth(t, func(t *testing.T, w world) {
		ctx, cancel := context.WithCancel(t.Context())
		events, err := w.Subscribe(ctx, kernel.LinkEvents|kernel.AddressEvents|kernel.RouteEvents)
		ok(t, err)
		link := w.underlay(t)
		prefix := netip.MustParsePrefix("192.0.2.1/24")
		r4 := kernel.Route{Dst: netip.MustParsePrefix("10.65.0.2/32"), Protocol: kernel.ProtocolFelix, Link: link.Index}.Normal()
		r6 := kernel.Route{Dst: netip.MustParsePrefix("fd00:65::2/128"), Protocol: kernel.ProtocolFelix, Link: link.Index}.Normal()
		ok(t, w.AddRoute(r4))
		ok(t, w.AddRoute(r6))
		ok(t, w.DeleteRoute(r4))
		ok(t, w.DeleteAddress(link.Index, prefix))
		ok(t, w.DeleteLink(link.Index))

		is := func(want kernel.Event) func(kernel.Event) bool {
			return func(ev kernel.Event) bool { return ev == want }
		}
		linkEvent := func(gone bool) func(kernel.Event) bool {
			return func(ev kernel.Event) bool {
				l, is := ev.(kernel.LinkEvent)
				return is && l.Link.Index == link.Index && l.Gone == gone
			}
		}
		awaitEvents(
			t, events,
			linkEvent(false),
			is(kernel.AddressEvent{Address: kernel.Address{Link: link.Index, Prefix: prefix}}),
			is(kernel.RouteEvent{Route: r4}),
			is(kernel.RouteEvent{Route: r6}),
			is(kernel.RouteEvent{Route: r4, Gone: true}),
			is(kernel.AddressEvent{Address: kernel.Address{Link: link.Index, Prefix: prefix}, Gone: true}),
			linkEvent(true),
		)
		cancel()
		for range events { // closed soon, or the test never ends
		}
	})
}

// TestSubscriberIsNotToldOfWhatItIgnores: it is told of everything else, and what
// counts as ignored is the same for the program in the kernel as for Covers.
func TestSubscriberIsNotToldOfWhatItIgnores(t *testing.T) {
	defer goleak.VerifyNone(t)
	onBoth(t, func(t *testing.T, w world) {
		link := w.underlay(t)
		ctx, cancel := context.WithCancel(t.Context())
		ignore := kernel.Ignore{Protocol: kernel.ProtocolFelix, LinkPrefixes: []string{"cali", "calx"}, LinkLocal: true}
		const topics = kernel.LinkEvents | kernel.AddressEvents | kernel.RouteEvents
		everything := must(w.Subscribe(ctx, topics))(t)
		events := must(w.SubscribeExcept(ctx, topics, ignore))(t)

		// What comes of the underlay's making may come between the two subscriptions:
		// both are compared from a common beginning on.
		must(w.CreateVeth(kernel.VethSpec{Host: "first0", HostDown: true, Peer: "first1"}))(t)
		eventsUntil(t, events, "first0")
		eventsUntil(t, everything, "first0")

		w.manyEvents(t, link)
		must(w.CreateVeth(kernel.VethSpec{Host: "last0", HostDown: true, Peer: "last1"}))(t)
		told, all := eventsUntil(t, events, "last0"), eventsUntil(t, everything, "last0")
		want := slices.DeleteFunc(slices.Clone(all), ignore.Covers)
		if ignored := len(all) - len(want); ignored < 20 || len(want) < 20 {
			t.Errorf("%d events are ignored and %d are not: the test shows nothing", ignored, len(want))
		}
		diff(t, "events", want, told)
		cancel()
		for range events { // closed soon, or the test never ends
		}
		for range everything {
		}
	})
}

// manyEvents changes links, addresses and routes, felix's and those of others.
func (w world) manyEvents(t *testing.T, underlay kernel.Link) {
	t.Helper()
	names := []string{"cali", "cali0123456789a", "calico", "calx7", "cal", "cal9", "c", "xcali", "Cali1", "calj", "calw"}
	for i, name := range names {
		l := must(w.CreateVeth(kernel.VethSpec{Host: name, Peer: "eth0", PeerNetns: w.podNS}))(t)
		ok(t, w.pod.SetUp(l.PeerIndex))
		ok(t, w.AddAddress(l.Index, netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 32)))
		ok(t, w.AddAddress(l.Index, netip.PrefixFrom(netip.MustParseAddr("fe80::9"), 64)))
		ok(t, w.AddAddress(l.Index, netip.PrefixFrom(netip.MustParseAddr("fd00:9::9"), 64)))
		ok(t, w.Rename(l.Index, "moved"))
		ok(t, w.Rename(l.Index, "cali9"))
		ok(t, w.DeleteLink(l.Index))
	}
	var changes []kernel.RouteChange
	for _, op := range []kernel.RouteOp{kernel.Add, kernel.Replace, kernel.Delete} {
		for i, protocol := range []kernel.Protocol{kernel.ProtocolFelix, kernel.ProtocolBGP, kernel.ProtocolStatic, kernel.ProtocolFelix, 8, 208} {
			for _, dst := range []string{"10.65.0.0/32", "fd00:65::/128"} {
				a := netip.MustParsePrefix(dst)
				b := a.Addr().AsSlice()
				b[len(b)-1] = byte(i)
				addr, _ := netip.AddrFromSlice(b)
				changes = append(changes, kernel.RouteChange{Op: op, Route: kernel.Route{
					Dst: netip.PrefixFrom(addr, a.Bits()), Protocol: protocol, Link: underlay.Index,
				}})
			}
		}
	}
	for i, err := range w.ChangeRoutes(changes) {
		if err != nil {
			t.Errorf("change %d: %v", i, err)
		}
	}
}

// eventsUntil reads events until a link of that name appears.
func eventsUntil(t *testing.T, events <-chan kernel.Event, name string) (told []kernel.Event) {
	t.Helper()
	awaitEvents(t, events, func(ev kernel.Event) bool {
		told = append(told, ev)
		l, is := ev.(kernel.LinkEvent)
		return is && l.Link.Name == name
	})
	return told
}

func TestIgnoreRefusesWhatNoLinkIsCalled(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		for _, prefix := range []string{"", "sixteen-letters!"} {
			_, err := w.SubscribeExcept(t.Context(), kernel.LinkEvents, kernel.Ignore{LinkPrefixes: []string{"cali", prefix}})
			wantClass(t, err, kernel.ErrInvalid)
		}
	})
}

func TestSlowReaderOfTheFakeIsToldOfItsLoss(t *testing.T) {
	k := fakekernel.New()
	link, err := k.CreateVeth(kernel.VethSpec{Host: "a", Peer: "b"})
	ok(t, err)
	events, err := k.Subscribe(t.Context(), kernel.RouteEvents)
	ok(t, err)
	for i := range 3000 {
		ok(t, k.AddRoute(kernel.Route{
			Dst:      netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32),
			Protocol: kernel.ProtocolFelix, Link: link.Index,
		}))
	}
	isResync := func(ev kernel.Event) bool { _, is := ev.(kernel.Resync); return is }
	for range 1024 {
		if ev := <-events; isResync(ev) {
			t.Fatal("told of a loss before what had come until then")
		}
	}
	k.LoseEvents()
	awaitEvents(t, events, isResync)
}
