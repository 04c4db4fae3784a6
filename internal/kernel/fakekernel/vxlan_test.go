package fakekernel_test

import (
	"net/netip"
	"testing"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

func vxlanSpec(name, local string) kernel.VxlanSpec {
	return kernel.VxlanSpec{
		Name: name, MAC: kernel.MAC{0x66, 1, 2, 3, 4, 5}, MTU: 1430,
		Vxlan: kernel.Vxlan{VNI: 4096, Port: 4789, Local: netip.MustParseAddr(local)},
	}
}

func TestVxlanReadsBackAsItWasMade(t *testing.T) {
	kerneltest.Require(t, kerneltest.Vxlan)
	onBoth(t, func(t *testing.T, w world) {
		w.underlay(t)
		for _, spec := range []kernel.VxlanSpec{vxlanSpec("vxlan.calico", "192.0.2.1"), vxlanSpec("vxlan-v6.calico", "2001:db8::1")} {
			l := must(w.CreateVxlan(spec))(t)
			want := kernel.Link{Index: l.Index, Name: spec.Name, Kind: "vxlan", MTU: 1430, MAC: spec.MAC, PeerNetns: -1}
			diff(t, "made", want, l)
			diff(t, "read", want, must(w.LinkByName(spec.Name))(t))
			diff(t, "settings", spec.Vxlan, must(w.Vxlan(l.Index))(t))
			ok(t, w.SetUp(l.Index))
			if !must(w.LinkByIndex(l.Index))(t).Running {
				t.Error("it does not run once it is up")
			}
		}
	})
}

func TestVxlanThatCannotBe(t *testing.T) {
	kerneltest.Require(t, kerneltest.Vxlan)
	onBoth(t, func(t *testing.T, w world) {
		eth := w.underlay(t)
		first := must(w.CreateVxlan(vxlanSpec("vxlan.calico", "192.0.2.1")))(t)
		_, err := w.CreateVxlan(vxlanSpec("vxlan.calico", "192.0.2.1"))
		wantClass(t, err, kernel.ErrExists)
		_, err = w.CreateVxlan(vxlanSpec("other", "192.0.2.1"))
		wantClass(t, err, kernel.ErrExists)
		for _, bad := range []kernel.Vxlan{{Port: 4789, Local: netip.MustParseAddr("192.0.2.1")}, {VNI: 1 << 24, Port: 4789, Local: netip.MustParseAddr("192.0.2.1")}, {VNI: 1, Local: netip.MustParseAddr("192.0.2.1")}, {VNI: 1, Port: 1}} {
			_, err := w.CreateVxlan(kernel.VxlanSpec{Name: "bad", Vxlan: bad})
			if err == nil {
				t.Errorf("%+v was made", bad)
			}
		}
		_, err = w.Vxlan(eth.Index)
		wantClass(t, err, kernel.ErrInvalid)
		_, err = w.Vxlan(9999)
		wantClass(t, err, kernel.ErrNotFound)
		ok(t, w.DeleteLink(first.Index))
		must(w.CreateVxlan(vxlanSpec("other", "192.0.2.1")))(t)
	})
}

func TestFDBSendsEachAddressToOnePlace(t *testing.T) {
	kerneltest.Require(t, kerneltest.Vxlan)
	onBoth(t, func(t *testing.T, w world) {
		w.underlay(t)
		v4, v6 := must(w.CreateVxlan(vxlanSpec("vxlan.calico", "192.0.2.1")))(t), must(w.CreateVxlan(vxlanSpec("vxlan-v6.calico", "2001:db8::1")))(t)
		mac := kernel.MAC{0x66, 9, 9, 9, 9, 9}
		for link, remotes := range map[int][]string{v4.Index: {"192.0.2.7", "192.0.2.8"}, v6.Index: {"2001:db8::7", "2001:db8::8"}} {
			diff(t, "at first", []kernel.FDBEntry(nil), must(w.FDB(link))(t))
			for _, remote := range remotes {
				e := kernel.FDBEntry{Link: link, MAC: mac, Remote: netip.MustParseAddr(remote)}
				ok(t, w.SetFDB(e))
				diff(t, "entries", []kernel.FDBEntry{e}, must(w.FDB(link))(t))
			}
		}
		ok(t, w.DeleteFDB(v4.Index, mac))
		ok(t, w.DeleteFDB(v4.Index, mac))
		diff(t, "after deletion", []kernel.FDBEntry(nil), must(w.FDB(v4.Index))(t))
		if n := len(must(w.FDB(v6.Index))(t)); n != 1 {
			t.Errorf("the other device has %d entries, want its one", n)
		}
		for _, bad := range []kernel.FDBEntry{{Link: 9999, MAC: mac, Remote: netip.MustParseAddr("192.0.2.7")}, {Link: v4.Index, MAC: mac, Remote: netip.MustParseAddr("2001:db8::7")}} {
			if err := w.SetFDB(bad); err == nil {
				t.Errorf("%s was taken", bad)
			}
		}
		ok(t, w.SetUp(v4.Index))
		gone := kernel.Neighbour{Link: v4.Index, IP: netip.MustParseAddr("10.65.0.1"), MAC: mac}
		ok(t, w.Apply(gone, kernel.FDBEntry{Link: v4.Index, MAC: mac, Remote: netip.MustParseAddr("192.0.2.7")})[1])
		ok(t, w.DeleteLink(v4.Index))
		diff(t, "of a device that is gone", []kernel.FDBEntry(nil), must(w.FDB(v4.Index))(t))
	})
}

// TestRouteIntoATunnel: the next hop of IPv6 must not be found on another device, so
// it has a route of its own.
func TestRouteIntoATunnel(t *testing.T) {
	kerneltest.Require(t, kerneltest.Vxlan)
	onBoth(t, func(t *testing.T, w world) {
		w.underlay(t)
		for _, tt := range []struct{ name, local, own, dst, via string }{
			{"vxlan.calico", "192.0.2.1", "10.65.0.1/32", "10.65.2.0/26", "10.65.2.1"},
			{"vxlan-v6.calico", "2001:db8::1", "fd65::1/128", "fd65::240/122", "fd65::241"},
		} {
			l := must(w.CreateVxlan(vxlanSpec(tt.name, tt.local)))(t)
			ok(t, w.AddAddress(l.Index, netip.MustParsePrefix(tt.own)))
			ok(t, w.SetUp(l.Index))
			via := netip.MustParseAddr(tt.via)
			ok(t, w.AddRoute(kernel.Route{Dst: netip.PrefixFrom(via, via.BitLen()), Protocol: kernel.ProtocolFelix, Link: l.Index, Scope: kernel.ScopeLink, Priority: 2048}))
			ok(t, w.AddRoute(kernel.Route{Dst: netip.MustParsePrefix(tt.dst), Protocol: kernel.ProtocolFelix, Link: l.Index, Gateway: via, OnLink: true, Priority: 2048}))
		}
		var got []string
		for _, r := range w.ours(t) {
			got = append(got, r.Dst.String())
		}
		diff(t, "routes", []string{"10.65.2.0/26", "10.65.2.1/32", "fd65::240/122", "fd65::241/128"}, got)
	})
}

func TestDeprecatedAddressServesTheRoutesThatNameIt(t *testing.T) {
	kerneltest.Require(t, kerneltest.Vxlan)
	onBoth(t, func(t *testing.T, w world) {
		w.underlay(t)
		l := must(w.CreateVxlan(vxlanSpec("vxlan-v6.calico", "2001:db8::1")))(t)
		want := kernel.Address{Link: l.Index, Prefix: netip.MustParsePrefix("fd65::1/128")}
		for _, deprecated := range []bool{true, false, true} {
			want.Deprecated = deprecated
			ok(t, w.Apply(kernel.LinkAddress{Link: l.Index, Prefix: want.Prefix, Deprecated: deprecated})[0])
			diff(t, "addresses", []kernel.Address{want}, must(w.Addresses(l.Index))(t))
		}
		ok(t, w.SetUp(l.Index))
		r := kernel.Route{
			Dst: netip.MustParsePrefix("fd65::240/122"), Protocol: kernel.ProtocolFelix, Link: l.Index, Src: want.Prefix.Addr(), Priority: 2048,
		}
		ok(t, w.AddRoute(r))
		diff(t, "routes", []kernel.Route{r.Normal()}, w.ours(t))
	})
}
