package vxlan_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tortie/felix/vxlan"
	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/overlay"
)

// kern is a kernel, real or fake.
type kern interface {
	vxlan.Kernel
	CreateVeth(kernel.VethSpec) (kernel.Link, error)
	AddAddress(link int, prefix netip.Prefix) error
	SetDown(int) error
	SetFDB(kernel.FDBEntry) error
	SetNeighbour(kernel.Neighbour) error
	Links() ([]kernel.Link, error)
	Sysctl(name string) (string, error)
	SetSysctl(name, value string) error
}

// world is a node with addresses on eth0 and the Tunnels under test.
type world struct {
	*testing.T
	kern
	cfg     vxlan.Config
	tunnels *vxlan.Tunnels
	log     *bytes.Buffer
}

func onEachKernel(t *testing.T, test func(*world)) {
	start := func(t *testing.T, k kern) {
		w := &world{T: t, kern: k, log: &bytes.Buffer{}}
		w.cfg = vxlan.Config{
			Kernel: k, Log: slog.New(slog.NewTextHandler(w.log, nil)),
			MTU: func(v6 bool) int { return map[bool]int{false: 1450, true: 1430}[v6] },
		}
		w.tunnels = newTunnels(w.cfg)
		eth := w.veth("eth0")
		w.ok(k.AddAddress(eth.Index, netip.MustParsePrefix("192.0.2.1/24")))
		w.ok(k.AddAddress(eth.Index, netip.MustParsePrefix("2001:db8::1/64")))
		test(w)
	}
	t.Run("fake", func(t *testing.T) { start(t, fakekernel.New()) })
	t.Run("real", func(t *testing.T) {
		kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6, kerneltest.Vxlan)
		start(t, kerneltest.New(t))
	})
}

// onFake is a node without an address.
func onFake(t *testing.T, k *fakekernel.Kernel) *world {
	w := &world{T: t, kern: k, log: &bytes.Buffer{}}
	w.cfg = vxlan.Config{
		Kernel: k, Log: slog.New(slog.DiscardHandler),
		MTU: func(v6 bool) int { return map[bool]int{false: 1450, true: 1430}[v6] },
	}
	w.tunnels = newTunnels(w.cfg)
	return w
}

// newTunnels have upstream's settings.
func newTunnels(cfg vxlan.Config) *vxlan.Tunnels {
	t := vxlan.New(cfg)
	t.Configure(vxlan.Settings{VNI: 4096, Port: 4789})
	return t
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) veth(name string) kernel.Link {
	w.Helper()
	l, err := w.CreateVeth(kernel.VethSpec{Host: name, Peer: "p-" + name})
	w.ok(err)
	w.ok(w.SetUp(l.PeerIndex))
	return l
}

func end(address, tunnel string, mac byte) overlay.End {
	return overlay.End{Address: netip.MustParsePrefix(address), Tunnel: netip.MustParseAddr(tunnel), MAC: overlay.MAC{0x66, 0, 0, 0, 0, mac}}
}

func both() []overlay.Tunnel {
	return []overlay.Tunnel{
		{Here: end("192.0.2.1/24", "10.65.1.1", 1), Peers: []overlay.End{end("192.0.2.2/24", "10.65.2.1", 2), end("198.51.100.3/24", "10.65.3.1", 3)}},
		{Here: end("2001:db8::1/64", "fd65::1", 0x61), Peers: []overlay.End{end("2001:db8::2/64", "fd65::2", 0x62)}},
	}
}

func (w *world) apply(tunnels []overlay.Tunnel) {
	w.Helper()
	w.tunnels.Set(tunnels)
	w.ok(w.tunnels.Apply(w.Context()))
}

func (w *world) read(name string) string {
	w.Helper()
	l, err := w.LinkByName(name)
	if errors.Is(err, kernel.ErrNotFound) {
		return "no device"
	}
	w.ok(err)
	settings, err := w.Vxlan(l.Index)
	w.ok(err)
	forwarding, err := w.Sysctl("ipv4/conf/" + name + "/forwarding")
	w.ok(err)
	lines := []string{fmt.Sprintf("%s %s mtu %d up %v %+v", l.Name, l.MAC, l.MTU, l.Up, settings)}
	addrs, err := w.Addresses(l.Index)
	w.ok(err)
	for _, a := range addrs {
		if !a.Prefix.Addr().IsLinkLocalUnicast() {
			lines = append(lines, "address "+a.Prefix.String()+map[bool]string{true: " deprecated"}[a.Deprecated])
		}
	}
	fdb, err := w.FDB(l.Index)
	w.ok(err)
	for _, e := range fdb {
		lines = append(lines, fmt.Sprintf("fdb %s %s", e.MAC, e.Remote))
	}
	neighbours, err := w.Neighbours(l.Index)
	w.ok(err)
	for _, n := range neighbours {
		lines = append(lines, fmt.Sprintf("neighbour %s %s", n.IP, n.MAC))
	}
	if name == vxlan.Device4 && forwarding != "1" {
		lines = append(lines, "does not forward")
	}
	slices.Sort(lines[1:])
	return strings.Join(lines, "\n")
}

const (
	want4 = `vxlan.calico 66:00:00:00:00:01 mtu 1450 up true {VNI:4096 Port:4789 Local:192.0.2.1 Learning:false}
address 10.65.1.1/32
fdb 66:00:00:00:00:02 192.0.2.2
fdb 66:00:00:00:00:03 198.51.100.3
neighbour 10.65.2.1 66:00:00:00:00:02
neighbour 10.65.3.1 66:00:00:00:00:03`
	want6 = `vxlan-v6.calico 66:00:00:00:00:61 mtu 1430 up true {VNI:4096 Port:4789 Local:2001:db8::1 Learning:false}
address fd65::1/128 deprecated
fdb 66:00:00:00:00:62 2001:db8::2
neighbour fd65::2 66:00:00:00:00:62`
)

func (w *world) wants(want4, want6 string) {
	w.Helper()
	if d := cmp.Diff(want4, w.read(vxlan.Device4)); d != "" {
		w.Errorf("IPv4 (-want +got):\n%s", d)
	}
	if d := cmp.Diff(want6, w.read(vxlan.Device6)); d != "" {
		w.Errorf("IPv6 (-want +got):\n%s", d)
	}
}

func TestTunnelsAreMadeChangedAndRemoved(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.apply(nil)
		w.wants("no device", "no device")
		w.apply(both())
		w.wants(want4, want6)
		first, up := w.tunnels.Link(false)
		if l, err := w.LinkByName(vxlan.Device4); err != nil || !up || l.Index != first {
			w.Errorf("link %d %v, want that of %v (%v)", first, up, l, err)
		}
		w.apply(both()[:1])
		w.wants(want4, "no device")
		if _, up := w.tunnels.Link(true); up {
			w.Error("a link of a device that is gone")
		}
		moved := both()[:1]
		moved[0].Here.Tunnel = netip.MustParseAddr("10.65.1.9")
		moved[0].Peers = []overlay.End{end("192.0.2.7/24", "10.65.2.1", 2)}
		w.apply(moved)
		w.wants(`vxlan.calico 66:00:00:00:00:01 mtu 1450 up true {VNI:4096 Port:4789 Local:192.0.2.1 Learning:false}
address 10.65.1.9/32
fdb 66:00:00:00:00:02 192.0.2.7
neighbour 10.65.2.1 66:00:00:00:00:02`, "no device")
		if again, _ := w.tunnels.Link(false); again != first {
			w.Error("the device was made anew for another address")
		}
		w.apply(nil)
		w.wants("no device", "no device")
	})
}

func TestDeviceIsMadeAnewWithOtherSettings(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.apply(both())
		first, _ := w.tunnels.Link(false)
		w.tunnels.Configure(vxlan.Settings{VNI: 7, Port: 4790})
		w.ok(w.tunnels.Apply(w.Context()))
		with := strings.NewReplacer("VNI:4096 Port:4789", "VNI:7 Port:4790")
		w.wants(with.Replace(want4), with.Replace(want6))
		if now, up := w.tunnels.Link(false); !up || now == first {
			w.Errorf("link %d after %d, want another", now, first)
		}
		if log := w.log.String(); strings.Contains(log, "someone had changed it") {
			w.Errorf("the change of the settings counts as somebody else's:\n%s", log)
		}
	})
}

func TestPreparedDeviceIsThereBeforeItIsDesired(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.apply(nil)
		alone := `vxlan.calico 66:00:00:00:00:01 mtu 1450 up true {VNI:4096 Port:4789 Local:192.0.2.1 Learning:false}
address 10.65.1.1/32`
		w.ok(w.tunnels.Prepare(w.Context(), both()[0].Here))
		w.wants(alone, "no device")
		w.apply(both()[1:]) // nothing is known yet of the one that is prepared
		w.wants(alone, want6)
		w.apply(both())
		w.wants(want4, want6)
		w.ok(w.tunnels.Prepare(w.Context(), end("192.0.2.1/24", "10.65.1.9", 1)))
		w.wants(want4, want6)
		w.apply(both())
		w.apply(nil)
		w.wants("no device", "no device")
		w.ok(w.tunnels.Prepare(w.Context(), both()[0].Here))
		w.tunnels.Forget(false)
		w.ok(w.tunnels.Apply(w.Context()))
		w.wants("no device", "no device")
	})
}

func TestWhatIsRightIsNotTouched(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.apply(both())
		before, err := w.Links()
		w.ok(err)
		w.log.Reset()
		w.tunnels = newTunnels(w.cfg) // felix was killed and started again
		w.apply(both())
		w.apply(both())
		after, err := w.Links()
		w.ok(err)
		if d := cmp.Diff(before, after); d != "" {
			w.Errorf("links (-before +after):\n%s", d)
		}
		w.wants(want4, want6)
		if w.log.Len() > 0 {
			w.Errorf("log of nothing:\n%s", w.log)
		}
	})
}

func TestDriftIsMended(t *testing.T) {
	stranger := kernel.MAC{2, 9, 9, 9, 9, 9}
	for name, tamper := range map[string]func(w *world, index int) error{
		"device deleted":      func(w *world, index int) error { return w.DeleteLink(index) },
		"forwarding":          func(w *world, _ int) error { return w.SetSysctl("ipv4/conf/"+vxlan.Device4+"/forwarding", "0") },
		"device switched off": func(w *world, index int) error { return w.SetDown(index) },
		"MTU":                 func(w *world, index int) error { return w.SetMTU(index, 1400) },
		"MAC address":         func(w *world, index int) error { return w.SetMAC(index, stranger) },
		"address removed": func(w *world, index int) error {
			return w.DeleteAddress(index, netip.MustParsePrefix("10.65.1.1/32"))
		},
		"address added": func(w *world, index int) error { return w.AddAddress(index, netip.MustParsePrefix("10.99.0.1/32")) },
		"entry removed": func(w *world, index int) error { return w.DeleteFDB(index, kernel.MAC{0x66, 0, 0, 0, 0, 2}) },
		"entry changed": func(w *world, index int) error {
			return w.SetFDB(kernel.FDBEntry{Link: index, MAC: kernel.MAC{0x66, 0, 0, 0, 0, 2}, Remote: netip.MustParseAddr("192.0.2.99")})
		},
		"entry added": func(w *world, index int) error {
			return w.SetFDB(kernel.FDBEntry{Link: index, MAC: stranger, Remote: netip.MustParseAddr("192.0.2.99")})
		},
		"neighbour removed": func(w *world, index int) error { return w.DeleteNeighbour(index, netip.MustParseAddr("10.65.2.1")) },
		"neighbour changed": func(w *world, index int) error {
			return w.SetNeighbour(kernel.Neighbour{Link: index, IP: netip.MustParseAddr("10.65.2.1"), MAC: stranger})
		},
		"neighbour added": func(w *world, index int) error {
			return w.SetNeighbour(kernel.Neighbour{Link: index, IP: netip.MustParseAddr("10.99.0.2"), MAC: stranger})
		},
		"made anew with another VNI": func(w *world, index int) error {
			if err := w.DeleteLink(index); err != nil {
				return err
			}
			_, err := w.CreateVxlan(kernel.VxlanSpec{Name: vxlan.Device4, Vxlan: kernel.Vxlan{VNI: 7, Port: 4789, Local: netip.MustParseAddr("192.0.2.1")}})
			return err
		},
		"made anew with learning": func(w *world, index int) error {
			if err := w.DeleteLink(index); err != nil {
				return err
			}
			_, err := w.CreateVxlan(kernel.VxlanSpec{Name: vxlan.Device4, Vxlan: kernel.Vxlan{VNI: 4096, Port: 4789, Local: netip.MustParseAddr("192.0.2.1"), Learning: true}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			onEachKernel(t, func(w *world) {
				w.apply(both())
				index, _ := w.tunnels.Link(false)
				w.ok(tamper(w, index))
				if w.read(vxlan.Device4) == want4 {
					w.Fatal("nothing was changed")
				}
				w.log.Reset()
				w.ok(w.tunnels.Apply(w.Context()))
				w.wants(want4, want6)
				if !strings.Contains(w.log.String(), "someone had changed it") {
					w.Errorf("it is not said:\n%s", w.log)
				}
			})
		})
	}
}

// TestPortOfAnotherProgramIsSaid in one line, and is had when it is free.
func TestPortOfAnotherProgramIsSaid(t *testing.T) {
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6, kerneltest.Vxlan)
	ns := kerneltest.NewNetns(t)
	w := &world{T: t, kern: kerneltest.Open(t, ns), log: &bytes.Buffer{}}
	w.tunnels = newTunnels(vxlan.Config{Kernel: w.kern, Log: slog.New(slog.DiscardHandler), MTU: func(bool) int { return 1450 }})
	w.ok(w.AddAddress(w.veth("eth0").Index, netip.MustParsePrefix("192.0.2.1/24")))
	var c *net.UDPConn
	w.ok(ns.Do(func() (err error) { c, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 4789}); return err }))
	w.tunnels.Set(both()[:1])
	err := w.tunnels.Apply(t.Context())
	if err == nil || !strings.Contains(err.Error(), "UDP port 4789 is taken by another program (ss -ulpn): end that, or set vxlanPort in the FelixConfiguration default: ") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
	w.ok(c.Close())
	w.ok(w.tunnels.Apply(t.Context()))
}

func TestStrangersAreLeftAlone(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.veth(vxlan.Device4)
		other, err := w.CreateVxlan(kernel.VxlanSpec{Name: "flannel.1", Vxlan: kernel.Vxlan{VNI: 1, Port: 8472, Local: netip.MustParseAddr("192.0.2.1"), Learning: true}})
		w.ok(err)
		w.ok(w.SetFDB(kernel.FDBEntry{Link: other.Index, MAC: kernel.MAC{2, 1, 1, 1, 1, 1}, Remote: netip.MustParseAddr("192.0.2.50")}))
		before, err := w.Links()
		w.ok(err)
		w.tunnels.Set(both()[:1])
		if err := w.tunnels.Apply(w.Context()); err == nil || !strings.Contains(err.Error(), "rename or remove it") {
			w.Errorf("error %v, want one that says what to do", err)
		}
		w.apply(nil)
		after, err := w.Links()
		w.ok(err)
		if d := cmp.Diff(before, after); d != "" {
			w.Errorf("links (-before +after):\n%s", d)
		}
		if fdb, err := w.FDB(other.Index); err != nil || len(fdb) != 1 {
			w.Errorf("entries of another's device: %v %v", fdb, err)
		}
	})
}

func TestTakenVNIIsSaidAndTheOtherFamilyGoesOn(t *testing.T) {
	onEachKernel(t, func(w *world) {
		_, err := w.CreateVxlan(kernel.VxlanSpec{Name: "other", Vxlan: kernel.Vxlan{VNI: 4096, Port: 4789, Local: netip.MustParseAddr("192.0.2.1")}})
		w.ok(err)
		w.tunnels.Set(both())
		err = w.tunnels.Apply(w.Context())
		if err == nil || !strings.Contains(err.Error(), "another VXLAN device has VNI 4096 on port 4789") || !errors.Is(err, kernel.ErrExists) {
			w.Errorf("error %v", err)
		}
		if d := cmp.Diff(want6, w.read(vxlan.Device6)); d != "" {
			w.Errorf("IPv6 (-want +got):\n%s", d)
		}
	})
}

// TestKernelWithoutVXLANIsSaidInOneLine: with what to do, and nothing else fails of it.
func TestKernelWithoutVXLANIsSaidInOneLine(t *testing.T) {
	k := fakekernel.New()
	w := onFake(t, k)
	k.SetFault(func(op fakekernel.Op) error {
		if strings.HasPrefix(op.Name, "add link") || strings.HasPrefix(op.Name, "add vxlan") || strings.Contains(op.Object, "vxlan.calico") && strings.HasPrefix(op.Name, "create") {
			return kernel.ErrNotSupported
		}
		return nil
	})
	w.tunnels.Set(both()[:1])
	err := w.tunnels.Apply(t.Context())
	if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "VXLAN device vxlan.calico: ") || !strings.Contains(err.Error(), "modprobe vxlan") || !strings.Contains(err.Error(), "vxlanMode: Never") {
		t.Errorf("error %v", err)
	}
	if _, up := w.tunnels.Link(false); up || w.tunnels.Failed(false) == nil || w.tunnels.Failed(true) != nil {
		t.Errorf("there is a device: %v; failed: %v, %v", up, w.tunnels.Failed(false), w.tunnels.Failed(true))
	}
	k.SetFault(nil)
	w.veth("eth0")
	w.apply(both()[:1])
	if failed := w.tunnels.Failed(false); failed != nil {
		t.Errorf("with a kernel that has it: %v", failed)
	}
}

// TestWhatFailsOnADeviceThatCarriesLeavesItInUse: what goes through it goes on, and the
// rest of it is seen to.
func TestWhatFailsOnADeviceThatCarriesLeavesItInUse(t *testing.T) {
	for _, op := range []string{"set sysctl", "read addresses", "delete address", "read fdb", "read neighbours"} {
		t.Run(op, func(t *testing.T) {
			k := fakekernel.New()
			w := onFake(t, k)
			w.veth("eth0")
			w.apply(both()[:1])
			index, _ := w.tunnels.Link(false)
			w.ok(w.AddAddress(index, netip.MustParsePrefix("10.99.0.1/32")))
			w.ok(w.DeleteFDB(index, kernel.MAC{0x66, 0, 0, 0, 0, 2}))
			w.ok(w.DeleteNeighbour(index, netip.MustParseAddr("10.65.2.1")))
			k.FailNth(1, op, errors.New("out of luck"))
			if err := w.tunnels.Apply(w.Context()); err == nil || !strings.Contains(err.Error(), "out of luck") {
				t.Fatalf("error %v", err)
			}
			k.SetFault(nil)
			if got, up := w.tunnels.Link(false); !up || got != index {
				t.Errorf("link %d %v, want %d: its routes would be withdrawn", got, up, index)
			}
			if fdb, err := w.FDB(index); err != nil || len(fdb) != 2 && op != "read fdb" {
				t.Errorf("forwarding table %v %v", fdb, err)
			}
		})
	}
}

// TestFailureIsToldInTheSameWordsEachTime: other words would be news at every retry.
func TestFailureIsToldInTheSameWordsEachTime(t *testing.T) {
	k := fakekernel.New()
	w := onFake(t, k)
	w.veth("eth0")
	tunnels := both()[:1]
	for i := range byte(20) {
		tunnels[0].Peers = append(tunnels[0].Peers, end(fmt.Sprintf("192.0.2.%d/24", 10+i), fmt.Sprintf("10.65.%d.1", 10+i), 10+i))
	}
	w.tunnels.Set(tunnels)
	k.SetFault(func(op fakekernel.Op) error {
		if op.Name == "set fdb entry" || op.Name == "set neighbour" {
			return errors.New("out of luck")
		}
		return nil
	})
	first := w.tunnels.Apply(w.Context())
	if first == nil {
		t.Fatal("nothing failed")
	}
	for range 5 {
		if again := w.tunnels.Apply(w.Context()); again == nil || again.Error() != first.Error() {
			t.Fatalf("at first:\n%v\nthen:\n%v", first, again)
		}
	}
}

// TestFailureAtAnyRequestIsMadeGoodByTheNextApply fails each request in turn.
func TestFailureAtAnyRequestIsMadeGoodByTheNextApply(t *testing.T) {
	for n := 1; ; n++ {
		k := fakekernel.New()
		w := onFake(t, k)
		w.veth("eth0")
		w.tunnels.Set(both())
		k.FailNth(n, "", errors.New("out of luck"))
		err := w.tunnels.Apply(w.Context())
		k.SetFault(nil)
		if err == nil {
			if n < 20 {
				t.Fatalf("only %d requests could fail", n-1)
			}
			return
		}
		w.ok(w.tunnels.Apply(w.Context()))
		w.wants(want4, want6)
	}
}

// TestPacketsGoToWhereTheTablesSay is two nodes with nothing between them but VXLAN.
func TestPacketsGoToWhereTheTablesSay(t *testing.T) {
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6, kerneltest.Vxlan, kerneltest.Ping)
	nsB := kerneltest.NewNetns(t)
	nsA := kerneltest.NewNetns(t)
	a, b := kerneltest.Open(t, nsA), kerneltest.Open(t, nsB)
	eth, err := a.CreateVeth(kernel.VethSpec{Host: "eth0", Peer: "eth0", PeerNetns: nsB})
	if err != nil {
		t.Fatal(err)
	}
	ends := [][]overlay.End{
		{end("192.0.2.1/24", "10.65.1.1", 1), end("2001:db8::1/64", "fd65::1", 0x61)},
		{end("192.0.2.2/24", "10.65.2.1", 2), end("2001:db8::2/64", "fd65::2", 0x62)},
	}
	for i, k := range []*kernel.Handle{a, b} {
		link := []int{eth.Index, eth.PeerIndex}[i]
		if err := k.SetUp(link); err != nil {
			t.Fatal(err)
		}
		tunnels := newTunnels(vxlan.Config{
			Kernel: k, Log: slog.New(slog.DiscardHandler), MTU: func(bool) int { return 1430 },
		})
		for _, here := range ends[i] {
			if err := k.AddAddress(link, here.Address); err != nil {
				t.Fatal(err)
			}
		}
		tunnels.Set([]overlay.Tunnel{{Here: ends[i][0], Peers: ends[1-i][:1]}, {Here: ends[i][1], Peers: ends[1-i][1:]}})
		if err := tunnels.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, v6 := range []bool{false, true} {
			index, _ := tunnels.Link(v6)
			via := ends[1-i][map[bool]int{true: 1}[v6]].Tunnel
			if err := k.AddRoute(kernel.Route{Dst: netip.PrefixFrom(via, via.BitLen()), Protocol: kernel.ProtocolFelix, Link: index, Scope: kernel.ScopeLink}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, there := range ends[1] {
		err := nsA.Do(func() error {
			out, err := exec.Command("ping", "-c", "3", "-i", "0.05", "-W", "2", there.Tunnel.String()).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
