package nat

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/kernel/kerneltest/podworld"
)

const (
	packetWait          = 5 * time.Second
	payload             = "who am I?"
	echoPort            = 7
	masqueradedPools    = "10.65.0.0/16"
	otherPool           = "10.66.0.0/16"
	masqueradedPoolIPv6 = "fd00:65::/64"
	otherPoolIPv6       = "fd00:66::/64"
)

// seenAs sends a packet from one namespace to an address of another and returns
// the source that the receiver sees.
func seenAs(t *testing.T, from *kernel.Netns, source string, to *kernel.Netns, dest string) string {
	t.Helper()
	return seenFrom(t, from, source, to, dest).Addr().String()
}

// seenFrom is seenAs with the port.
func seenFrom(t *testing.T, from *kernel.Netns, source string, to *kernel.Netns, dest string) netip.AddrPort {
	t.Helper()
	f := openFlow(t, from, source, to, dest)
	receiver, sender := f.receiver, f.sender
	defer receiver.Close()
	defer sender.Close()
	if _, err := sender.Write([]byte(payload)); err != nil {
		t.Fatal(err)
	}
	podworld.Check(t, receiver.SetReadDeadline(time.Now().Add(packetWait)))
	buf := make([]byte, 64)
	n, src, err := receiver.ReadFromUDPAddrPort(buf)
	podworld.Check(t, err)
	if string(buf[:n]) != payload {
		t.Errorf("received %q", buf[:n])
	}
	// The answer has to find its way back to the sender, whoever it seems to be.
	_, err = receiver.WriteToUDPAddrPort([]byte("answer"), src)
	podworld.Check(t, err)
	podworld.Check(t, sender.SetReadDeadline(time.Now().Add(packetWait)))
	if _, err := sender.Read(buf); err != nil {
		t.Errorf("no answer came back from %s: %v", dest, err)
	}
	return netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
}

func podState() State {
	return State{
		MasqueradeCIDRs: prefixes(masqueradedPools, masqueradedPoolIPv6),
		ExemptCIDRs:     prefixes(masqueradedPools, otherPool, masqueradedPoolIPv6, otherPoolIPv6, podworld.Node2+"/32", podworld.Node26+"/128"),
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
	w := podworld.New(t)
	m := New(Config{})
	m.Set(podState())
	w.InNode(t, m.Apply)
	wantSeen(t, []sight{
		{"pod to outside", w.PodA, podworld.PodA, w.Outside, podworld.Outside, podworld.NodeOut},
		{"pod of a pool without natOutgoing to outside", w.PodB, podworld.PodB, w.Outside, podworld.Outside, podworld.PodB},
		{"pod to pod of another pool", w.PodA, podworld.PodA, w.PodB, podworld.PodB, podworld.PodA},
		{"pod to its node", w.PodA, podworld.PodA, w.Node, podworld.NodeOut, podworld.PodA},
		{"pod to another node", w.PodA, podworld.PodA, w.Outside, podworld.Node2, podworld.PodA},
		{"IPv6 pod to another node", w.PodA, podworld.PodA6, w.Outside, podworld.Node26, podworld.PodA6},
		{"node to pod", w.Node, podworld.NodeOut, w.PodA, podworld.PodA, podworld.NodeOut},
		{"outside to pod", w.Outside, podworld.Outside, w.PodA, podworld.PodA, podworld.Outside},
		{"IPv6 pod to outside", w.PodA, podworld.PodA6, w.Outside, podworld.Outside6, podworld.NodeOut6},
		{"IPv6 pod of a pool without natOutgoing to outside", w.PodB, podworld.PodB6, w.Outside, podworld.Outside6, podworld.PodB6},
		{"IPv6 pod to pod of another pool", w.PodA, podworld.PodA6, w.PodB, podworld.PodB6, podworld.PodA6},
	})
}

func TestMasqueradingFollowsTheState(t *testing.T) {
	w := podworld.New(t)
	m := New(Config{})
	for _, step := range []struct {
		name   string
		do     func(context.Context) error
		seenAs string
	}{
		{"nothing desired", m.Apply, podworld.PodA},
		{"pool has natOutgoing", func(ctx context.Context) error { m.Set(podState()); return m.Apply(ctx) }, podworld.NodeOut},
		{"destination becomes a pool", func(ctx context.Context) error {
			s := podState()
			s.ExemptCIDRs = append(s.ExemptCIDRs, netip.MustParsePrefix("192.0.2.0/24"))
			m.Set(s)
			return m.Apply(ctx)
		}, podworld.PodA},
		{"and is one no more", func(ctx context.Context) error { m.Set(podState()); return m.Apply(ctx) }, podworld.NodeOut},
		{"cleaned up", m.Cleanup, podworld.PodA},
		{"applied again", m.Apply, podworld.NodeOut},
		{"pool has it no more", func(ctx context.Context) error { m.Set(State{}); return m.Apply(ctx) }, podworld.PodA},
	} {
		w.InNode(t, step.do)
		if got := seenAs(t, w.PodA, podworld.PodA, w.Outside, podworld.Outside); got != step.seenAs {
			t.Errorf("%s: the receiver sees %s, want %s", step.name, got, step.seenAs)
		}
	}
}

// TestNodesBehindATunnelSeeTheNode: the packet itself goes podworld.Outside of the tunnel.
func TestNodesBehindATunnelSeeTheNode(t *testing.T) {
	w := podworld.New(t)
	m := New(Config{})
	s := podState()
	s.TunnelPools, s.TunnelNodes = prefixes(masqueradedPools, masqueradedPoolIPv6), prefixes(podworld.Node2+"/32", podworld.Node26+"/128")
	m.Set(s)
	w.InNode(t, m.Apply)
	wantSeen(t, []sight{
		{"pod to the node behind the tunnel", w.PodA, podworld.PodA, w.Outside, podworld.Node2, podworld.NodeOut},
		{"pod of a pool without natOutgoing to it", w.PodB, podworld.PodB, w.Outside, podworld.Node2, podworld.PodB},
		{"pod to pod of another pool", w.PodA, podworld.PodA, w.PodB, podworld.PodB, podworld.PodA},
		{"pod to its node", w.PodA, podworld.PodA, w.Node, podworld.NodeOut, podworld.PodA},
		{"IPv6 pod to the node behind the tunnel", w.PodA, podworld.PodA6, w.Outside, podworld.Node26, podworld.NodeOut6},
	})
}

// TestFlowToANodeThatGoesBehindATunnelIsAnswered: its answers would come from the tunnel's
// address. Other flows stay as they are.
func TestFlowToANodeThatGoesBehindATunnelIsAnswered(t *testing.T) {
	w := podworld.New(t)
	node := kerneltest.Open(t, w.Node)
	m := New(Config{Forget: node.ForgetDatagramsBetween})
	m.Set(podState())
	w.InNode(t, m.Apply)
	for _, tt := range []struct {
		name, source, dest, seenAs string
		from                       *kernel.Netns
	}{
		{"a pod's to the node", podworld.PodA, podworld.Node2, podworld.NodeOut, w.PodA},
		{"a pod's to the node, IPv6", podworld.PodA6, podworld.Node26, podworld.NodeOut6, w.PodA},
		{"a pod's of a pool without natOutgoing", podworld.PodB, podworld.Node2, podworld.PodB, w.PodB},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m.Set(podState())
			w.InNode(t, m.Apply)
			f := openFlow(t, tt.from, tt.source, w.Outside, tt.dest)
			if got := f.seen(t); got != tt.source {
				t.Fatalf("at first the node sees %s, want %s", got, tt.source)
			}
			s := podState()
			s.TunnelPools, s.TunnelNodes = prefixes(masqueradedPools, masqueradedPoolIPv6), prefixes(podworld.Node2+"/32", podworld.Node26+"/128")
			m.Set(s)
			w.InNode(t, m.Apply)
			if got := f.seen(t); got != tt.seenAs {
				t.Errorf("behind the tunnel it sees %s, want %s", got, tt.seenAs)
			}
		})
	}
}

// flow is one of UDP, from one port to one port.
type flow struct{ sender, receiver *net.UDPConn }

func openFlow(t *testing.T, from *kernel.Netns, source string, to *kernel.Netns, dest string) (f flow) {
	t.Helper()
	podworld.Check(t, to.Do(func() (err error) {
		f.receiver, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(dest), Port: echoPort})
		return err
	}))
	podworld.Check(t, from.Do(func() (err error) {
		f.sender, err = net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(source)}, &net.UDPAddr{IP: net.ParseIP(dest), Port: echoPort})
		return err
	}))
	t.Cleanup(func() { f.sender.Close(); f.receiver.Close() })
	return f
}

// seen sends a packet and returns the source that the receiver sees.
func (f flow) seen(t *testing.T) string {
	t.Helper()
	_, err := f.sender.Write([]byte(payload))
	podworld.Check(t, err)
	podworld.Check(t, f.receiver.SetReadDeadline(time.Now().Add(packetWait)))
	buf := make([]byte, 64)
	n, src, err := f.receiver.ReadFromUDPAddrPort(buf)
	podworld.Check(t, err)
	if string(buf[:n]) != payload {
		t.Errorf("received %q", buf[:n])
	}
	return src.Addr().Unmap().String()
}

// TestOutgoingPacketsAreHiddenAsConfigured: live, from one way to the next, and back.
func TestOutgoingPacketsAreHiddenAsConfigured(t *testing.T) {
	const other = "10.0.0.77" // the network leads it to the node
	w := podworld.New(t)
	outside := kerneltest.Open(t, w.Outside)
	up, err := outside.LinkByName("eth0")
	podworld.Check(t, err)
	podworld.Check(t, outside.AddRoute(kernel.Route{
		Dst: netip.MustParsePrefix(other + "/32"), Protocol: kernel.ProtocolStatic, Link: up.Index, Gateway: netip.MustParseAddr(podworld.NodeOut),
	}))
	ports := Ports{First: 40000, Last: 40009}
	m := New(Config{})
	for _, step := range []struct {
		name          string
		how           How
		exempt        []string // in place of podState's
		seen4, seen6  string
		node          string // by the other node
		ports, ports6 Ports
	}{
		{name: "as it comes", seen4: podworld.NodeOut, seen6: podworld.NodeOut6, node: podworld.PodA},
		{name: "by these ports", how: How{Ports: ports}, seen4: podworld.NodeOut, seen6: podworld.NodeOut6, node: podworld.PodA, ports: ports, ports6: ports},
		{name: "behind this address", how: How{Address: netip.MustParseAddr(other)}, seen4: other, seen6: podworld.NodeOut6, node: podworld.PodA},
		{name: "behind this address by these ports", how: How{Address: netip.MustParseAddr(other), Ports: ports}, seen4: other, seen6: podworld.NodeOut6, node: podworld.PodA, ports: ports, ports6: ports},
		{name: "out of this device", how: How{Device: "eth0"}, seen4: podworld.NodeOut, seen6: podworld.NodeOut6, node: podworld.PodA},
		{name: "out of devices like this", how: How{Device: "et*"}, seen4: podworld.NodeOut, seen6: podworld.NodeOut6, node: podworld.PodA},
		{name: "out of another device", how: How{Device: "wlan0"}, seen4: podworld.PodA, seen6: podworld.PodA6, node: podworld.PodA},
		{name: "from nodes, too", exempt: []string{masqueradedPools, otherPool}, seen4: podworld.NodeOut, seen6: podworld.NodeOut6, node: podworld.NodeOut},
		{name: "as it came", seen4: podworld.NodeOut, seen6: podworld.NodeOut6, node: podworld.PodA},
	} {
		t.Run(step.name, func(t *testing.T) {
			s := podState()
			s.How = step.how
			if step.exempt != nil {
				s.ExemptCIDRs = prefixes(step.exempt...)
			}
			m.Set(s)
			w.InNode(t, m.Apply)
			for _, c := range []struct {
				source, dest, seenAs string
				ports                Ports
			}{
				{podworld.PodA, podworld.Outside, step.seen4, step.ports},
				{podworld.PodA6, podworld.Outside6, step.seen6, step.ports6},
				{podworld.PodA, podworld.Node2, step.node, Ports{}},
			} {
				got := seenFrom(t, w.PodA, c.source, w.Outside, c.dest)
				if got.Addr().String() != c.seenAs || c.ports != (Ports{}) && (got.Port() < c.ports.First || got.Port() > c.ports.Last) {
					t.Errorf("%s sees %s, want %s by ports %v", c.dest, got, c.seenAs, c.ports)
				}
			}
		})
	}
}

// seenByTCP is the source of a connection from one namespace to an address of another, as its
// far end sees it.
func seenByTCP(t *testing.T, from *kernel.Netns, source string, to *kernel.Netns, dest string) netip.AddrPort {
	t.Helper()
	var listener *net.TCPListener
	podworld.Check(t, to.Do(func() (err error) {
		listener, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(dest), Port: echoPort})
		return err
	}))
	defer listener.Close()
	podworld.Check(t, listener.SetDeadline(time.Now().Add(packetWait)))
	podworld.Check(t, from.Do(func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: packetWait}
		c, err := d.DialContext(t.Context(), "tcp", netip.AddrPortFrom(netip.MustParseAddr(dest), echoPort).String())
		if err == nil {
			defer c.Close()
		}
		return err
	}))
	c, err := listener.AcceptTCP()
	podworld.Check(t, err)
	defer c.Close()
	seen := c.RemoteAddr().(*net.TCPAddr).AddrPort() //nolint:forcetypeassert // of TCP
	return netip.AddrPortFrom(seen.Addr().Unmap(), seen.Port())
}

// TestEveryPortIsOfTheRange by both versions of IP, TCP and UDP, outside and at a node behind
// a tunnel, which sees this node's own address though the device has another.
func TestEveryPortIsOfTheRange(t *testing.T) {
	const own, own6 = "10.67.0.77", "fd00:67::77" // the network leads them to the node
	w := podworld.New(t)
	ports := Ports{First: 40000, Last: 40009}
	s := podState()
	s.TunnelPools, s.TunnelNodes = prefixes(masqueradedPools, masqueradedPoolIPv6), prefixes(podworld.Node2+"/32", podworld.Node26+"/128")
	s.How = How{Ports: ports, Node4: netip.MustParseAddr(own), Node6: netip.MustParseAddr(own6)}
	m := New(Config{})
	m.Set(s)
	w.InNode(t, m.Apply)
	for _, c := range []struct{ name, source, dest, seenAs string }{
		{"outside", podworld.PodA, podworld.Outside, podworld.NodeOut},
		{"outside by IPv6", podworld.PodA6, podworld.Outside6, podworld.NodeOut6},
		{"a node behind the tunnel", podworld.PodA, podworld.Node2, own},
		{"a node behind the tunnel by IPv6", podworld.PodA6, podworld.Node26, own6},
	} {
		for protocol, seen := range map[string]func(*testing.T, *kernel.Netns, string, *kernel.Netns, string) netip.AddrPort{"TCP": seenByTCP, "UDP": seenFrom} {
			t.Run(c.name+", "+protocol, func(t *testing.T) {
				for range 5 {
					got := seen(t, w.PodA, c.source, w.Outside, c.dest)
					if got.Addr().String() != c.seenAs || got.Port() < ports.First || got.Port() > ports.Last {
						t.Errorf("%s is seen, want %s by ports %v", got, c.seenAs, ports)
					}
				}
			})
		}
	}
}

func TestResyncMendsTheRealTable(t *testing.T) {
	w := podworld.New(t)
	m := New(Config{})
	m.Set(podState())
	w.InNode(t, m.Apply)
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
			w.InTable(t, ruleset.Family, ruleset.Table, c.damage)
			if got := seenAs(t, w.PodA, podworld.PodA, w.Outside, podworld.Outside); got != podworld.PodA {
				t.Fatalf("the damage does nothing: the receiver sees %s", got)
			}
			m.QueueResync()
			w.InNode(t, m.Apply)
			if got := seenAs(t, w.PodA, podworld.PodA, w.Outside, podworld.Outside); got != podworld.NodeOut {
				t.Errorf("not mended: the receiver sees %s", got)
			}
		})
	}
}

func TestRestartTakesOverTheTable(t *testing.T) {
	w := podworld.New(t)
	for range 2 {
		m := New(Config{})
		m.Set(podState())
		w.InNode(t, m.Apply)
	}
	w.InNode(t, func(ctx context.Context) error {
		nft, err := knftables.New(ruleset.Family, ruleset.Table)
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
	w.InNode(t, New(Config{}).Apply)
	if got := seenAs(t, w.PodA, podworld.PodA, w.Outside, podworld.Outside); got != podworld.PodA {
		t.Errorf("still masqueraded: the receiver sees %s", got)
	}
}

func TestWholeAddressSpaceIsAValidPool(t *testing.T) {
	w := podworld.New(t)
	m := New(Config{})
	m.Set(State{MasqueradeCIDRs: prefixes("0.0.0.0/0", "::/0", "10.1.2.3/32")})
	w.InNode(t, m.Apply)
	if got := seenAs(t, w.PodA, podworld.PodA, w.Outside, podworld.Outside); got != podworld.PodA {
		t.Errorf("the receiver sees %s, want %s: every destination is in a pool", got, podworld.PodA)
	}
}
