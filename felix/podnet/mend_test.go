package podnet_test

import (
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

func TestMendPutsTheNodesEndRight(t *testing.T) {
	w := newWorld(t, nil)
	a := attachment(w.newPod(), 1)
	got := w.add(a)
	mend := func(want ...string) {
		t.Helper()
		mended, err := w.net.Mend(a.HostIf, a.Addrs, false)
		if err != nil || !slices.Equal(mended, want) {
			t.Errorf("mended %q, %v; want %q", mended, err, want)
		}
	}
	mend()
	err := w.node.SetSysctls([]kernel.Setting{
		{Name: "ipv4/conf/" + a.HostIf + "/rp_filter", Value: "0"},
		{Name: "ipv6/conf/" + a.HostIf + "/forwarding", Value: "0"},
	})
	if err == nil {
		err = w.node.SetMAC(got.HostIndex, kernel.MAC{2, 0, 0, 0, 0, 1})
	}
	if err != nil {
		t.Fatal(err)
	}
	mend("MAC address 02:00:00:00:00:01", "net/ipv4/conf/"+a.HostIf+"/rp_filter=0", "net/ipv6/conf/"+a.HostIf+"/forwarding=0")
	if l, err := w.node.LinkByName(a.HostIf); err != nil || l.MAC.String() != got.HostMAC || w.sysctl("ipv4/conf/"+a.HostIf+"/rp_filter") != "1" {
		t.Errorf("device %+v, %v", l, err)
	}
	mend()
	if mended, err := w.net.Mend(a.HostIf, a.Addrs, true); err != nil || len(mended) != 1 || w.sysctl("ipv4/conf/"+a.HostIf+"/rp_filter") != "0" {
		t.Errorf("a pod that may send from others' addresses now: mended %q, %v", mended, err)
	}
}

func TestMendLeavesADeviceAloneThatIsDown(t *testing.T) {
	w := newWorld(t, nil)
	a := attachment(w.newPod(), 1)
	got := w.add(a)
	if err := w.node.SetDown(got.HostIndex); err != nil {
		t.Fatal(err)
	}
	if err := w.node.SetSysctls([]kernel.Setting{{Name: "ipv4/conf/" + a.HostIf + "/rp_filter", Value: "0"}}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{a.HostIf, hostIf(2), "lo"} {
		if mended, err := w.net.Mend(name, a.Addrs, false); len(mended) > 0 || err != nil {
			t.Errorf("%s: mended %q, %v", name, mended, err)
		}
	}
	if got := w.sysctl("ipv4/conf/" + a.HostIf + "/rp_filter"); got != "0" {
		t.Errorf("rp_filter %s", got)
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
