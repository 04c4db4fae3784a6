package fakekernel_test

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
	"tortie/internal/kernel/kerneltest"
)

// surface is what the real and the fake kernel have in common.
type surface interface {
	Routes(context.Context, kernel.RouteFilter) ([]kernel.Route, error)
	ChangeRoutes([]kernel.RouteChange) []error
	AddRoute(kernel.Route) error
	ReplaceRoute(kernel.Route) error
	DeleteRoute(kernel.Route) error
	Links() ([]kernel.Link, error)
	LinkByName(string) (kernel.Link, error)
	LinkByIndex(int) (kernel.Link, error)
	IsUp(string) (bool, error)
	Apply(...kernel.Change) []error
	Configure(kernel.Link, []kernel.Setting) error
	SetUp(int) error
	SetDown(int) error
	SetMTU(index, mtu int) error
	SetMAC(int, kernel.MAC) error
	SetGroup(index int, group uint32) error
	Rename(int, string) error
	DeleteLink(int) error
	DeleteGroup(uint32) error
	CreateVeth(kernel.VethSpec) (kernel.Link, error)
	CreateVxlan(kernel.VxlanSpec) (kernel.Link, error)
	Vxlan(int) (kernel.Vxlan, error)
	SetFDB(kernel.FDBEntry) error
	DeleteFDB(int, kernel.MAC) error
	FDB(int) ([]kernel.FDBEntry, error)
	Addresses(int) ([]kernel.Address, error)
	AddAddress(int, netip.Prefix) error
	DeleteAddress(int, netip.Prefix) error
	SetNeighbour(kernel.Neighbour) error
	DeleteNeighbour(int, netip.Addr) error
	Neighbours(int) ([]kernel.Neighbour, error)
	Sysctl(string) (string, error)
	SetSysctl(name, value string) error
	SetSysctls([]kernel.Setting) error
	SwapSysctls([]kernel.Setting) ([]kernel.Setting, error)
	NextHopObjects(context.Context, kernel.Protocol) ([]kernel.NextHopObject, error)
	Subscribe(context.Context, kernel.Topics) (<-chan kernel.Event, error)
	SubscribeExcept(context.Context, kernel.Topics, kernel.Ignore) (<-chan kernel.Event, error)
}

var (
	_ surface = (*kernel.Handle)(nil)
	_ surface = (*fakekernel.Kernel)(nil)
)

// world is one machine with two namespaces.
type world struct {
	surface
	podNS *kernel.Netns
	pod   surface
}

// onBoth runs a test of the kernel's behaviour on the fake and in real
// namespaces, so that what the fake does is what the kernel does.
func onBoth(t *testing.T, test func(*testing.T, world)) {
	t.Run("fake", func(t *testing.T) {
		k := fakekernel.New()
		ns, pod := k.NewNetns()
		test(t, world{surface: k, podNS: ns, pod: pod})
	})
	t.Run("real", func(t *testing.T) {
		kerneltest.Require(t, kerneltest.Netns, kerneltest.Veth, kerneltest.IPv6)
		podNS := kerneltest.NewNetns(t)
		test(t, world{surface: kerneltest.New(t), podNS: podNS, pod: kerneltest.Open(t, podNS)})
	})
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantClass(t testing.TB, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("error is %v, want one of class %q", err, class)
	}
}

// underlay is a veth that runs, with 192.0.2.1/24 and 2001:db8::1/64 on it.
func (w world) underlay(t testing.TB) kernel.Link {
	t.Helper()
	return w.segment(t, kernel.VethSpec{Host: "eth0", Peer: "far0"}, "192.0.2.1/24", "2001:db8::1/64")
}

func (w world) segment(t testing.TB, spec kernel.VethSpec, addresses ...string) kernel.Link {
	t.Helper()
	spec.PeerNetns = w.podNS
	l := must(w.CreateVeth(spec))(t)
	ok(t, w.pod.SetUp(l.PeerIndex))
	for _, a := range addresses {
		ok(t, w.AddAddress(l.Index, netip.MustParsePrefix(a)))
	}
	return must(w.LinkByIndex(l.Index))(t)
}

// ours reads back the routes of protocol 80, in order.
func (w world) ours(t testing.TB) []kernel.Route {
	t.Helper()
	rs := must(w.Routes(t.Context(), kernel.RouteFilter{Protocol: kernel.ProtocolFelix}))(t)
	slices.SortFunc(rs, func(a, b kernel.Route) int {
		return cmp.Or(a.Dst.Compare(b.Dst), cmp.Compare(a.Priority, b.Priority))
	})
	return rs
}

func diff(t testing.TB, what string, want, got any) {
	t.Helper()
	comparers := gocmp.Options{
		gocmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		gocmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
	if d := gocmp.Diff(want, got, comparers); d != "" {
		t.Errorf("%s: want -, got +\n%s", what, d)
	}
}

// routesOfEveryForm are what the programs here write, as they ask for it.
func routesOfEveryForm(link int) []kernel.Route {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	return []kernel.Route{
		{Dst: p("10.65.0.2/32"), Protocol: kernel.ProtocolFelix, Scope: kernel.ScopeLink, Link: link},
		{Dst: p("10.65.0.3/32"), Protocol: kernel.ProtocolFelix, Link: link, Src: a("192.0.2.1")},
		{Dst: p("10.65.0.64/26"), Protocol: kernel.ProtocolFelix, Type: kernel.RouteBlackhole},
		{Dst: p("10.65.0.129/26"), Protocol: kernel.ProtocolFelix, Type: kernel.RouteUnreachable, Link: 1},
		{Dst: p("10.65.1.0/26"), Protocol: kernel.ProtocolFelix, Link: link, Gateway: a("192.0.2.9")},
		{Dst: p("10.65.2.0/26"), Protocol: kernel.ProtocolFelix, Link: link, Gateway: a("203.0.113.9"), OnLink: true},
		{Dst: p("10.65.3.0/26"), Protocol: kernel.ProtocolFelix, Link: link, Gateway: a("192.0.2.9"), Priority: 77},
		{Dst: p("0.0.0.0/0"), Protocol: kernel.ProtocolFelix, Link: link, Gateway: a("192.0.2.254")},
		{Dst: p("fd00:65::2/128"), Protocol: kernel.ProtocolFelix, Link: link, Scope: kernel.ScopeLink},
		{Dst: p("fd00:65::3/128"), Protocol: kernel.ProtocolFelix, Link: link, Src: a("2001:db8::1")},
		{Dst: p("fd00:65:1::/122"), Protocol: kernel.ProtocolFelix, Type: kernel.RouteBlackhole},
		{Dst: p("fd00:65:2::/122"), Protocol: kernel.ProtocolFelix, Link: link, Gateway: a("2001:db8::9"), Priority: 1024},
		{Dst: p("fd00:65:3::/122"), Protocol: kernel.ProtocolFelix, Link: link, Gateway: a("fe80::9")},
		{Dst: p("fd00:65:4::/122"), Protocol: kernel.ProtocolFelix, Link: link, Gateway: a("2001:db8:9::9"), OnLink: true},
		{Dst: p("fd00:65:5::/122"), Protocol: kernel.ProtocolFelix, Link: link, Gateway: a("2001:db8::9"), Priority: 7},
		{Dst: p("::/0"), Protocol: kernel.ProtocolFelix, Link: link, Gateway: a("fe80::9")},
	}
}

func TestRouteReadsBackInItsNormalForm(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		link := w.underlay(t)
		for _, asked := range routesOfEveryForm(link.Index) {
			ok(t, w.AddRoute(asked))
			diff(t, asked.String(), []kernel.Route{asked.Normal()}, w.ours(t))
			ok(t, w.ReplaceRoute(asked))
			diff(t, "replaced by itself: "+asked.String(), []kernel.Route{asked.Normal()}, w.ours(t))
			ok(t, w.DeleteRoute(asked))
			diff(t, "deleted: "+asked.String(), []kernel.Route(nil), w.ours(t))
		}
	})
}

func TestReplaceTurnsAnyRouteIntoAnyOther(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		link := w.underlay(t)
		forms := routesOfEveryForm(link.Index)
		for _, from := range forms {
			for _, to := range forms {
				if kernel.FamilyOf(from.Dst.Addr()) != kernel.FamilyOf(to.Dst.Addr()) {
					continue
				}
				// One place: the same destination and metric.
				to.Dst, to.Priority = from.Dst, from.Priority
				ok(t, w.AddRoute(from))
				ok(t, w.ReplaceRoute(to))
				diff(t, from.String()+" to "+to.String(), []kernel.Route{to.Normal()}, w.ours(t))
				ok(t, w.DeleteRoute(to))
			}
		}
	})
}

func TestAddRouteRefusesATakenPlaceWhoeverHoldsIt(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		link := w.underlay(t)
		for _, r := range routesOfEveryForm(link.Index) {
			theirs := r
			theirs.Protocol = kernel.ProtocolStatic
			ok(t, w.AddRoute(theirs))
			wantClass(t, w.AddRoute(r), kernel.ErrExists)
			// Deleting ours leaves theirs alone.
			ok(t, w.DeleteRoute(r))
			wantClass(t, w.AddRoute(r), kernel.ErrExists)
			ok(t, w.DeleteRoute(theirs))
		}
	})
}

func TestRoutesOfOneDestinationDifferByMetric(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		link := w.underlay(t)
		for _, dst := range []string{"10.65.9.0/26", "fd00:65:9::/122"} {
			low := kernel.Route{Dst: netip.MustParsePrefix(dst), Protocol: kernel.ProtocolFelix, Link: link.Index, Priority: 50}
			high := low
			high.Priority = 60
			ok(t, w.AddRoute(low))
			ok(t, w.AddRoute(high))
			diff(t, dst, []kernel.Route{low.Normal(), high.Normal()}, w.ours(t))
			ok(t, w.DeleteRoute(high))
			diff(t, dst, []kernel.Route{low.Normal()}, w.ours(t))
			ok(t, w.DeleteRoute(low))
		}
	})
}

func TestRoutesAreFilteredByFamilyTableAndProtocol(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		link := w.underlay(t)
		v4 := kernel.Route{Dst: netip.MustParsePrefix("10.65.9.0/26"), Protocol: kernel.ProtocolFelix, Link: link.Index}.Normal()
		v6 := kernel.Route{Dst: netip.MustParsePrefix("fd00:9::/64"), Protocol: kernel.ProtocolBGP, Link: link.Index}.Normal()
		far := kernel.Route{Dst: netip.MustParsePrefix("10.65.9.0/26"), Table: 1000, Protocol: kernel.ProtocolBGP, Link: link.Index}.Normal()
		for _, r := range []kernel.Route{v4, v6, far} {
			ok(t, w.AddRoute(r))
		}
		for _, c := range []struct {
			filter kernel.RouteFilter
			want   []kernel.Route
		}{
			{kernel.RouteFilter{Protocol: kernel.ProtocolFelix}, []kernel.Route{v4}},
			{kernel.RouteFilter{Protocol: kernel.ProtocolBGP}, []kernel.Route{v6}},
			{kernel.RouteFilter{Protocol: kernel.ProtocolBGP, Family: kernel.IPv4}, nil},
			{kernel.RouteFilter{Protocol: kernel.ProtocolBGP, Family: kernel.IPv6}, []kernel.Route{v6}},
			{kernel.RouteFilter{Table: 1000}, []kernel.Route{far}},
			{kernel.RouteFilter{Table: 1001}, nil},
		} {
			diff(t, "filtered", c.want, must(w.Routes(t.Context(), c.filter))(t))
		}
	})
}

func TestRouteThatTheKernelRefusesSaysWhy(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		link := w.underlay(t)
		down := must(w.CreateVeth(kernel.VethSpec{Host: "down0", HostDown: true, Peer: "down1"}))(t)
		p, a := netip.MustParsePrefix, netip.MustParseAddr
		base := kernel.Route{Protocol: kernel.ProtocolFelix, Link: link.Index}
		for _, c := range []struct {
			name  string
			edit  func(*kernel.Route)
			class error
		}{
			{"link is gone", func(r *kernel.Route) { r.Link = 4000 }, kernel.ErrNotFound},
			{"link is down", func(r *kernel.Route) { r.Link = down.Index }, kernel.ErrLinkDown},
			{"gateway elsewhere", func(r *kernel.Route) { r.Gateway = a("203.0.113.1") }, kernel.ErrUnreachable},
			{"source not ours", func(r *kernel.Route) { r.Src = a("203.0.113.1") }, kernel.ErrInvalid},
			{"no protocol", func(r *kernel.Route) { r.Protocol = 0 }, kernel.ErrInvalid},
			{"no link", func(r *kernel.Route) { r.Link = 0 }, kernel.ErrInvalid},
			{"gateway of another family", func(r *kernel.Route) { r.Gateway = a("fe80::1") }, kernel.ErrInvalid},
			{"no destination", func(r *kernel.Route) { r.Dst = netip.Prefix{} }, kernel.ErrInvalid},
		} {
			t.Run(c.name, func(t *testing.T) {
				r := base
				r.Dst = p("10.65.7.0/26")
				c.edit(&r)
				wantClass(t, w.AddRoute(r), c.class)
				wantClass(t, w.ReplaceRoute(r), c.class)
			})
		}
		for _, c := range []struct {
			name  string
			edit  func(*kernel.Route)
			class error
		}{
			{"IPv6 link is gone", func(r *kernel.Route) { r.Link = 4000 }, kernel.ErrNotFound},
			{"IPv6 link is down", func(r *kernel.Route) { r.Link = down.Index }, kernel.ErrLinkDown},
			{"IPv6 gateway elsewhere", func(r *kernel.Route) { r.Gateway = a("2001:db8:9::1") }, kernel.ErrUnreachable},
			{"IPv6 source not ours", func(r *kernel.Route) { r.Src = a("2001:db8:9::1") }, kernel.ErrInvalid},
		} {
			t.Run(c.name, func(t *testing.T) {
				r := base
				r.Dst = p("fd00:7::/64")
				c.edit(&r)
				wantClass(t, w.AddRoute(r), c.class)
			})
		}
	})
}

func TestLinkThatGoesTakesItsRoutesAlong(t *testing.T) {
	for _, c := range []struct {
		name string
		how  func(world, kernel.Link) error
	}{
		{"deleted", func(w world, l kernel.Link) error { return w.DeleteLink(l.Index) }},
		{"peer deleted", func(w world, l kernel.Link) error { return w.pod.DeleteLink(l.PeerIndex) }},
		{"switched off", func(w world, l kernel.Link) error { return w.SetDown(l.Index) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w world) {
				link := w.underlay(t)
				for _, dst := range []string{"10.65.9.2/32", "fd00:9::2/128"} {
					ok(t, w.AddRoute(kernel.Route{
						Dst: netip.MustParsePrefix(dst), Protocol: kernel.ProtocolFelix, Link: link.Index,
					}))
				}
				blackhole := kernel.Route{
					Dst: netip.MustParsePrefix("10.65.9.0/26"), Protocol: kernel.ProtocolFelix, Type: kernel.RouteBlackhole,
				}.Normal()
				ok(t, w.AddRoute(blackhole))
				ok(t, c.how(w, link))
				diff(t, "what remains", []kernel.Route{blackhole}, w.ours(t))
			})
		})
	}
}

func TestVethPeerIsBornInThePodsNamespace(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		spec := kernel.VethSpec{
			Host: "cali0123456789a", HostMAC: kernel.MAC{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}, HostGroup: 7,
			Peer: "eth0", PeerMAC: kernel.MAC{2, 0, 0, 0, 0, 9}, PeerNetns: w.podNS, MTU: 1400,
		}
		host := must(w.CreateVeth(spec))(t)
		want := kernel.Link{
			Index: host.Index, Name: "cali0123456789a", Kind: "veth", MTU: 1400, MAC: spec.HostMAC,
			Up: true, Group: 7, PeerIndex: host.PeerIndex, PeerNetns: 0,
		}
		diff(t, "host's end", want, host)
		diff(t, "host's end, read", host, must(w.LinkByName(host.Name))(t))

		pod := must(w.pod.LinkByName("eth0"))(t)
		want = kernel.Link{
			Index: host.PeerIndex, Name: "eth0", Kind: "veth", MTU: 1400, MAC: spec.PeerMAC,
			PeerIndex: host.Index, PeerNetns: 0,
		}
		diff(t, "pod's end", want, pod)

		ok(t, w.pod.SetUp(pod.Index))
		if l := must(w.LinkByIndex(host.Index))(t); !l.Running {
			t.Errorf("host's end does not run although both are up: %+v", l)
		}
	})
}

func TestVethOfATakenNameMakesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		spec := kernel.VethSpec{Host: "cali1", Peer: "eth0", PeerNetns: w.podNS}
		must(w.CreateVeth(spec))(t)
		before := len(must(w.Links())(t)) + len(must(w.pod.Links())(t))

		spec.Peer = "eth1"
		_, err := w.CreateVeth(spec)
		wantClass(t, err, kernel.ErrExists)
		spec.Host, spec.Peer = "cali2", "eth0"
		_, err = w.CreateVeth(spec)
		wantClass(t, err, kernel.ErrExists)
		spec.Host = "far-too-long-a-name"
		_, err = w.CreateVeth(spec)
		wantClass(t, err, kernel.ErrInvalid)

		if after := len(must(w.Links())(t)) + len(must(w.pod.Links())(t)); after != before {
			t.Errorf("there were %d links and now there are %d", before, after)
		}
	})
}

func TestDeleteGroupTakesThatGroupOnly(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		keep := must(w.CreateVeth(kernel.VethSpec{Host: "keep", Peer: "keep1", PeerNetns: w.podNS}))(t)
		for _, name := range []string{"a", "b", "c"} {
			l := must(w.CreateVeth(kernel.VethSpec{Host: name, Peer: name + "1", PeerNetns: w.podNS}))(t)
			ok(t, w.SetGroup(l.Index, 13))
		}
		ok(t, w.DeleteGroup(13))
		ok(t, w.DeleteGroup(13)) // none left: a success
		wantClass(t, w.DeleteGroup(0), kernel.ErrInvalid)
		var names []string
		for _, l := range must(w.Links())(t) {
			if l.Kind == "veth" {
				names = append(names, l.Name)
			}
		}
		diff(t, "links left", []string{keep.Name}, names)
		if _, err := w.pod.LinkByName("a1"); !errors.Is(err, kernel.ErrNotFound) {
			t.Errorf("the other end stayed: %v", err)
		}
	})
}

func TestLinkIsChanged(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		l := must(w.CreateVeth(kernel.VethSpec{Host: "a", HostDown: true, Peer: "b"}))(t)
		ok(t, w.SetMTU(l.Index, 9000))
		ok(t, w.SetMAC(l.Index, kernel.MAC{2, 1, 1, 1, 1, 1}))
		ok(t, w.Rename(l.Index, "c"))
		ok(t, w.SetUp(l.Index))
		got := must(w.LinkByName("c"))(t)
		want := kernel.Link{
			Index: l.Index, Name: "c", Kind: "veth", MTU: 9000, MAC: kernel.MAC{2, 1, 1, 1, 1, 1}, Up: true,
			PeerIndex: l.PeerIndex, PeerNetns: -1,
		}
		diff(t, "changed link", want, got)
		wantClass(t, w.SetMTU(l.Index, 3), kernel.ErrInvalid)
		wantClass(t, w.Rename(l.Index, "b"), kernel.ErrExists)
	})
}

func TestWhatIsAbsentIsNotFoundAndItsDeletionSucceeds(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		link := w.underlay(t)
		_, err := w.LinkByName("nothere")
		wantClass(t, err, kernel.ErrNotFound)
		_, err = w.LinkByIndex(4000)
		wantClass(t, err, kernel.ErrNotFound)
		wantClass(t, w.SetUp(4000), kernel.ErrNotFound)
		wantClass(t, w.AddAddress(4000, netip.MustParsePrefix("10.0.0.1/32")), kernel.ErrNotFound)
		_, err = w.Sysctl("ipv4/conf/nothere/forwarding")
		wantClass(t, err, kernel.ErrNotFound)

		ok(t, w.DeleteLink(4000))
		ok(t, w.DeleteAddress(link.Index, netip.MustParsePrefix("10.0.0.1/32")))
		ok(t, w.DeleteAddress(link.Index, netip.MustParsePrefix("fd00::1/128")))
		ok(t, w.DeleteNeighbour(link.Index, netip.MustParseAddr("169.254.1.1")))
		ok(t, w.DeleteRoute(kernel.Route{Dst: netip.MustParsePrefix("10.9.0.0/16"), Protocol: 80, Link: 4000}))
		ok(t, w.DeleteRoute(kernel.Route{Dst: netip.MustParsePrefix("fd09::/16"), Protocol: 80, Link: 4000}))
	})
}

func TestPodSideIsWired(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		p, a := netip.MustParsePrefix, netip.MustParseAddr
		host := must(w.CreateVeth(kernel.VethSpec{Host: "cali1", Peer: "eth0", PeerNetns: w.podNS}))(t)
		eth0, mac := host.PeerIndex, kernel.MAC{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}
		ok(t, w.pod.SetUp(eth0))
		for _, addr := range []string{"10.65.0.2/32", "fd00:65::2/128"} {
			ok(t, w.pod.AddAddress(eth0, p(addr)))
			ok(t, w.pod.AddAddress(eth0, p(addr))) // again: a success
		}
		gw4, gw6 := a("169.254.1.1"), a("fe80::ecee:eeff:feee:eeee")
		neighbours := []kernel.Neighbour{{Link: eth0, IP: gw4, MAC: mac}, {Link: eth0, IP: gw6, MAC: mac}}
		for _, n := range neighbours {
			ok(t, w.pod.SetNeighbour(n))
			ok(t, w.pod.SetNeighbour(n))
		}
		diff(t, "neighbours", neighbours, must(w.pod.Neighbours(eth0))(t))
		for _, r := range []kernel.Route{
			{Dst: p("169.254.1.1/32"), Protocol: 3, Scope: kernel.ScopeLink, Link: eth0},
			{Dst: p("0.0.0.0/0"), Protocol: 3, Gateway: gw4, Link: eth0},
			{Dst: p("::/0"), Protocol: 3, Gateway: gw6, Link: eth0},
		} {
			ok(t, w.pod.AddRoute(r))
		}
		var got []kernel.Address
		for _, addr := range must(w.pod.Addresses(eth0))(t) {
			if !addr.Prefix.Addr().IsLinkLocalUnicast() {
				got = append(got, addr)
			}
		}
		diff(t, "addresses", []kernel.Address{
			{Link: eth0, Prefix: p("10.65.0.2/32")}, {Link: eth0, Prefix: p("fd00:65::2/128")},
		}, got)
		ok(t, w.pod.DeleteNeighbour(eth0, gw4))
		diff(t, "neighbours after deletion", neighbours[1:], must(w.pod.Neighbours(eth0))(t))
	})
}

func TestSysctlIsOfTheHandlesNamespace(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		must(w.CreateVeth(kernel.VethSpec{Host: "cali1", Peer: "eth0", PeerNetns: w.podNS}))(t)
		ok(t, w.SetSysctls([]kernel.Setting{
			{Name: "ipv4/conf/cali1/proxy_arp", Value: "1"},
			{Name: "ipv6/conf/cali1/forwarding", Value: "1"},
		}))
		ok(t, w.SetSysctl("ipv4/conf/cali1/proxy_arp", "1"))
		if v := must(w.Sysctl("ipv4/conf/cali1/proxy_arp"))(t); v != "1" {
			t.Errorf("proxy_arp of the host's end is %s, want 1", v)
		}
		if v := must(w.pod.Sysctl("ipv4/conf/eth0/proxy_arp"))(t); v != "0" {
			t.Errorf("proxy_arp of the pod's end is %s, want 0", v)
		}
		wantClass(t, w.pod.SetSysctl("ipv4/conf/cali1/proxy_arp", "1"), kernel.ErrNotFound)
	})
}

func TestChangesOfAllKindsGoTogether(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		p, a := netip.MustParsePrefix, netip.MustParseAddr
		host := must(w.CreateVeth(kernel.VethSpec{Host: "cali1", HostDown: true, Peer: "eth0", PeerNetns: w.podNS}))(t)
		eth0 := host.PeerIndex
		neighbour := kernel.Neighbour{Link: eth0, IP: a("169.254.1.1"), MAC: kernel.MAC{2, 0, 0, 0, 0, 1}}
		hop := kernel.Route{Dst: p("169.254.1.1/32"), Protocol: 80, Scope: kernel.ScopeLink, Link: eth0}
		way := kernel.Route{Dst: p("0.0.0.0/0"), Protocol: 80, Gateway: a("169.254.1.1"), Link: eth0}
		errs := w.pod.Apply(
			kernel.LinkUp{Link: eth0},
			neighbour,
			kernel.RouteChange{Op: kernel.Add, Route: hop},
			kernel.RouteChange{Op: kernel.Add, Route: way},
			kernel.LinkAddress{Link: eth0, Prefix: p("10.65.0.2/32")},
		)
		diff(t, "errors", make([]error, 5), errs)
		errs = w.Apply(kernel.LinkGroup{Link: host.Index, Group: 13}, kernel.LinkName{Link: host.Index, Name: "calx1"})
		diff(t, "errors", make([]error, 2), errs)

		if !must(w.pod.IsUp("eth0"))(t) || must(w.IsUp("calx1"))(t) {
			t.Error("the pod's end is not up, or the host's is")
		}
		if l := must(w.LinkByName("calx1"))(t); l.Group != 13 || l.Index != host.Index {
			t.Errorf("host's end %+v", l)
		}
		diff(t, "neighbours", []kernel.Neighbour{neighbour}, must(w.pod.Neighbours(eth0))(t))
		routes := must(w.pod.Routes(t.Context(), kernel.RouteFilter{Protocol: 80}))(t)
		slices.SortFunc(routes, func(a, b kernel.Route) int { return cmp.Compare(b.Dst.Bits(), a.Dst.Bits()) })
		diff(t, "routes", []kernel.Route{hop.Normal(), way.Normal()}, routes)
		if as := must(w.pod.Addresses(eth0))(t); !slices.Contains(as, kernel.Address{Link: eth0, Prefix: p("10.65.0.2/32")}) {
			t.Errorf("addresses %v", as)
		}
	})
}

func TestChangeThatFailsSaysSoAndKeepsNoneBack(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		link := w.underlay(t)
		taken := kernel.Route{Dst: netip.MustParsePrefix("10.65.0.0/26"), Protocol: 80, Link: link.Index}
		next := kernel.Route{Dst: netip.MustParsePrefix("10.65.1.0/26"), Protocol: 80, Link: link.Index}
		ok(t, w.AddRoute(taken))
		errs := w.Apply(
			kernel.LinkUp{Link: 4000},
			kernel.LinkName{Link: link.Index, Name: "far-too-long-a-name"},
			kernel.RouteChange{Op: kernel.Add, Route: taken},
			kernel.RouteChange{Op: kernel.Add, Route: next},
			kernel.LinkAddress{Link: 4000, Prefix: netip.MustParsePrefix("10.0.0.1/32")},
		)
		for i, c := range []struct {
			class error
			says  string
		}{
			{kernel.ErrNotFound, "switch on link 4000"},
			{kernel.ErrInvalid, "rename link"},
			{kernel.ErrExists, "add route 10.65.0.0/26"},
			{},
			{kernel.ErrNotFound, "add address 10.0.0.1/32"},
		} {
			if !errors.Is(errs[i], c.class) || errs[i] != nil && !strings.HasPrefix(errs[i].Error(), c.says) {
				t.Errorf("change %d: error %v, want %q of class %v", i, errs[i], c.says, c.class)
			}
		}
		diff(t, "routes", []kernel.Route{taken.Normal(), next.Normal()}, w.ours(t))
		if len(w.Apply()) != 0 {
			t.Error("no change, no error")
		}
		_, err := w.IsUp("nothere")
		wantClass(t, err, kernel.ErrNotFound)
	})
}

// TestConfiguredSettingsReadBack is for all that podnet sets, by message or by file.
func TestConfiguredSettingsReadBack(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		link := must(w.CreateVeth(kernel.VethSpec{Host: "cali1", HostDown: true, Peer: "eth0", PeerNetns: w.podNS}))(t)
		other := must(w.CreateVeth(kernel.VethSpec{Host: "cali2", HostDown: true, Peer: "eth1", PeerNetns: w.podNS}))(t)
		v4, v6 := "ipv4/conf/cali1/", "ipv6/conf/cali1/"
		before := must(w.Sysctl("ipv4/conf/cali2/rp_filter"))(t)
		for _, value := range []string{"1", "0", "1"} {
			all := []kernel.Setting{
				{Name: v4 + "rp_filter", Value: value},
				{Name: v4 + "forwarding", Value: value},
				{Name: v4 + "proxy_arp", Value: value},
				{Name: "ipv4/neigh/cali1/proxy_delay", Value: value},
				{Name: v6 + "accept_ra", Value: value},
				{Name: v6 + "accept_dad", Value: value},
				{Name: v6 + "addr_gen_mode", Value: value},
				{Name: v6 + "disable_ipv6", Value: value},
				{Name: v6 + "forwarding", Value: value},
				{Name: v6 + "proxy_ndp", Value: value},
			}
			ok(t, w.Configure(link, all))
			for _, s := range all {
				if now := must(w.Sysctl(s.Name))(t); now != s.Value {
					t.Errorf("%s is %s, want %s", s.Name, now, s.Value)
				}
			}
			ok(t, w.Configure(link, all[7:8])) // a single one
		}
		if now := must(w.Sysctl("ipv4/conf/" + other.Name + "/rp_filter"))(t); now != before {
			t.Errorf("rp_filter of another link became %s", now)
		}
		gone := kernel.Link{Index: 4000, Name: "nothere"}
		for _, name := range []string{"ipv6/conf/nothere/disable_ipv6", "ipv4/conf/nothere/rp_filter"} {
			wantClass(t, w.Configure(gone, []kernel.Setting{{Name: name, Value: "1"}}), kernel.ErrNotFound)
		}
		ok(t, w.Configure(link, nil))
	})
}

func TestSwapTellsWhatItChanged(t *testing.T) {
	onBoth(t, func(t *testing.T, w world) {
		must(w.CreateVeth(kernel.VethSpec{Host: "cali1", Peer: "eth0", PeerNetns: w.podNS}))(t)
		names := []string{
			"ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/lo/disable_ipv6", "ipv6/conf/eth0/accept_ra",
			"ipv6/conf/eth0/accept_dad", "ipv6/conf/eth0/disable_ipv6", "ipv6/conf/eth0/proxy_ndp",
		}
		settings := func(value string) (out []kernel.Setting) {
			for _, n := range names {
				out = append(out, kernel.Setting{Name: n, Value: value})
			}
			return out
		}
		ok(t, w.pod.SetSysctls(settings("0")))
		diff(t, "changed to 1", settings("0"), must(w.pod.SwapSysctls(settings("1")))(t))
		diff(t, "changed again", []kernel.Setting(nil), must(w.pod.SwapSysctls(settings("1")))(t))
		for _, n := range names {
			if now := must(w.pod.Sysctl(n))(t); now != "1" {
				t.Errorf("%s is %s", n, now)
			}
		}
		mixed := append(settings("0")[:2], kernel.Setting{Name: "ipv6/conf/nothere/accept_ra", Value: "0"})
		old, err := w.pod.SwapSysctls(mixed)
		wantClass(t, err, kernel.ErrNotFound)
		diff(t, "changed before the failure", settings("1")[:2], old)
	})
}
