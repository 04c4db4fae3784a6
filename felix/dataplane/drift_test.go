package dataplane_test

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"tortie/felix/vxlan"
	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
	"tortie/internal/polltest"
)

// addressed is a kernel that addresses can be taken from.
type addressed interface {
	DeleteAddress(link int, prefix netip.Prefix) error
	SetMTU(index, mtu int) error
	SetMAC(index int, mac kernel.MAC) error
}

// addressesOf are a device's, less those of the link.
func (w *world) addressesOf(device string) (all []string) {
	w.Helper()
	l, err := w.kern.LinkByName(device)
	w.must(err)
	held, err := w.kern.Addresses(l.Index)
	w.must(err)
	for _, a := range held {
		if !a.Prefix.Addr().IsLinkLocalUnicast() {
			all = append(all, a.Prefix.String())
		}
	}
	return all
}

// TestAddressOfATunnelIsBackAtOnce, and what somebody adds is gone, with the resync far away.
func TestAddressOfATunnelIsBackAtOnce(t *testing.T) {
	for device, own := range map[string]string{vxlan.Device4: "10.65.1.1/32", vxlan.Device6: "fd65::1:1/128"} {
		t.Run(device, func(t *testing.T) {
			onEachKernel(t, func(w *world) {
				w.withTunnels().Desire(overlaid())
				w.startInSync(overlaid())
				w.becomes(overlaidRoutes()...)
				w.barrier()
				is := func(what string) {
					w.Helper()
					polltest.Until(w, 20*time.Second, what, func() (bool, string) {
						have := w.addressesOf(device)
						return slices.Equal(have, []string{own}), ""
					})
					w.becomes(overlaidRoutes()...)
				}
				l, err := w.kern.LinkByName(device)
				w.must(err)
				w.must(w.kern.(addressed).DeleteAddress(l.Index, netip.MustParsePrefix(own)))
				is("the address")
				w.must(w.kern.AddAddress(l.Index, netip.MustParsePrefix(map[bool]string{true: "203.0.113.9/32", false: "2001:db8::9/128"}[device == vxlan.Device4])))
				is("the end of another")
			})
		})
	}
}

// TestAddressesOfOthersAndOurOwnWorkWakeNobody: no resync comes of them.
func TestAddressesOfOthersAndOurOwnWorkWakeNobody(t *testing.T) {
	inBubble(t, func(w *world, k *fakekernel.Kernel) {
		w.withTunnels().Desire(overlaid())
		w.startInSync(overlaid())
		after(10 * time.Second)
		tunnel, err := k.LinkByName(vxlan.Device4)
		w.must(err)
		eth, err := k.LinkByName("eth0")
		w.must(err)
		before := w.loop.Status()
		w.must(k.AddAddress(eth.Index, netip.MustParsePrefix("192.0.2.77/24")))
		w.must(k.DeleteAddress(eth.Index, netip.MustParsePrefix("192.0.2.77/24")))
		w.must(k.AddAddress(tunnel.Index, netip.MustParsePrefix("fe80::1/64")))
		after(10 * time.Second)
		if now := w.loop.Status(); now.Applies != before.Applies {
			w.Errorf("%d turns", now.Applies-before.Applies)
		}
		w.must(k.DeleteAddress(tunnel.Index, netip.MustParsePrefix("10.65.1.1/32")))
		after(10 * time.Second) // the routes that name the address go with it
		mended := w.loop.Status()
		if n := mended.Resyncs - before.Resyncs; n < 1 || n > 2 {
			w.Errorf("%d resyncs of one change", n)
		}
		after(40 * time.Second)
		if now := w.loop.Status(); now.Applies != mended.Applies {
			w.Errorf("%d turns after it was mended", now.Applies-mended.Applies)
		}
	})
}

// TestPodsDeviceThatSomebodyChangesIsTold, and not what comes of an ADD or a DEL.
func TestPodsDeviceThatSomebodyChangesIsTold(t *testing.T) {
	inBubble(t, func(w *world, k *fakekernel.Kernel) {
		told := map[string]int{}
		w.cfg.Suspect = func(iface string) { told[iface]++ }
		expect := func(what string, want ...string) {
			w.Helper()
			after(2 * time.Second)
			if have := slices.Sorted(maps.Keys(told)); !slices.Equal(have, want) {
				w.Errorf("%s: told %v, want %v", what, have, want)
			}
			clear(told)
		}
		l, other := w.device(if1), w.device(if2)
		ep := endpoint("a", "c1", if1, "10.65.0.1")
		w.startInSync(state())
		w.upsert(ep)
		expect("an ADD")
		w.must(k.SetMTU(other.Index, 1300))
		w.must(k.SetDown(other.Index))
		expect("a device of nobody's")
		for what, harm := range map[string]func() error{
			"another MTU":         func() error { return k.SetMTU(l.Index, 1300) },
			"another MAC address": func() error { return k.SetMAC(l.Index, kernel.MAC{2, 0, 0, 0, 0, 1}) },
			"off":                 func() error { return k.SetDown(l.Index) },
		} {
			w.must(harm())
			expect(what, if1)
		}
		w.must(k.SetUp(l.Index))
		w.must(k.AddAddress(l.Index, netip.MustParsePrefix("fe80::ecee:eeff:feee:eeee/64")))
		expect("on")
		w.must(k.DeleteAddress(l.Index, netip.MustParsePrefix("fe80::ecee:eeff:feee:eeee/64")))
		expect("without the gateway's address", if1)
		w.remove(ep)
		w.must(k.SetDown(l.Index))
		expect("a DEL")
	})
}
