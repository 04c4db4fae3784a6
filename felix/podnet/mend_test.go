package podnet_test

import (
	"net/netip"
	"slices"
	"testing"

	"tortie/felix/podnet"
	"tortie/internal/kernel"
)

func (w *world) sysctl(name string) string {
	w.Helper()
	value, err := w.node.Sysctl(name)
	if err != nil {
		w.Fatal(err)
	}
	return value
}

// TestMendPutsTheNodesEndRight whatever somebody has done to it.
func TestMendPutsTheNodesEndRight(t *testing.T) {
	w := newWorld(t, nil)
	a := attachment(w.newPod(), 1)
	a.FromLoopback = true
	got := w.add(a)
	v4, v6 := "ipv4/conf/"+a.HostIf+"/", "ipv6/conf/"+a.HostIf+"/"
	sysctl := func(name, value string) func() error {
		return func() error { return w.node.SetSysctls([]kernel.Setting{{Name: name, Value: value}}) }
	}
	gateway := netip.MustParsePrefix("fe80::ecee:eeff:feee:eeee/64")
	for _, tc := range []struct {
		name string
		harm func() error
		want []string
	}{
		{"nothing", func() error { return nil }, nil},
		{"rp_filter", sysctl(v4+"rp_filter", "0"), []string{"net/" + v4 + "rp_filter=0"}},
		{"route_localnet, of a pod with a port of the node", sysctl(v4+"route_localnet", "0"), []string{"net/" + v4 + "route_localnet=0"}},
		{"forwarding of IPv6", sysctl(v6+"forwarding", "0"), []string{"net/" + v6 + "forwarding=0"}},
		{"its MAC address", func() error { return w.node.SetMAC(got.HostIndex, kernel.MAC{2, 0, 0, 0, 0, 1}) }, []string{"MAC address 02:00:00:00:00:01"}},
		{"its MTU", func() error { return w.node.SetMTU(got.HostIndex, 1300) }, []string{"MTU 1300"}},
		{"an MTU without IPv6", func() error { return w.node.SetMTU(got.HostIndex, 1000) }, []string{"MTU 1000", "net/" + v6 + "proxy_ndp=0"}},
		{"the gateway's address", func() error { return w.node.DeleteAddress(got.HostIndex, gateway) }, []string{"no address " + gateway.Addr().String()}},
		{"IPv6", sysctl(v6+"disable_ipv6", "1"), []string{"net/" + v6 + "disable_ipv6=1"}},
		{"that it is up", func() error { return w.node.SetDown(got.HostIndex) }, []string{"switched off"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := tc.harm(); err != nil {
				t.Fatal(err)
			}
			mended, err := w.net.Mend(a)
			if err != nil || slices.ContainsFunc(tc.want, func(s string) bool { return !slices.Contains(mended, s) }) || tc.want == nil && len(mended) > 0 {
				t.Errorf("mended %q, %v; want %q", mended, err, tc.want)
			}
			link, err := w.node.LinkByName(a.HostIf)
			if err != nil || link.MAC.String() != got.HostMAC || link.MTU != a.MTU || !link.Up {
				t.Errorf("device %+v, %v", link, err)
			}
			held, err := w.node.Addresses(link.Index)
			if err != nil || !slices.ContainsFunc(held, func(h kernel.Address) bool { return h.Prefix == gateway }) {
				t.Errorf("addresses %v, %v", held, err)
			}
			if mended, err := w.net.Mend(a); len(mended) > 0 || err != nil {
				t.Errorf("and again %q, %v", mended, err)
			}
		})
	}
	a.ManySources = true
	if mended, err := w.net.Mend(a); err != nil || len(mended) != 1 || w.sysctl(v4+"rp_filter") != "0" {
		t.Errorf("a pod that may send from others' addresses now: mended %q, %v", mended, err)
	}
}

// TestMendLeavesAloneWhatIsNoPodsDevice, and what waits for its deletion.
func TestMendLeavesAloneWhatIsNoPodsDevice(t *testing.T) {
	w := newWorld(t, nil)
	a := attachment(w.newPod(), 1)
	got := w.add(a)
	if err := w.node.SetGroup(got.HostIndex, podnet.DefaultReapGroup); err != nil {
		t.Fatal(err)
	}
	if err := w.node.SetDown(got.HostIndex); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{a.HostIf, hostIf(2), "lo"} {
		a.HostIf = name
		if mended, err := w.net.Mend(a); len(mended) > 0 || err != nil {
			t.Errorf("%s: mended %q, %v", name, mended, err)
		}
	}
	if link, err := w.node.LinkByIndex(got.HostIndex); err != nil || link.Up {
		t.Errorf("device %+v, %v", link, err)
	}
}

func TestMendForwardingSwitchesItOnAgain(t *testing.T) {
	w := newWorld(t, nil)
	for _, tc := range [][]string{nil, {"net/ipv4/ip_forward=0"}, {"net/ipv6/conf/all/forwarding=0"}, {"net/ipv4/ip_forward=0", "net/ipv6/conf/all/forwarding=0"}} {
		for _, setting := range tc {
			name := setting[len("net/") : len(setting)-len("=0")]
			if err := w.node.SetSysctls([]kernel.Setting{{Name: name, Value: "0"}}); err != nil {
				t.Fatal(err)
			}
		}
		mended, err := podnet.MendForwarding(w.node)
		if err != nil || !slices.Equal(mended, tc) {
			t.Errorf("mended %q, %v; want %q", mended, err, tc)
		}
		if w.sysctl("ipv4/ip_forward") != "1" || w.sysctl("ipv6/conf/all/forwarding") != "1" {
			t.Errorf("after %q the node does not forward", tc)
		}
	}
}
