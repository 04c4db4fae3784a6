package nat

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"sigs.k8s.io/knftables"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

// The addresses of the little world: two pods behind a node, and a host outside
// that knows the way to the node and to the pods.
const (
	podA, podB          = "10.65.0.2", "10.66.0.2"
	podA6, podB6        = "fd00:65::2", "fd00:66::2"
	nodeOut, outside    = "192.0.2.1", "192.0.2.2"
	nodeOut6, outside6  = "2001:db8::1", "2001:db8::2"
	node2, node26       = "192.0.2.3", "2001:db8::3" // another node of the cluster
	gateway4, gateway6  = "169.254.1.1", "fe80::ecee:eeff:feee:eeee"
	packetWait          = 5 * time.Second
	payload             = "who am I?"
	echoPort            = 7
	masqueradedPools    = "10.65.0.0/16"
	otherPool           = "10.66.0.0/16"
	masqueradedPoolIPv6 = "fd00:65::/64"
	otherPoolIPv6       = "fd00:66::/64"
)

type world struct {
	node, podA, podB, outside *kernel.Netns
}

func newWorld(t *testing.T) world {
	t.Helper()
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6, kerneltest.Nftables, kerneltest.NftNAT)
	w := world{
		node: kerneltest.NewNetns(t), podA: kerneltest.NewNetns(t),
		podB: kerneltest.NewNetns(t), outside: kerneltest.NewNetns(t),
	}
	node := kerneltest.Open(t, w.node)
	check(t, node.SetSysctls([]kernel.Setting{
		{Name: "ipv4/conf/all/forwarding", Value: "1"},
		{Name: "ipv6/conf/all/forwarding", Value: "1"},
		// No wait for the link-local addresses that neighbours are asked from.
		{Name: "ipv6/conf/default/accept_dad", Value: "0"},
	}))
	w.wirePod(t, node, "cali0", w.podA, podA, podA6)
	w.wirePod(t, node, "cali1", w.podB, podB, podB6)

	out := kerneltest.Open(t, w.outside)
	check(t, out.SetSysctl("ipv6/conf/default/accept_dad", "0"))
	up, err := node.CreateVeth(kernel.VethSpec{Host: "eth0", Peer: "eth0", PeerNetns: w.outside})
	check(t, err)
	check(t, out.SetUp(up.PeerIndex))
	check(t, node.AddAddress(up.Index, netip.MustParsePrefix(nodeOut+"/24")))
	check(t, node.AddAddress(up.Index, netip.MustParsePrefix(nodeOut6+"/64")))
	check(t, out.AddAddress(up.PeerIndex, netip.MustParsePrefix(outside+"/24")))
	check(t, out.AddAddress(up.PeerIndex, netip.MustParsePrefix(outside6+"/64")))
	check(t, out.AddAddress(up.PeerIndex, netip.MustParsePrefix(node2+"/24")))
	check(t, out.AddAddress(up.PeerIndex, netip.MustParsePrefix(node26+"/64")))
	for dst, via := range map[string]string{"10.64.0.0/14": nodeOut, "fd00::/16": nodeOut6} {
		check(t, out.AddRoute(kernel.Route{
			Dst: netip.MustParsePrefix(dst), Protocol: kernel.ProtocolStatic, Link: up.PeerIndex,
			Gateway: netip.MustParseAddr(via),
		}))
	}
	return w
}

// wirePod does by hand what felix does for a pod.
func (w world) wirePod(t *testing.T, node *kernel.Handle, name string, ns *kernel.Netns, ip4, ip6 string) {
	t.Helper()
	mac := kernel.MAC{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}
	host, err := node.CreateVeth(kernel.VethSpec{Host: name, HostMAC: mac, Peer: "eth0", PeerNetns: ns})
	check(t, err)
	pod := kerneltest.Open(t, ns)
	eth0 := host.PeerIndex
	peer, err := pod.LinkByIndex(eth0)
	check(t, err)
	check(t, pod.SetUp(eth0))
	for _, ip := range []string{ip4, ip6} {
		addr := netip.MustParseAddr(ip)
		check(t, pod.AddAddress(eth0, netip.PrefixFrom(addr, addr.BitLen())))
		check(t, node.AddRoute(kernel.Route{
			Dst: netip.PrefixFrom(addr, addr.BitLen()), Protocol: kernel.ProtocolFelix, Link: host.Index,
		}))
		check(t, node.SetNeighbour(kernel.Neighbour{Link: host.Index, IP: addr, MAC: peer.MAC}))
	}
	for gw, dst := range map[string]string{gateway4: "0.0.0.0/0", gateway6: "::/0"} {
		check(t, pod.SetNeighbour(kernel.Neighbour{Link: eth0, IP: netip.MustParseAddr(gw), MAC: mac}))
		check(t, pod.AddRoute(kernel.Route{
			Dst: netip.MustParsePrefix(dst), Protocol: kernel.ProtocolBoot, Link: eth0,
			Gateway: netip.MustParseAddr(gw), OnLink: true,
		}))
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// seenAs sends a packet from one namespace to an address of another and returns
// the source that the receiver sees.
func seenAs(t *testing.T, from *kernel.Netns, source string, to *kernel.Netns, dest string) string {
	t.Helper()
	var receiver, sender *net.UDPConn
	check(t, to.Do(func() (err error) {
		receiver, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(dest), Port: echoPort})
		return err
	}))
	defer receiver.Close()
	check(t, from.Do(func() (err error) {
		sender, err = net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(source)}, &net.UDPAddr{IP: net.ParseIP(dest), Port: echoPort})
		return err
	}))
	defer sender.Close()
	if _, err := sender.Write([]byte(payload)); err != nil {
		t.Fatal(err)
	}
	check(t, receiver.SetReadDeadline(time.Now().Add(packetWait)))
	buf := make([]byte, 64)
	n, src, err := receiver.ReadFromUDPAddrPort(buf)
	check(t, err)
	if string(buf[:n]) != payload {
		t.Errorf("received %q", buf[:n])
	}
	// The answer has to find its way back to the sender, whoever it seems to be.
	_, err = receiver.WriteToUDPAddrPort([]byte("answer"), src)
	check(t, err)
	check(t, sender.SetReadDeadline(time.Now().Add(packetWait)))
	if _, err := sender.Read(buf); err != nil {
		t.Errorf("no answer came back from %s: %v", dest, err)
	}
	return src.Addr().Unmap().String()
}

// inNode runs an Apply where the node is.
func (w world) inNode(t *testing.T, f func(context.Context) error) {
	t.Helper()
	check(t, w.node.Do(func() error { return f(t.Context()) }))
}

func podState() State {
	return State{
		MasqueradeCIDRs: prefixes(masqueradedPools, masqueradedPoolIPv6),
		ExemptCIDRs:     prefixes(masqueradedPools, otherPool, masqueradedPoolIPv6, otherPoolIPv6, node2+"/32", node26+"/128"),
	}
}

// sight is what the receiver of a packet is to see of its source.
type sight struct {
	name         string
	from         *kernel.Netns
	source       string
	to           *kernel.Netns
	dest, seenAs string
}

func wantSeen(t *testing.T, sights []sight) {
	t.Helper()
	for _, c := range sights {
		t.Run(c.name, func(t *testing.T) {
			if got := seenAs(t, c.from, c.source, c.to, c.dest); got != c.seenAs {
				t.Errorf("the receiver sees %s, want %s", got, c.seenAs)
			}
		})
	}
}

func TestOnlyTrafficThatLeavesTheClusterIsMasqueraded(t *testing.T) {
	w := newWorld(t)
	m := New(Config{})
	m.Set(podState())
	w.inNode(t, m.Apply)
	wantSeen(t, []sight{
		{"pod to outside", w.podA, podA, w.outside, outside, nodeOut},
		{"pod of a pool without natOutgoing to outside", w.podB, podB, w.outside, outside, podB},
		{"pod to pod of another pool", w.podA, podA, w.podB, podB, podA},
		{"pod to its node", w.podA, podA, w.node, nodeOut, podA},
		{"pod to another node", w.podA, podA, w.outside, node2, podA},
		{"IPv6 pod to another node", w.podA, podA6, w.outside, node26, podA6},
		{"node to pod", w.node, nodeOut, w.podA, podA, nodeOut},
		{"outside to pod", w.outside, outside, w.podA, podA, outside},
		{"IPv6 pod to outside", w.podA, podA6, w.outside, outside6, nodeOut6},
		{"IPv6 pod of a pool without natOutgoing to outside", w.podB, podB6, w.outside, outside6, podB6},
		{"IPv6 pod to pod of another pool", w.podA, podA6, w.podB, podB6, podA6},
	})
}

func TestMasqueradingFollowsTheState(t *testing.T) {
	w := newWorld(t)
	m := New(Config{})
	for _, step := range []struct {
		name   string
		do     func(context.Context) error
		seenAs string
	}{
		{"nothing desired", m.Apply, podA},
		{"pool has natOutgoing", func(ctx context.Context) error { m.Set(podState()); return m.Apply(ctx) }, nodeOut},
		{"destination becomes a pool", func(ctx context.Context) error {
			s := podState()
			s.ExemptCIDRs = append(s.ExemptCIDRs, netip.MustParsePrefix("192.0.2.0/24"))
			m.Set(s)
			return m.Apply(ctx)
		}, podA},
		{"and is one no more", func(ctx context.Context) error { m.Set(podState()); return m.Apply(ctx) }, nodeOut},
		{"cleaned up", m.Cleanup, podA},
		{"applied again", m.Apply, nodeOut},
		{"pool has it no more", func(ctx context.Context) error { m.Set(State{}); return m.Apply(ctx) }, podA},
	} {
		w.inNode(t, step.do)
		if got := seenAs(t, w.podA, podA, w.outside, outside); got != step.seenAs {
			t.Errorf("%s: the receiver sees %s, want %s", step.name, got, step.seenAs)
		}
	}
}

// TestNodesBehindATunnelSeeTheNode: the packet itself goes outside of the tunnel.
func TestNodesBehindATunnelSeeTheNode(t *testing.T) {
	w := newWorld(t)
	m := New(Config{})
	s := podState()
	s.TunnelPools, s.TunnelNodes = prefixes(masqueradedPools, masqueradedPoolIPv6), prefixes(node2+"/32", node26+"/128")
	m.Set(s)
	w.inNode(t, m.Apply)
	wantSeen(t, []sight{
		{"pod to the node behind the tunnel", w.podA, podA, w.outside, node2, nodeOut},
		{"pod of a pool without natOutgoing to it", w.podB, podB, w.outside, node2, podB},
		{"pod to pod of another pool", w.podA, podA, w.podB, podB, podA},
		{"pod to its node", w.podA, podA, w.node, nodeOut, podA},
		{"IPv6 pod to the node behind the tunnel", w.podA, podA6, w.outside, node26, nodeOut6},
	})
}

func TestResyncMendsTheRealTable(t *testing.T) {
	w := newWorld(t)
	m := New(Config{})
	m.Set(podState())
	w.inNode(t, m.Apply)
	for _, c := range []struct {
		name   string
		damage func(*knftables.Transaction)
	}{
		{"table deleted", func(tx *knftables.Transaction) { tx.Delete(&knftables.Table{}) }},
		{"rules flushed", func(tx *knftables.Transaction) { tx.Flush(&knftables.Chain{Name: chainName}) }},
		{"every address declared a pool", func(tx *knftables.Transaction) {
			tx.Flush(&knftables.Set{Name: "exempt-ipv4"})
			addElements(tx, "exempt-ipv4", prefixes("0.0.0.0/1", "128.0.0.0/1"))
		}},
		{"chain hooked elsewhere", func(tx *knftables.Transaction) {
			tx.Delete(&knftables.Chain{Name: chainName})
			tx.Add(&knftables.Chain{
				Name: chainName, Type: knftables.PtrTo(knftables.FilterType),
				Hook: knftables.PtrTo(knftables.InputHook), Priority: knftables.PtrTo(knftables.FilterPriority),
			})
		}},
		{"set of another type", func(tx *knftables.Transaction) {
			tx.Delete(&knftables.Chain{Name: chainName})
			tx.Delete(&knftables.Set{Name: "exempt-ipv4"})
			tx.Add(&knftables.Set{Name: "exempt-ipv4", Type: "ether_addr"})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.inNode(t, func(ctx context.Context) error {
				nft, err := knftables.New(family, tableName)
				if err != nil {
					return err
				}
				tx := nft.NewTransaction()
				c.damage(tx)
				return nft.Run(ctx, tx)
			})
			if got := seenAs(t, w.podA, podA, w.outside, outside); got != podA {
				t.Fatalf("the damage does nothing: the receiver sees %s", got)
			}
			m.QueueResync()
			w.inNode(t, m.Apply)
			if got := seenAs(t, w.podA, podA, w.outside, outside); got != nodeOut {
				t.Errorf("not mended: the receiver sees %s", got)
			}
		})
	}
}

func TestRestartTakesOverTheTable(t *testing.T) {
	w := newWorld(t)
	for range 2 {
		m := New(Config{})
		m.Set(podState())
		w.inNode(t, m.Apply)
	}
	w.inNode(t, func(ctx context.Context) error {
		nft, err := knftables.New(family, tableName)
		if err != nil {
			return err
		}
		rules, err := nft.ListRules(ctx, chainName)
		if len(rules) != 4 {
			return errors.Join(err, errors.New("there are not just the four rules, two for each version of IP"))
		}
		return err
	})
	// A restart with nothing desired removes what the former life left.
	w.inNode(t, New(Config{}).Apply)
	if got := seenAs(t, w.podA, podA, w.outside, outside); got != podA {
		t.Errorf("still masqueraded: the receiver sees %s", got)
	}
}

func TestWholeAddressSpaceIsAValidPool(t *testing.T) {
	w := newWorld(t)
	m := New(Config{})
	m.Set(State{MasqueradeCIDRs: prefixes("0.0.0.0/0", "::/0", "10.1.2.3/32")})
	w.inNode(t, m.Apply)
	if got := seenAs(t, w.podA, podA, w.outside, outside); got != podA {
		t.Errorf("the receiver sees %s, want %s: every destination is in a pool", got, podA)
	}
}
