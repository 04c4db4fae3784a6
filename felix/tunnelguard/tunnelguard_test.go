package tunnelguard

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest/podworld"
	"tortie/internal/overlay"
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// used is a State with one other node.
func used() State {
	return State{Used: true, Nodes: prefixes(podworld.NodeOut+"/32", podworld.Node2+"/32", podworld.Node26+"/128"), Port: 4789, VNI: 4096}
}

func TestSetsAreTheNodesWhileThereIsATunnel(t *testing.T) {
	for _, tt := range []struct {
		name string
		by   overlay.Carrier
		s    State
		want ruleset.Contents
	}{
		{"VXLAN", overlay.VXLAN, used(), ruleset.Contents{"vxlan-nodes-ipv4": {"192.0.2.1/32", "192.0.2.3/32"}, "vxlan-nodes-ipv6": {"2001:db8::3/128"}}},
		{"IPIP", overlay.IPIP, used(), ruleset.Contents{"ipip-nodes-ipv4": {"192.0.2.1/32", "192.0.2.3/32"}}},
		{"IPIP, nobody", overlay.IPIP, State{Used: true}, ruleset.Contents{"ipip-nodes-ipv4": nil}},
		{"not in use", overlay.VXLAN, State{Nodes: used().Nodes}, nil},
	} {
		if diff := cmp.Diff(tt.want, contentsOf(tt.by, tt.s)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestNothingIsWrittenForATunnelNobodyUses(t *testing.T) {
	nft := knftables.NewFake(ruleset.Family, ruleset.Table)
	for _, by := range []overlay.Carrier{overlay.VXLAN, overlay.IPIP} {
		g := New(Config{By: by, NFT: nft})
		g.Set(State{Nodes: used().Nodes, Port: 4789, VNI: 4096})
		if err := g.Apply(t.Context()); err != nil || nft.Table != nil {
			t.Errorf("%s: %v, table %v", by, err, nft.Table)
		}
	}
}

// packet is one to be sent, of IPIP or of VXLAN.
type packet struct {
	by   overlay.Carrier
	vni  uint32
	from *kernel.Netns
	src  string
	to   *kernel.Netns
	dst  string
}

const vxlanPort = 4789

// listener hears what gets to an address, behind all rules: raw, no device needed.
func (p packet) listener() (net.PacketConn, error) {
	if p.by == overlay.IPIP {
		return net.ListenIP("ip4:4", &net.IPAddr{IP: net.ParseIP(p.dst)})
	}
	return net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(p.dst), Port: vxlanPort})
}

func (p packet) send(text string) error {
	if p.by == overlay.IPIP {
		c, err := net.DialIP("ip4:4", &net.IPAddr{IP: net.ParseIP(p.src)}, &net.IPAddr{IP: net.ParseIP(p.dst)})
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte(text))
		return err
	}
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(p.src)}, &net.UDPAddr{IP: net.ParseIP(p.dst), Port: vxlanPort})
	if err != nil {
		return err
	}
	defer c.Close()
	header := []byte{8, 0, 0, 0}
	header = binary.BigEndian.AppendUint32(header, p.vni<<8)
	_, err = c.Write(append(header, text...))
	return err
}

// arrives sends a packet, and one behind it that nothing keeps back.
func (p packet) arrives(t *testing.T, sure packet) bool {
	t.Helper()
	var receiver net.PacketConn
	podworld.Check(t, p.to.Do(func() (err error) { receiver, err = p.listener(); return err }))
	defer receiver.Close()
	podworld.Check(t, p.from.Do(func() error { return p.send("asked") }))
	podworld.Check(t, sure.from.Do(func() error { return sure.send("sure") }))
	podworld.Check(t, receiver.SetReadDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 256)
	n, _, err := receiver.ReadFrom(buf)
	if err != nil {
		t.Fatalf("not even the packet that is sure to arrive: %v", err)
	}
	return strings.HasSuffix(string(buf[:n]), "asked")
}

// TestTunnelsAreClosedToStrangers: packets from nodes, and those of other VXLANs, get
// through; those from others do not, pods of the node among them.
func TestTunnelsAreClosedToStrangers(t *testing.T) {
	w := podworld.New(t)
	guards := map[overlay.Carrier]*Guard{overlay.VXLAN: New(Config{By: overlay.VXLAN}), overlay.IPIP: New(Config{By: overlay.IPIP})}
	set := func(s State) {
		for _, g := range guards {
			g.Set(s)
			w.InNode(t, g.Apply)
		}
	}
	vxlan := func(from *kernel.Netns, src string, to *kernel.Netns, dst string) packet {
		return packet{overlay.VXLAN, 4096, from, src, to, dst}
	}
	ipip := func(from *kernel.Netns, src string, to *kernel.Netns, dst string) packet {
		return packet{overlay.IPIP, 0, from, src, to, dst}
	}
	other := vxlan(w.Outside, podworld.Outside, w.Node, podworld.NodeOut)
	other.vni = 5000
	for _, tt := range []struct {
		name         string
		packet, sure packet
		want         bool // with the guard
	}{
		{"VXLAN from a node", vxlan(w.Outside, podworld.Node2, w.Node, podworld.NodeOut), packet{}, true},
		{"VXLAN from a stranger", vxlan(w.Outside, podworld.Outside, w.Node, podworld.NodeOut), vxlan(w.Outside, podworld.Node2, w.Node, podworld.NodeOut), false},
		{"another VXLAN from a stranger", other, packet{}, true},
		{"VXLAN from a node, IPv6", vxlan(w.Outside, podworld.Node26, w.Node, podworld.NodeOut6), packet{}, true},
		{"VXLAN from a stranger, IPv6", vxlan(w.Outside, podworld.Outside6, w.Node, podworld.NodeOut6), vxlan(w.Outside, podworld.Node26, w.Node, podworld.NodeOut6), false},
		{"VXLAN from a pod to the node", vxlan(w.PodA, podworld.PodA, w.Node, podworld.NodeOut), vxlan(w.Outside, podworld.Node2, w.Node, podworld.NodeOut), false},
		{"IPIP from a node", ipip(w.Outside, podworld.Node2, w.Node, podworld.NodeOut), packet{}, true},
		{"IPIP from a stranger", ipip(w.Outside, podworld.Outside, w.Node, podworld.NodeOut), ipip(w.Outside, podworld.Node2, w.Node, podworld.NodeOut), false},
		{"IPIP from a pod to the node", ipip(w.PodA, podworld.PodA, w.Node, podworld.NodeOut), ipip(w.Outside, podworld.Node2, w.Node, podworld.NodeOut), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.sure.from == nil {
				tt.sure = tt.packet
			}
			set(State{})
			if !tt.packet.arrives(t, tt.sure) {
				t.Error("it is dropped without a guard")
			}
			set(used())
			if got := tt.packet.arrives(t, tt.sure); got != tt.want {
				t.Errorf("it arrives: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestGuardIsMendedAndFollowsTheSettings(t *testing.T) {
	w := podworld.New(t)
	g := New(Config{By: overlay.VXLAN})
	g.Set(used())
	w.InNode(t, g.Apply)
	w.InTable(t, ruleset.Family, ruleset.Table, func(tx *knftables.Transaction) {
		tx.Flush(&knftables.Chain{Name: "vxlan-input"})
		tx.Flush(&knftables.Set{Name: "vxlan-nodes-ipv4"})
	})
	var differ []string
	look := func() {
		podworld.Check(t, w.Node.Do(func() (err error) { differ, err = g.rules.Differences(t.Context()); return err }))
	}
	if look(); !slices.Equal(differ, []string{"rules of chain vxlan-input", "elements of set vxlan-nodes-ipv4"}) {
		t.Fatalf("differences: %q", differ)
	}
	g.QueueResync()
	w.InNode(t, g.Apply)
	if look(); len(differ) != 0 {
		t.Errorf("not mended: %q", differ)
	}
	moved := used()
	moved.Port = 4790
	g.Set(moved)
	w.InNode(t, g.Apply)
	if look(); len(differ) != 0 {
		t.Errorf("another port: %q", differ)
	}
	g.Set(State{})
	w.InNode(t, g.Apply)
	podworld.Check(t, w.Node.Do(func() error {
		nft, err := knftables.New(ruleset.Family, ruleset.Table)
		if err != nil {
			return err
		}
		if all, err := nft.ListAll(t.Context()); !knftables.IsNotFound(err) {
			t.Errorf("left without a tunnel: %v (%v)", all, err)
		}
		return nil
	}))
}
