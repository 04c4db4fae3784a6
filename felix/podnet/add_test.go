package podnet_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tortie/felix/podnet"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

func TestAddWiresTheFamiliesOfItsAddresses(t *testing.T) {
	tests := map[string]struct {
		addrs      []netip.Addr
		routes     []string
		neighbours []netip.Addr
	}{
		"IPv4 only": {
			addrs:      addrs("10.65.0.1"),
			routes:     []string{"0.0.0.0/0 via 169.254.1.1", "169.254.1.1/32"},
			neighbours: addrs("169.254.1.1"),
		},
		"IPv6 only": {
			addrs:      addrs("fd00:65::1"),
			routes:     []string{"::/0 via fe80::ecee:eeff:feee:eeee"},
			neighbours: addrs("fe80::ecee:eeff:feee:eeee"),
		},
		"dual stack, two of each": {
			addrs:      addrs("10.65.0.1", "10.65.0.2", "fd00:65::1", "fd00:65::2"),
			routes:     []string{"0.0.0.0/0 via 169.254.1.1", "169.254.1.1/32", "::/0 via fe80::ecee:eeff:feee:eeee"},
			neighbours: addrs("169.254.1.1", "fe80::ecee:eeff:feee:eeee"),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			p := w.newPod()
			a := attachment(p, 1)
			a.Addrs = tt.addrs
			got := w.add(a)

			link, err := p.LinkByName(ifName)
			if err != nil {
				t.Fatal(err)
			}
			if !link.Up || !link.Running || link.MTU != 1450 || got.MTU != 1450 || got.PodMAC != link.MAC.String() {
				t.Errorf("pod's end %+v, attached %+v", link, got)
			}
			if lo, err := p.LinkByName("lo"); err != nil || !lo.Up {
				t.Errorf("loopback %+v, %v", lo, err)
			}
			have := map[netip.Prefix]bool{}
			as, _ := p.Addresses(link.Index)
			for _, a := range as {
				have[a.Prefix] = !a.Tentative
			}
			for _, ip := range tt.addrs {
				if !have[netip.PrefixFrom(ip, ip.BitLen())] {
					t.Errorf("%s is missing or tentative in %v", ip, as)
				}
			}
			checkPodRoutes(t, p, link.Index, tt.routes)
			ns, _ := p.Neighbours(link.Index)
			for _, ip := range tt.neighbours {
				if !slices.Contains(ns, kernel.Neighbour{
					Link: link.Index, IP: ip, MAC: kernel.MAC{0xee, 0xee, 0xee, 0xee, 0xee, 0xee},
				}) {
					t.Errorf("neighbour %s is missing in %v", ip, ns)
				}
			}
			if err := w.net.Check(context.Background(), a, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func checkPodRoutes(t *testing.T, p pod, link int, want []string) {
	t.Helper()
	routes, err := p.Routes(context.Background(), kernel.RouteFilter{})
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, r := range routes {
		if r.Protocol == kernel.ProtocolKernel {
			continue
		}
		if r.Link != link {
			t.Errorf("route %s does not lead out of the pod's interface", r)
		}
		s := r.Dst.String()
		if r.Gateway.IsValid() {
			s += " via " + r.Gateway.String()
		}
		have = append(have, s)
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("routes %q, want %q", have, want)
	}
}

func TestAddSettlesTheNodesEnd(t *testing.T) {
	w := newWorld(t, nil)
	p := w.newPod()
	got := w.add(attachment(p, 1))
	link, err := w.node.LinkByName(hostIf(1))
	if err != nil {
		t.Fatal(err)
	}
	if !link.Up || link.Index != got.HostIndex || link.MTU != 1450 || link.MAC.String() != "ee:ee:ee:ee:ee:ee" ||
		got.HostMAC != "ee:ee:ee:ee:ee:ee" {
		t.Errorf("node's end %+v, attached %+v", link, got)
	}
	for name, want := range map[string]string{
		"ipv4/conf/%/forwarding": "1", "ipv4/conf/%/rp_filter": "1", "ipv4/conf/%/route_localnet": "0",
		"ipv4/conf/%/proxy_arp": "1", "ipv4/neigh/%/proxy_delay": "0", "ipv6/conf/%/forwarding": "1",
		"ipv6/conf/%/accept_ra": "0", "ipv6/conf/%/accept_dad": "0", "ipv6/conf/%/disable_ipv6": "0",
		"ipv6/conf/%/proxy_ndp": "1",
	} {
		name = strings.Replace(name, "%", hostIf(1), 1)
		if have, err := w.node.Sysctl(name); err != nil || have != want {
			t.Errorf("%s = %q, %v, want %s", name, have, err, want)
		}
	}
	as, _ := w.node.Addresses(link.Index)
	gateway := netip.MustParsePrefix("fe80::ecee:eeff:feee:eeee/64")
	if !slices.ContainsFunc(as, func(a kernel.Address) bool { return a.Prefix == gateway && !a.Tentative }) {
		t.Errorf("the node's end does not own the pod's IPv6 gateway: %v", as)
	}
	routes, _ := w.node.Routes(context.Background(), kernel.RouteFilter{Family: kernel.IPv6})
	if !slices.ContainsFunc(routes, func(r kernel.Route) bool { return r.Dst == gateway.Masked() && r.Link == link.Index }) {
		t.Errorf("no route to the pod's link-local addresses: %v", routes)
	}
}

func TestIPv4PodHasNoIPv6OnTheNodesEnd(t *testing.T) {
	w := newWorld(t, nil)
	a := attachment(w.newPod(), 1)
	a.Addrs = addrs("10.65.0.1")
	got := w.add(a)
	if as, err := w.node.Addresses(got.HostIndex); err != nil || len(as) != 0 {
		t.Errorf("addresses %v, %v", as, err)
	}
}

func TestAddUsesTheMACAddressGiven(t *testing.T) {
	w := newWorld(t, nil)
	p := w.newPod()
	a := attachment(p, 1)
	a.MAC = "02:00:00:00:00:07"
	if got := w.add(a); got.PodMAC != a.MAC {
		t.Errorf("attached %+v", got)
	}
	if l, err := p.LinkByName(ifName); err != nil || l.MAC.String() != a.MAC {
		t.Errorf("pod's end %+v, %v", l, err)
	}
}

func TestForwardingInThePodIsAsAsked(t *testing.T) {
	for _, allow := range []bool{false, true} {
		w := newWorld(t, nil)
		p := w.newPod()
		before := "1"
		if allow {
			before = "0"
		}
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := p.SetSysctl(name, before); err != nil {
				t.Fatal(err)
			}
		}
		a := attachment(p, 1)
		a.AllowIPForwarding = allow
		w.add(a)
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if v, err := p.Sysctl(name); err != nil || (v == "1") != allow {
				t.Errorf("allow %v: %s = %s, %v", allow, name, v, err)
			}
		}
	}
}

// TestPodHasTheQueuesAskedFor, each way and at both ends; one without a wish.
func TestPodHasTheQueuesAskedFor(t *testing.T) {
	w := newWorld(t, nil)
	for i, tc := range []struct{ asked, want int }{{0, 1}, {3, 3}} {
		p, n := w.newPod(), i+1
		a := attachment(p, n)
		a.NumQueues = tc.asked
		w.add(a)
		for device, ns := range map[string]*kernel.Netns{a.IfName: p.ns, a.HostIf: w.ns} {
			var out []byte
			err := ns.Do(func() (err error) {
				out, err = exec.Command("ip", "-d", "link", "show", "dev", device).CombinedOutput()
				return err
			})
			want := fmt.Sprintf(" numtxqueues %d ", tc.want)
			if both := strings.Replace(want, "tx", "rx", 1); err != nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), both) {
				t.Errorf("%d queues asked for: %v, want%sof\n%s", tc.asked, err, want, out)
			}
		}
	}
}

func TestPodWhoseIPv6WasSwitchedOffGetsIt(t *testing.T) {
	w := newWorld(t, nil)
	p := w.newPod()
	for _, name := range []string{"ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6"} {
		if err := p.SetSysctl(name, "1"); err != nil {
			t.Fatal(err)
		}
	}
	a := attachment(p, 1)
	w.add(a)
	if err := w.net.Check(context.Background(), a, nil); err != nil {
		t.Error(err)
	}
}

func TestRepeatedAddCompletesTheSameAttachment(t *testing.T) {
	w := newWorld(t, nil)
	p := w.newPod()
	a := attachment(p, 1)
	first := w.add(a)
	// What an ADD that was killed half way, or an accident, leaves to do.
	link, _ := p.LinkByName(ifName)
	for _, err := range []error{
		p.SetDown(link.Index),
		p.AddAddress(link.Index, netip.MustParsePrefix("10.65.0.99/32")),
		w.node.SetDown(first.HostIndex),
		w.node.SetMTU(first.HostIndex, 1400),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	second, err := w.net.Add(context.Background(), a)
	if err != nil {
		t.Fatal(err)
	}
	if second != first {
		t.Errorf("attached %+v, before %+v", second, first)
	}
	if err := w.net.Check(context.Background(), a, nil); err != nil {
		t.Error(err)
	}
	as, _ := p.Addresses(link.Index)
	if slices.ContainsFunc(as, func(a kernel.Address) bool { return a.Prefix.Addr() == netip.MustParseAddr("10.65.0.99") }) {
		t.Error("an address of before is still there")
	}
}

func TestNewSandboxTakesTheNameFromTheOldOne(t *testing.T) {
	w := newWorld(t, nil)
	old, young := w.newPod(), w.newPod()
	first := w.add(attachment(old, 1))
	second, err := w.net.Add(context.Background(), attachment(young, 1))
	if err != nil {
		t.Fatal(err)
	}
	if second.HostIndex == first.HostIndex {
		t.Error("the old sandbox's device was taken over")
	}
	if l, err := w.node.LinkByIndex(first.HostIndex); err == nil && (l.Up || l.Name == hostIf(1)) {
		t.Errorf("the old sandbox's device is still in service: %+v", l)
	}
	if err := w.net.Check(context.Background(), attachment(young, 1), nil); err != nil {
		t.Error(err)
	}
}

func TestAddRefusesAnInterfaceOfAnotherNetwork(t *testing.T) {
	w := newWorld(t, nil)
	p := w.newPod()
	if _, err := p.CreateVeth(kernel.VethSpec{Host: ifName, Peer: "other"}); err != nil {
		t.Fatal(err)
	}
	before := w.picture(p.Handle)
	_, err := w.net.Add(context.Background(), attachment(p, 1))
	if !errors.Is(err, podnet.ErrInterfaceExists) || !strings.Contains(err.Error(), ifName) {
		t.Errorf("error %v", err)
	}
	if after := w.picture(p.Handle); after != before {
		t.Errorf("pod before:\n%safter:\n%s", before, after)
	}
	if got := w.links(w.node); !slices.Equal(got, []string{"lo"}) {
		t.Errorf("left on the node: %v", got)
	}
}

func TestAddRightAfterDelOfAnotherInterfaceOfThePodWorks(t *testing.T) {
	w := newWorld(t, nil) // without its Run: the device waits for its deletion
	p := w.newPod()
	for n, name := range []string{"eth0", "net1", "eth0", "net2"} {
		a := attachment(p, n+1)
		a.IfName = name
		w.add(a)
		if err := w.net.Check(context.Background(), a, nil); err != nil {
			t.Fatal(err)
		}
		if err := w.net.Remove(context.Background(), hostIf(n+1)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAddRefusesASecondDefaultRoute(t *testing.T) {
	w := newWorld(t, nil)
	p := w.newPod()
	w.add(attachment(p, 1))
	a := attachment(p, 2)
	a.IfName = "net1"
	_, err := w.net.Add(context.Background(), a)
	if !errors.Is(err, podnet.ErrInterfaceExists) {
		t.Errorf("error %v", err)
	}
	if err := w.net.Check(context.Background(), attachment(p, 1), nil); err != nil {
		t.Errorf("the first attachment was harmed: %v", err)
	}
	if got := w.links(p.Handle); !slices.Equal(got, []string{ifName, "lo"}) {
		t.Errorf("left in the pod: %v", got)
	}
}

func TestAddRefusesAForeignDeviceOfItsName(t *testing.T) {
	w := newWorld(t, nil)
	made := w.ns.Do(func() error { return makeBridge(hostIf(1)) })
	if made != nil {
		t.Fatal(made)
	}
	_, err := w.net.Add(context.Background(), attachment(w.newPod(), 1))
	if !errors.Is(err, podnet.ErrInterfaceExists) || !strings.Contains(err.Error(), "bridge") {
		t.Errorf("error %v", err)
	}
	if err := w.net.Remove(context.Background(), hostIf(1)); !errors.Is(err, podnet.ErrInterfaceExists) {
		t.Errorf("remove: %v", err)
	}
	if got := w.links(w.node); !slices.Contains(got, hostIf(1)) {
		t.Errorf("the foreign device is gone: %v", got)
	}
}

func TestAddRefusesWhatIsNoPodNamespace(t *testing.T) {
	w := newWorld(t, nil)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	own, err := w.node.Netns()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	for name, path := range map[string]string{
		"empty": "", "missing": filepath.Join(t.TempDir(), "none"), "a file": file,
		"another kind": "/proc/self/ns/uts",
		"the node's":   pod{ns: own}.fd(),
	} {
		a := attachment(pod{path: path}, 1)
		_, err := w.net.Add(context.Background(), a)
		if !errors.Is(err, podnet.ErrNoNetns) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: several lines: %q", name, err)
		}
	}
	if got := w.links(w.node); !slices.Equal(got, []string{"lo"}) {
		t.Errorf("left on the node: %v", got)
	}
}

func TestAddRefusesABadAttachment(t *testing.T) {
	w := newWorld(t, nil)
	p := w.newPod()
	for name, spoil := range map[string]func(*podnet.Attachment){
		"no address":           func(a *podnet.Attachment) { a.Addrs = nil },
		"multicast":            func(a *podnet.Attachment) { a.Addrs = addrs("ff02::1") },
		"small MTU":            func(a *podnet.Attachment) { a.MTU = 1000 },
		"huge MTU":             func(a *podnet.Attachment) { a.MTU = 70000 },
		"the loopback":         func(a *podnet.Attachment) { a.IfName = "lo" },
		"long name":            func(a *podnet.Attachment) { a.IfName = "0123456789abcdef" },
		"somebody else's name": func(a *podnet.Attachment) { a.HostIf = "eth0" },
		"name with capitals":   func(a *podnet.Attachment) { a.HostIf = "cali0000000000A" },
		"multicast MAC":        func(a *podnet.Attachment) { a.MAC = "01:00:00:00:00:00" },
		"the node's MAC":       func(a *podnet.Attachment) { a.MAC = "ee:ee:ee:ee:ee:ee" },
		"EUI-64":               func(a *podnet.Attachment) { a.MAC = "02:00:00:00:00:00:00:01" },
		"negative queues":      func(a *podnet.Attachment) { a.NumQueues = -1 },
	} {
		a := attachment(p, 1)
		spoil(&a)
		if _, err := w.net.Add(context.Background(), a); !errors.Is(err, podnet.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := w.links(w.node); !slices.Equal(got, []string{"lo"}) {
		t.Errorf("left on the node: %v", got)
	}
}

// ends are those of a pair, and who reaches them.
type ends struct {
	node, pod  *kernel.Handle
	host, peer int
}

func TestCheckNamesEachDifference(t *testing.T) {
	for name, tt := range map[string]struct {
		harm func(e ends) error
		says []string
	}{
		"address": {
			func(e ends) error { return e.pod.DeleteAddress(e.peer, netip.MustParsePrefix("10.65.0.1/32")) },
			[]string{"10.65.0.1"},
		},
		"neighbour": {
			func(e ends) error { return e.pod.DeleteNeighbour(e.peer, netip.MustParseAddr("169.254.1.1")) },
			[]string{"neighbour 169.254.1.1"},
		},
		"down": {
			func(e ends) error { return e.pod.SetDown(e.peer) },
			[]string{"eth0 is down", "default via 169.254.1.1", "169.254.1.1/32"},
		},
		"MTU": {func(e ends) error { return e.pod.SetMTU(e.peer, 1400) }, []string{"MTU 1400 instead of 1450"}},
		"MAC": {
			func(e ends) error { return e.pod.SetMAC(e.peer, kernel.MAC{2, 0, 0, 0, 0, 8}) },
			[]string{"02:00:00:00:00:08"},
		},
		"host MTU": {func(e ends) error { return e.node.SetMTU(e.host, 1400) }, []string{hostIf(1), "MTU 1400"}},
		"host MAC": {
			func(e ends) error { return e.node.SetMAC(e.host, kernel.MAC{2, 0, 0, 0, 0, 8}) },
			[]string{"instead of ee:ee:ee:ee:ee:ee"},
		},
		"host down": {func(e ends) error { return e.node.SetDown(e.host) }, []string{hostIf(1) + " is down"}},
		"host name": {func(e ends) error { return e.node.Rename(e.host, "other") }, []string{hostIf(1) + " is missing"}},
		"gone":      {func(e ends) error { return e.node.DeleteLink(e.host) }, []string{"interface eth0 is missing", hostIf(1)}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			p := w.newPod()
			a := attachment(p, 1)
			a.MAC = "02:00:00:00:00:07"
			host := w.add(a).HostIndex
			link, err := p.LinkByName(ifName)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.net.Check(context.Background(), a, nil); err != nil {
				t.Fatalf("before: %v", err)
			}
			if err := tt.harm(ends{node: w.node, pod: p.Handle, host: host, peer: link.Index}); err != nil {
				t.Fatal(err)
			}
			err = w.net.Check(context.Background(), a, nil)
			var drift *podnet.DriftError
			if !errors.As(err, &drift) {
				t.Fatalf("error %v", err)
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
			if name == "host name" {
				return // then it is no longer known to be ours
			}
			// A repeated ADD is the cure.
			if _, err := w.net.Add(context.Background(), a); err != nil {
				t.Fatal(err)
			}
			if err := w.net.Check(context.Background(), a, nil); err != nil {
				t.Errorf("after another ADD: %v", err)
			}
		})
	}
}

func TestEnsureForwardingKeepsLearnedRoutes(t *testing.T) {
	kerneltest.Require(t, kerneltest.IPv6, kerneltest.Veth)
	node := kerneltest.New(t)
	for _, s := range []kernel.Setting{
		{Name: "ipv4/ip_forward", Value: "0"},
		{Name: "ipv6/conf/all/forwarding", Value: "0"},
		{Name: "ipv6/conf/default/accept_ra", Value: "1"},
	} {
		if err := node.SetSysctl(s.Name, s.Value); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := node.CreateVeth(kernel.VethSpec{Host: "uplink", Peer: "off"}); err != nil {
		t.Fatal(err)
	}
	if err := node.SetSysctl("ipv6/conf/off/accept_ra", "0"); err != nil {
		t.Fatal(err)
	}
	if err := podnet.EnsureForwarding(node); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
		"ipv6/conf/uplink/accept_ra": "2", "ipv6/conf/off/accept_ra": "0",
	} {
		if have, err := node.Sysctl(name); err != nil || have != want {
			t.Errorf("%s = %s, %v, want %s", name, have, err, want)
		}
	}
}

// TestPodWithoutIPv6TakesAnMTUThatIPv6DoesNot: the kernel has no settings of IPv6 for it.
func TestPodWithoutIPv6TakesAnMTUThatIPv6DoesNot(t *testing.T) {
	for _, mtu := range []int{68, 576, 1279, 1280} {
		t.Run(strconv.Itoa(mtu), func(t *testing.T) {
			w := newWorld(t, nil)
			p := w.newPod()
			a := attachment(p, 1)
			a.Addrs, a.MTU = addrs("10.65.0.1"), mtu
			if got := w.add(a); got.MTU != mtu {
				t.Errorf("attached %+v", got)
			}
			if err := w.net.Check(context.Background(), a, nil); err != nil {
				t.Error(err)
			}
			if mended, err := w.net.Mend(a); len(mended) > 0 || err != nil {
				t.Errorf("mended %q, %v", mended, err)
			}
		})
	}
}
