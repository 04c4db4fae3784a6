package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

// eventWait bounds how long a test waits for an event that must come.
const eventWait = 10 * time.Second

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await reads events until one is as wanted.
func await(t *testing.T, events <-chan kernel.Event, what string, wanted func(kernel.Event) bool) kernel.Event {
	t.Helper()
	timeout := time.After(eventWait)
	for {
		select {
		case ev, open := <-events:
			if !open {
				t.Fatalf("the channel was closed while waiting for %s", what)
			}
			if wanted(ev) {
				return ev
			}
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestMonitorTellsOfLinksAddressesAndRoutes(t *testing.T) {
	defer goleak.VerifyNone(t)
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6)
	h := kerneltest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	events, err := h.Subscribe(ctx, kernel.LinkEvents|kernel.AddressEvents|kernel.RouteEvents)
	ok(t, err)

	link, err := h.CreateVeth(kernel.VethSpec{Host: "cali0", Peer: "eth0"})
	ok(t, err)
	await(t, events, "the link", func(ev kernel.Event) bool {
		l, is := ev.(kernel.LinkEvent)
		return is && l.Link.Name == "cali0" && l.Link.Kind == "veth" && l.Link.Index == link.Index && !l.Gone
	})
	ok(t, h.SetUp(link.PeerIndex))
	await(t, events, "the link to run", func(ev kernel.Event) bool {
		l, is := ev.(kernel.LinkEvent)
		return is && l.Link.Index == link.Index && l.Link.Running
	})
	for _, s := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		prefix := netip.MustParsePrefix(s)
		ok(t, h.AddAddress(link.Index, prefix))
		await(t, events, "address "+s, func(ev kernel.Event) bool {
			a, is := ev.(kernel.AddressEvent)
			return is && a.Address.Prefix == prefix && a.Address.Link == link.Index && !a.Gone
		})
	}
	for _, s := range []string{"10.65.0.2/32", "fd00:65::2/128"} {
		r := kernel.Route{Dst: netip.MustParsePrefix(s), Protocol: kernel.ProtocolFelix, Link: link.Index}.Normal()
		ok(t, h.AddRoute(r))
		await(t, events, "route "+s, func(ev kernel.Event) bool { return ev == kernel.RouteEvent{Route: r} })
		ok(t, h.DeleteRoute(r))
		await(t, events, "the end of route "+s, func(ev kernel.Event) bool {
			return ev == kernel.RouteEvent{Route: r, Gone: true}
		})
	}
	ok(t, h.DeleteAddress(link.Index, netip.MustParsePrefix("192.0.2.1/24")))
	await(t, events, "the end of the address", func(ev kernel.Event) bool {
		a, is := ev.(kernel.AddressEvent)
		return is && a.Gone && a.Address.Prefix == netip.MustParsePrefix("192.0.2.1/24")
	})
	ok(t, h.DeleteLink(link.Index))
	await(t, events, "the end of the link", func(ev kernel.Event) bool {
		l, is := ev.(kernel.LinkEvent)
		return is && l.Gone && l.Link.Index == link.Index
	})

	cancel()
	for range events { // closed soon: goleak would complain of a goroutine
	}
}

func TestMonitorTellsOnlyOfItsTopics(t *testing.T) {
	defer goleak.VerifyNone(t)
	kerneltest.Require(t, kerneltest.Veth)
	h := kerneltest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := h.Subscribe(ctx, kernel.AddressEvents)
	ok(t, err)
	link, err := h.CreateVeth(kernel.VethSpec{Host: "cali0", Peer: "eth0"})
	ok(t, err)
	ok(t, h.AddAddress(link.Index, netip.MustParsePrefix("192.0.2.1/24")))
	ev := <-events
	if _, is := ev.(kernel.AddressEvent); !is {
		t.Errorf("got %#v, want an address", ev)
	}
	cancel()
	for range events {
	}
}

func TestMonitorTellsASlowReaderThatEventsWereLost(t *testing.T) {
	defer goleak.VerifyNone(t)
	kerneltest.Require(t, kerneltest.Veth)
	h := kerneltest.New(t)
	link, err := h.CreateVeth(kernel.VethSpec{Host: "cali0", Peer: "eth0"})
	ok(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := h.Subscribe(ctx, kernel.RouteEvents)
	ok(t, err)
	// More than the channel and the socket can hold while nobody reads.
	for i := range 20_000 {
		ok(t, h.AddRoute(kernel.Route{
			Dst:      netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32),
			Protocol: kernel.ProtocolBGP, Link: link.Index,
		}))
	}
	ev := await(t, events, "Resync", func(ev kernel.Event) bool { _, is := ev.(kernel.Resync); return is })
	if reason := ev.(kernel.Resync).Reason; reason == nil {
		t.Error("no reason given")
	}
	// It goes on telling.
	r := kernel.Route{Dst: netip.MustParsePrefix("172.16.0.1/32"), Protocol: kernel.ProtocolBGP, Link: link.Index}.Normal()
	ok(t, h.AddRoute(r))
	await(t, events, "the route after the loss", func(ev kernel.Event) bool { return ev == kernel.RouteEvent{Route: r} })
	cancel()
	for range events {
	}
}

func TestMonitorOfACancelledContextEnds(t *testing.T) {
	defer goleak.VerifyNone(t)
	kerneltest.Require(t, kerneltest.Netns)
	h := kerneltest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	events, err := h.Subscribe(ctx, kernel.LinkEvents)
	ok(t, err)
	for range events {
	}
}

func TestNetnsDoRunsInsideAndComesBack(t *testing.T) {
	defer goleak.VerifyNone(t)
	kerneltest.Require(t, kerneltest.Netns)
	home, err := kernel.CurrentNetns()
	ok(t, err)
	defer home.Close()
	ns := kerneltest.NewNetns(t)
	want, err := ns.ID()
	ok(t, err)
	here := func() (kernel.NetnsID, error) {
		cur, err := kernel.CurrentNetns()
		if err != nil {
			return kernel.NetnsID{}, err
		}
		defer cur.Close()
		return cur.ID()
	}
	var inside kernel.NetnsID
	ok(t, kernel.WithNetns(ns.Path(), func() (err error) {
		inside, err = here()
		return err
	}))
	if inside != want {
		t.Errorf("the function ran in %v, want %v", inside, want)
	}
	// No thread that goroutines run on was left elsewhere.
	homeID, err := home.ID()
	ok(t, err)
	for range 50 {
		got := make(chan kernel.NetnsID)
		go func() {
			id, _ := here()
			got <- id
		}()
		if id := <-got; id != homeID {
			t.Fatalf("a goroutine finds itself in %v, want %v", id, homeID)
		}
	}
}

func TestNetnsDoPassesOnErrorsAndPanics(t *testing.T) {
	ns := kerneltest.NewNetns(t)
	mine := errors.New("mine")
	if err := ns.Do(func() error { return mine }); !errors.Is(err, mine) {
		t.Errorf("error is %v, want the function's", err)
	}
	defer func() {
		if p := recover(); fmt.Sprint(p) != "boom" {
			t.Errorf("recovered %v, want the function's panic", p)
		}
	}()
	_ = ns.Do(func() error { panic("boom") })
}

func TestWhatIsNoNamespaceIsRefused(t *testing.T) {
	_, err := kernel.OpenAt("/no/such/namespace")
	if !errors.Is(err, kernel.ErrNotFound) {
		t.Errorf("error is %v, want ErrNotFound", err)
	}
	for _, path := range []string{"/dev/null", "/proc/self/ns/mnt"} {
		if _, err := kernel.OpenAt(path); !errors.Is(err, kernel.ErrInvalid) {
			t.Errorf("%s: error is %v, want ErrInvalid", path, err)
		}
	}
}

func TestSysctlNamesStayBelowNet(t *testing.T) {
	h := kerneltest.New(t)
	for _, name := range []string{"", "ipv4", "../kernel/hostname", "ipv4/../../kernel/hostname", "/proc/sys/net/ipv4/ip_forward"} {
		if err := h.SetSysctl(name, "1"); !errors.Is(err, kernel.ErrInvalid) {
			t.Errorf("%q: error is %v, want ErrInvalid", name, err)
		}
	}
}

func TestHandleIsSafeForConcurrentUse(t *testing.T) {
	kerneltest.Require(t, kerneltest.Veth)
	h := kerneltest.New(t)
	link, err := h.CreateVeth(kernel.VethSpec{Host: "cali0", Peer: "eth0"})
	ok(t, err)
	errs := make(chan error)
	const writers = 8
	for w := range writers {
		go func() {
			errs <- func() error {
				for i := range 100 {
					r := kernel.Route{
						Dst:      netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(w), byte(i)}), 32),
						Protocol: kernel.ProtocolBGP, Link: link.Index,
					}
					if err := h.AddRoute(r); err != nil {
						return err
					}
					if _, err := h.LinkByName("cali0"); err != nil {
						return err
					}
					if err := h.AddRoute(r); !errors.Is(err, kernel.ErrExists) {
						return fmt.Errorf("second add of %s: %w", r, err)
					}
				}
				return nil
			}()
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	routes, err := h.Routes(t.Context(), kernel.RouteFilter{Protocol: kernel.ProtocolBGP})
	ok(t, err)
	if len(routes) != writers*100 {
		t.Errorf("%d routes read back, want %d", len(routes), writers*100)
	}
}

func TestClosedHandleRefusesRequests(t *testing.T) {
	ns := kerneltest.NewNetns(t)
	h, err := ns.Open()
	ok(t, err)
	h.Close()
	h.Close()
	if _, err := h.Links(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("error is %v, want ErrClosed", err)
	}
	if _, err := h.Sysctl("ipv4/ip_forward"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("error is %v, want ErrClosed", err)
	}
}

// TestRoutesThatWeNeverWriteAreReadReplacedAndDeleted: an operator's ip command
// may leave routes of our protocol in forms that Route cannot express.
func TestRoutesThatWeNeverWriteAreReadReplacedAndDeleted(t *testing.T) {
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6, kerneltest.IPRoute2)
	for name, c := range map[string]struct{ dst, gateway, form string }{
		"several next hops":      {"10.9.0.0/24", "192.0.2.3", "nexthop via 192.0.2.2 dev eth0 nexthop via 192.0.2.3 dev eth0"},
		"IPv6 several next hops": {"fd09::/64", "2001:db8::3", "nexthop via 2001:db8::2 dev eth0 nexthop via 2001:db8::3 dev eth0"},
		"next hop object":        {"10.9.0.0/24", "192.0.2.3", "nhid 1"},
		"IPv6 next hop object":   {"fd09::/64", "2001:db8::3", "nhid 2"},
		"route metrics":          {"10.9.0.0/24", "192.0.2.3", "via 192.0.2.2 dev eth0 mtu 1300 advmss 1200"},
		"IPv6 that expires":      {"fd09::/64", "2001:db8::3", "via 2001:db8::2 dev eth0 expires 100"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := kerneltest.NewNetns(t)
			h := kerneltest.Open(t, ns)
			link, err := h.CreateVeth(kernel.VethSpec{Host: "eth0", Peer: "eth1"})
			ok(t, err)
			ok(t, h.SetUp(link.PeerIndex))
			ok(t, h.AddAddress(link.Index, netip.MustParsePrefix("192.0.2.1/24")))
			ok(t, h.AddAddress(link.Index, netip.MustParsePrefix("2001:db8::1/64")))
			ip(t, ns, "nexthop add id 1 via 192.0.2.2 dev eth0")
			ip(t, ns, "nexthop add id 2 via 2001:db8::2 dev eth0")

			ours := func() []kernel.Route {
				routes, err := h.Routes(t.Context(), kernel.RouteFilter{Protocol: kernel.ProtocolBGP})
				ok(t, err)
				return routes
			}
			theirs := "route add " + c.dst + " proto 81 " + c.form
			ip(t, ns, theirs)
			found := ours()
			if len(found) != 1 || found[0].Dst.String() != c.dst {
				t.Fatalf("read %v, want one route", found)
			}
			ok(t, h.DeleteRoute(found[0]))
			if left := ours(); len(left) != 0 {
				t.Errorf("after the deletion: %v", left)
			}

			ip(t, ns, theirs)
			want := kernel.Route{
				Dst: netip.MustParsePrefix(c.dst), Protocol: kernel.ProtocolBGP,
				Link: link.Index, Gateway: netip.MustParseAddr(c.gateway),
			}.Normal()
			ok(t, h.ReplaceRoute(want))
			if got := ours(); len(got) != 1 || got[0] != want {
				t.Errorf("after the replacement: %v, want %v", got, want)
			}
		})
	}
}

func ip(t *testing.T, ns *kernel.Netns, args string) {
	t.Helper()
	ok(t, ns.Do(func() error {
		out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
		return nil
	}))
}

// TestLinksAreReadWholeWhilePodsComeAndGo: a dump that the kernel interrupts must
// never come back short.
func TestLinksAreReadWholeWhilePodsComeAndGo(t *testing.T) {
	kerneltest.Require(t, kerneltest.Veth)
	ns := kerneltest.NewNetns(t)
	reader, churner := kerneltest.Open(t, ns), kerneltest.Open(t, ns)
	const lasting = 60 // several messages' worth, in 30 pairs
	for i := range lasting / 2 {
		_, err := reader.CreateVeth(kernel.VethSpec{Host: fmt.Sprintf("cali%d", i), Peer: fmt.Sprintf("eth%d", i)})
		ok(t, err)
	}
	churned := make(chan error)
	go func() {
		churned <- func() error {
			for range 10 {
				l, err := churner.CreateVeth(kernel.VethSpec{Host: "pod", Peer: "podp"})
				if err != nil {
					return err
				}
				if err := churner.DeleteLink(l.Index); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	for reads := 0; ; reads++ {
		links, err := reader.Links()
		ok(t, err)
		n := 0
		for _, l := range links {
			if l.Kind == "veth" && !strings.HasPrefix(l.Name, "pod") {
				n++
			}
		}
		if n != lasting {
			t.Fatalf("read %d has %d of the lasting links, want %d", reads, n, lasting)
		}
		select {
		case err := <-churned:
			ok(t, err)
			return
		default:
		}
	}
}

// TestOwnChangesAreIgnoredOthersAreTold: a Handle that writes a hundred thousand routes
// must not be told of each.
func TestOwnChangesAreIgnoredOthersAreTold(t *testing.T) {
	kerneltest.Require(t, kerneltest.IPv6)
	ns := kerneltest.NewNetns(t)
	ours, theirs := kerneltest.Open(t, ns), kerneltest.Open(t, ns)
	events, err := ours.SubscribeExcept(t.Context(), kernel.RouteEvents, kernel.Ignore{Self: true})
	ok(t, err)
	route := func(dst string) kernel.Route {
		return kernel.Route{Dst: netip.MustParsePrefix(dst), Protocol: kernel.ProtocolBGP, Type: kernel.RouteBlackhole}
	}
	for _, step := range []error{
		ours.AddRoute(route("10.1.0.0/16")), ours.AddRoute(route("fd01::/64")), ours.DeleteRoute(route("10.1.0.0/16")),
		theirs.AddRoute(route("10.2.0.0/16")), ours.DeleteRoute(route("fd01::/64")), theirs.DeleteRoute(route("10.2.0.0/16")),
	} {
		ok(t, step)
	}
	for _, gone := range []bool{false, true} {
		ev := <-events
		if r, is := ev.(kernel.RouteEvent); !is || r.Route.Dst != netip.MustParsePrefix("10.2.0.0/16") || r.Gone != gone {
			t.Errorf("told of %+v, want 10.2.0.0/16, gone: %v", ev, gone)
		}
	}
}
