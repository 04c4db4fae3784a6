package sources

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/kernel/kerneltest/podworld"
)

const patience = 5 * time.Second

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestElements(t *testing.T) {
	for _, tc := range []struct {
		name  string
		state State
		want  ruleset.Contents
	}{
		{"nothing", State{}, ruleset.Contents{}},
		{"both versions, sorted, without overlaps", State{Allowed: map[string][]netip.Prefix{
			"cali1": prefixes("10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32"), "cali0": prefixes("10.0.0.0/8"),
		}}, ruleset.Contents{
			"allowed-sources-ipv4": {"cali0 . 10.0.0.0/8", "cali1 . 10.0.0.0/8", "cali1 . 192.0.2.7"},
			"allowed-sources-ipv6": {"cali1 . 2001:db8::/32"},
		}},
		{"pods that are routers", State{Routers: []string{"cali1", "cali0"}, Cluster: prefixes("10.65.0.0/16", "fd00::/16")}, ruleset.Contents{
			"router-pods": {"cali0", "cali1"}, "cluster-ipv6": {"fd00::/16"},
		}},
		{"tunnels", State{VXLANPort: 4789, NoIPIP: true}, ruleset.Contents{"tunnel-ports": {"4789"}, "tunnel-protocols": {"4"}}},
	} {
		got := contentsOf(tc.state)
		for name, list := range got {
			if len(list) == 0 {
				delete(got, name)
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

// world is a node whose kernel checks nothing by itself, and what arrives at pod B and
// outside.
type world struct {
	podworld.World
	t     *testing.T
	node  *kernel.Handle
	guard *Guard
}

func newWorld(t *testing.T) *world {
	w := &world{World: podworld.New(t), t: t, guard: New(Config{})}
	w.node = kerneltest.Open(t, w.Node)
	for _, name := range []string{"all", "cali0", "cali1", "eth0"} {
		podworld.Check(t, w.node.SetSysctl("ipv4/conf/"+name+"/rp_filter", "0"))
	}
	// Devices that were just switched on may lose datagrams; TCP tries again.
	for _, to := range []string{podworld.PodB, podworld.PodB6, podworld.Outside, podworld.Outside6} {
		podworld.Check(t, w.PodA.Do(func() error {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(to, "9"), patience)
			if err == nil {
				_ = c.Close()
			}
			if errors.Is(err, syscall.ECONNREFUSED) {
				return nil
			}
			return fmt.Errorf("%s can't be reached: %w", to, err)
		}))
	}
	return w
}

func (w *world) apply(s State) {
	w.t.Helper()
	w.guard.Set(s)
	w.InNode(w.t, w.guard.Apply)
}

// arrives sends a datagram out of pod A from a source, which the pod takes for its own,
// and behind it one from its real address; it reports whether the first arrived.
func (w *world) arrives(source, at string, in *kernel.Netns) bool {
	w.t.Helper()
	pod := kerneltest.Open(w.t, w.PodA)
	eth0, err := pod.LinkByName("eth0")
	podworld.Check(w.t, err)
	from := netip.MustParseAddr(source)
	honest := podworld.PodA
	if from.Is6() {
		honest = podworld.PodA6
	}
	if source != honest {
		prefix := netip.PrefixFrom(from, from.BitLen())
		podworld.Check(w.t, pod.AddAddress(eth0.Index, prefix))
		defer func() { podworld.Check(w.t, pod.DeleteAddress(eth0.Index, prefix)) }()
	}
	var to net.PacketConn
	podworld.Check(w.t, in.Do(func() (err error) {
		to, err = net.ListenPacket("udp", net.JoinHostPort(at, "0"))
		return err
	}))
	defer to.Close()
	send(w.t, w.PodA, source, to.LocalAddr().String(), "first")
	send(w.t, w.PodA, honest, to.LocalAddr().String(), "second")
	podworld.Check(w.t, to.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 16)
	n, _, err := to.ReadFrom(buf)
	podworld.Check(w.t, err)
	return string(buf[:n]) == "first"
}

func send(t *testing.T, ns *kernel.Netns, source, to, text string) {
	t.Helper()
	podworld.Check(t, ns.Do(func() error {
		c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}).Dial("udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte(text))
		return err
	}))
}

// want checks what arrives at pod B and, where it can be answered, outside.
func (w *world) want(arrives bool, sources ...string) {
	w.t.Helper()
	for _, source := range sources {
		there, outside := podworld.PodB, podworld.Outside
		if strings.Contains(source, ":") {
			there, outside = podworld.PodB6, podworld.Outside6
		}
		if got := w.arrives(source, there, w.PodB); got != arrives {
			w.t.Errorf("from %s to pod B: arrives %v, want %v", source, got, arrives)
		}
		if source == outside {
			continue // it doesn't take a packet from itself
		}
		if got := w.arrives(source, outside, w.Outside); got != arrives {
			w.t.Errorf("from %s to the outside: arrives %v, want %v", source, got, arrives)
		}
	}
}

// forged are sources that are not pod A's: nobody's, another pod's or node's, the
// outside's.
func forged() []string {
	return []string{"198.51.100.7", podworld.Node2, podworld.Outside, "2001:db8:7::7", podworld.Node26, podworld.Outside6}
}

func TestPodSendsFromItsOwnAddressAlone(t *testing.T) {
	w := newWorld(t)
	// The kernel doesn't say no by itself. (IPv4 is what rp_filter, off here, is for.)
	w.want(true, "198.51.100.7", "2001:db8:7::7")
	w.apply(State{})
	w.want(false, forged()...)
	w.want(true, podworld.PodA, podworld.PodA6)
	for _, other := range []string{podworld.PodB, podworld.PodB6} {
		outside := podworld.Outside
		if strings.Contains(other, ":") {
			outside = podworld.Outside6
		}
		if w.arrives(other, outside, w.Outside) {
			t.Errorf("from the other pod's %s it arrives outside", other)
		}
	}
	for _, own := range []string{podworld.NodeOut, podworld.NodeOut6} {
		there := podworld.PodB
		if strings.Contains(own, ":") {
			there = podworld.PodB6
		}
		if w.arrives(own, there, w.PodB) {
			t.Errorf("from the node's own %s it arrives", own)
		}
	}
}

// TestPodMaySendAsLongAsItsRouteStands: an ADD has nothing to write here.
func TestPodMaySendAsLongAsItsRouteStands(t *testing.T) {
	w := newWorld(t)
	w.apply(State{})
	link, err := w.node.LinkByName("cali0")
	podworld.Check(t, err)
	for _, second := range []string{"10.65.0.9", "fd00:65::9"} {
		w.want(false, second)
		addr := netip.MustParseAddr(second)
		route := kernel.Route{Dst: netip.PrefixFrom(addr, addr.BitLen()), Protocol: kernel.ProtocolFelix, Link: link.Index}
		podworld.Check(t, w.node.AddRoute(route))
		w.want(true, second)
		podworld.Check(t, w.node.DeleteRoute(route))
		w.want(false, second)
	}
}

// TestPodThatIsARouterSendsFromBehindIt: bgpd has a route to what a pod announces.
func TestPodThatIsARouterSendsFromBehindIt(t *testing.T) {
	w := newWorld(t)
	w.apply(State{})
	link, err := w.node.LinkByName("cali0")
	podworld.Check(t, err)
	for behind, via := range map[string]string{"198.51.100.0/24": podworld.PodA, "2001:db8:7::/48": podworld.PodA6} {
		podworld.Check(t, w.node.AddRoute(kernel.Route{
			Dst: netip.MustParsePrefix(behind), Protocol: kernel.ProtocolBGP, Link: link.Index, Gateway: netip.MustParseAddr(via), OnLink: true,
		}))
	}
	w.want(true, "198.51.100.7", "2001:db8:7::7")
}

// TestPodsThatAnnounceOneNetworkBothSendFromIt: of an IPv6 route with several next hops
// the kernel chooses one by the packet, when it looks for the way to its source.
func TestPodsThatAnnounceOneNetworkBothSendFromIt(t *testing.T) {
	w := newWorld(t)
	w.apply(State{Routers: []string{"cali0", "cali1"}, Cluster: prefixes("fd00::/16", podworld.Node26+"/128")})
	var hops []kernel.NextHop
	for device, via := range map[string]string{"cali0": podworld.PodA6, "cali1": podworld.PodB6} {
		link, err := w.node.LinkByName(device)
		podworld.Check(t, err)
		hops = append(hops, kernel.NextHop{Link: link.Index, Gateway: netip.MustParseAddr(via)})
	}
	podworld.Check(t, w.node.AddRoute(kernel.Route{
		Dst: netip.MustParsePrefix("2001:db8:7::/48"), Protocol: kernel.ProtocolBGP, NextHops: kernel.NewNextHops(hops...),
	}))
	for i := range 12 {
		if source := fmt.Sprintf("2001:db8:7::%d", i+1); !w.arrives(source, podworld.Outside6, w.Outside) {
			t.Errorf("from %s it does not arrive", source)
		}
	}
	for _, source := range []string{podworld.Node26, podworld.NodeOut6} {
		if w.arrives(source, podworld.PodB6, w.PodB) {
			t.Errorf("from %s, a node's, it arrives", source)
		}
	}
	if w.arrives(podworld.PodB6, podworld.Outside6, w.Outside) {
		t.Error("from the other pod's address it arrives")
	}
}

func TestAllowedSourcesPassByTheirPodAlone(t *testing.T) {
	w := newWorld(t)
	w.apply(State{Allowed: map[string][]netip.Prefix{"cali0": prefixes("198.51.100.0/24", "2001:db8:7::/48", "2001:db8::/64")}})
	w.want(true, podworld.PodA, podworld.PodA6, "198.51.100.7", "2001:db8:7::7")
	w.want(false, "203.0.113.1", "2001:db8:8::1")
	if w.arrives(podworld.NodeOut6, podworld.PodB6, w.PodB) {
		t.Error("from the node's own address it arrives, for that lies in an allowed prefix")
	}
	w.apply(State{Allowed: map[string][]netip.Prefix{"cali1": prefixes("198.51.100.0/24", "2001:db8:7::/48")}})
	w.want(false, "198.51.100.7", "2001:db8:7::7")
}

// TestNeighboursAreFoundAllTheSame: both sides ask, from link-local addresses, and a pod
// asks from :: whether an address is free.
func TestNeighboursAreFoundAllTheSame(t *testing.T) {
	w := newWorld(t)
	w.apply(State{})
	pod := kerneltest.Open(t, w.PodA)
	podworld.Check(t, pod.SetSysctl("ipv6/conf/eth0/accept_dad", "1"))
	for at, ns := range map[string]*kernel.Netns{"cali0": w.Node, "eth0": w.PodA} {
		h := kerneltest.Open(t, ns)
		link, err := h.LinkByName(at)
		podworld.Check(t, err)
		podworld.Check(t, h.SetDown(link.Index))
		podworld.Check(t, h.SetUp(link.Index))
	}
	link, err := w.node.LinkByName("cali0")
	podworld.Check(t, err)
	eth0, err := pod.LinkByName("eth0")
	podworld.Check(t, err)
	// The routes and neighbours went with the devices.
	podworld.Check(t, w.node.AddRoute(kernel.Route{Dst: netip.MustParsePrefix(podworld.PodA6 + "/128"), Protocol: kernel.ProtocolFelix, Link: link.Index}))
	for _, addr := range []string{"fe80::99/64", podworld.PodA6 + "/128"} {
		_ = pod.AddAddress(eth0.Index, netip.MustParsePrefix(addr)) // may be there still
	}
	gateway := netip.MustParseAddr("fe80::1")
	podworld.Check(t, w.node.AddAddress(link.Index, netip.PrefixFrom(gateway, 64)))
	podworld.Check(t, pod.AddRoute(kernel.Route{Dst: netip.MustParsePrefix("::/0"), Protocol: kernel.ProtocolStatic, Link: eth0.Index, Gateway: gateway}))
	if !w.arrives(podworld.PodA6, podworld.PodB6, w.PodB) {
		t.Error("the pod does not find its gateway")
	}
}

// TestNoPodSendsPacketsInATunnel: what is in them would come out of the node's own end,
// from whatever source.
func TestNoPodSendsPacketsInATunnel(t *testing.T) {
	w := newWorld(t)
	for name, networks := range map[string][2]string{"VXLAN": {"udp", "udp"}, "IP in IP": {"ip4:4", "ip4:47"}} {
		at := [2]string{podworld.Outside, podworld.Outside}
		if name == "VXLAN" {
			at = [2]string{podworld.Outside + ":4789", podworld.Outside + ":4790"}
		}
		w.apply(State{})
		if !w.firstArrives(networks, at) {
			t.Errorf("a pod's %s is dropped though that is not asked for", name)
		}
		w.apply(State{VXLANPort: 4789, NoIPIP: true})
		if w.firstArrives(networks, at) {
			t.Errorf("a pod's %s arrives", name)
		}
	}
}

// firstArrives sends two packets from pod A to the outside, of which the second always
// arrives, and reports whether the first did.
func (w *world) firstArrives(networks, at [2]string) bool {
	w.t.Helper()
	var heard [2]net.PacketConn
	for i := range heard {
		podworld.Check(w.t, w.Outside.Do(func() (err error) {
			heard[i], err = net.ListenPacket(networks[i], at[i])
			return err
		}))
		defer heard[i].Close()
	}
	for i := range at {
		podworld.Check(w.t, w.PodA.Do(func() error {
			c, err := net.Dial(networks[i], at[i])
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("E"))
			return err
		}))
	}
	podworld.Check(w.t, heard[1].SetReadDeadline(time.Now().Add(patience)))
	_, _, err := heard[1].ReadFrom(make([]byte, 64))
	podworld.Check(w.t, err)
	// What was sent before the second is here by now.
	podworld.Check(w.t, heard[0].SetReadDeadline(time.Now().Add(time.Millisecond)))
	_, _, err = heard[0].ReadFrom(make([]byte, 64))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatal(err)
	}
	return err == nil
}

func TestDamageIsNamedAndMended(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	w.guard = New(Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	state := State{Allowed: map[string][]netip.Prefix{"cali0": prefixes("198.51.100.0/24", "203.0.113.5/32")}, VXLANPort: 4789, NoIPIP: true}
	w.apply(state)
	for name, c := range map[string]struct {
		damage func(tx *knftables.Transaction)
		says   string
	}{
		"table deleted":     {func(tx *knftables.Transaction) { tx.Delete(&knftables.Table{}) }, "chain pod-sources"},
		"rules flushed":     {func(tx *knftables.Transaction) { tx.Flush(&knftables.Chain{Name: "pod-sources"}) }, "rules of chain pod-sources"},
		"sources taken out": {func(tx *knftables.Transaction) { tx.Flush(&knftables.Set{Name: "allowed-sources-ipv4"}) }, "elements of set allowed-sources-ipv4"},
		"element added": {func(tx *knftables.Transaction) {
			tx.Add(&knftables.Element{Set: "allowed-sources-ipv4", Key: []string{`"cali0"`, "192.0.2.0/24"}})
		}, "elements of set allowed-sources-ipv4"},
	} {
		t.Run(name, func(t *testing.T) {
			w.WantDifferences(t, w.guard.Check, "")
			w.InTable(t, ruleset.Family, ruleset.Table, c.damage)
			w.WantDifferences(t, w.guard.Check, "the rules for what pods may send are not as they should be: "+c.says)
			log.Reset()
			w.guard.QueueResync()
			w.InNode(t, w.guard.Apply)
			w.want(false, podworld.Node2, "2001:db8:7::7")
			w.want(true, "203.0.113.5")
			if !strings.Contains(log.String(), "were mended") || !strings.Contains(log.String(), c.says) {
				t.Errorf("log %q", log.String())
			}
			w.WantDifferences(t, w.guard.Check, "")
		})
	}
}

func TestRestartAndResyncOfWhatIsRightWriteNothing(t *testing.T) {
	w := newWorld(t)
	state := State{Allowed: map[string][]netip.Prefix{"cali0": prefixes("198.51.100.0/24", "203.0.113.5/32", "2001:db8::/32")}, VXLANPort: 4789, NoIPIP: true}
	w.apply(state)
	w.InNode(t, func(ctx context.Context) error {
		next := ruleset.New(nil, shape(), "")
		next.Set(contentsOf(state))
		out, err := next.Apply(ctx)
		if len(out.Differed) > 0 {
			t.Errorf("differed: %v", out.Differed)
		}
		return err
	})
	if rules := shape().Chains[0].Rules; !slices.ContainsFunc(rules, func(r ruleset.Rule) bool { return r.Text == "drop" }) {
		t.Error("nothing is dropped")
	}
}
