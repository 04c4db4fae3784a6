package overlay_test

import (
	"net/netip"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"tortie/internal/api"
	"tortie/internal/overlay"
)

func node(name, v4, v6, tunnel4, tunnel6 string) *api.Node {
	return &api.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: api.NodeSpec{
		BGP:                 &api.NodeBGPSpec{IPv4Address: v4, IPv6Address: v6},
		IPv4VXLANTunnelAddr: tunnel4, IPv6VXLANTunnelAddr: tunnel6,
	}}
}

func view(self string, pools []overlay.Pool, nodes ...*api.Node) overlay.View {
	read := map[string]overlay.Node{}
	for _, n := range nodes {
		read[n.Name] = overlay.ReadNode(n.Name, &n.Spec)
	}
	return overlay.NewView(self, read, pools)
}

func pool(cidr string, mode overlay.Mode) overlay.Pool {
	return overlay.Pool{Prefix: netip.MustParsePrefix(cidr), Mode: mode, By: overlay.VXLAN}
}

func ipipPool(cidr string, mode overlay.Mode) overlay.Pool {
	return overlay.Pool{Prefix: netip.MustParsePrefix(cidr), Mode: mode, By: overlay.IPIP}
}

// ipipNode has an IPIP device.
func ipipNode(name, v4, ipip string) *api.Node {
	n := node(name, v4, "", "", "")
	n.Spec.BGP.IPv4IPIPTunnelAddr = ipip
	return n
}

func TestTheWayToABlock(t *testing.T) {
	nodes := []*api.Node{
		node("a", "10.10.1.1/24", "fd10::1:1/112", "10.65.0.1", "fd65::1"),
		node("same", "10.10.1.2/24", "fd10::1:2/112", "10.65.1.1", "fd65::2"),
		node("far", "10.10.2.3/24", "fd10::2:3/112", "10.65.2.1", "fd65::3"),
		node("bare", "10.10.2.4/24", "", "", ""),
		node("six", "", "fd10::2:5/112", "", "fd65::5"),
		node("uneven", "10.10.1.9/16", "", "10.65.3.1", ""),
		node("unmasked", "10.10.1.8", "", "10.65.4.1", ""),
		node("nonsense", "nonsense", "", "fd65::9", ""),
	}
	always, cross, never := overlay.Always, overlay.CrossSubnet, overlay.Never
	for _, tt := range []struct {
		name   string
		pools  []overlay.Pool
		dst    string
		node   string
		want   overlay.Carrier
		via    string // the other node's address or tunnel, as the carrier has it
		reason string
	}{
		{"no mode", []overlay.Pool{pool("10.65.0.0/16", never)}, "10.65.2.0/26", "far", overlay.BGP, "", ""},
		{"in no pool", []overlay.Pool{pool("10.66.0.0/16", always)}, "10.65.2.0/26", "far", overlay.BGP, "", ""},
		{"always, behind a router", []overlay.Pool{pool("10.65.0.0/16", always)}, "10.65.2.0/26", "far", overlay.VXLAN, "10.65.2.1", ""},
		{"always, one segment", []overlay.Pool{pool("10.65.0.0/16", always)}, "10.65.1.0/26", "same", overlay.VXLAN, "10.65.1.1", ""},
		{"cross-subnet, behind a router", []overlay.Pool{pool("10.65.0.0/16", cross)}, "10.65.2.0/26", "far", overlay.VXLAN, "10.65.2.1", ""},
		{"cross-subnet, one segment", []overlay.Pool{pool("10.65.0.0/16", cross)}, "10.65.1.0/26", "same", overlay.Segment, "10.10.1.2", ""},
		{"cross-subnet, a borrowed address", []overlay.Pool{pool("10.65.0.0/16", cross)}, "10.65.1.7/32", "far", overlay.VXLAN, "10.65.2.1", ""},
		{"cross-subnet, lengths that differ", []overlay.Pool{pool("10.65.0.0/16", cross)}, "10.65.3.0/26", "uneven", overlay.Segment, "10.10.1.9", ""},
		{"cross-subnet, no length", []overlay.Pool{pool("10.65.0.0/16", cross)}, "10.65.4.0/26", "unmasked", overlay.VXLAN, "10.65.4.1", ""},
		{"IPv6, always", []overlay.Pool{pool("fd65::/48", always)}, "fd65::40/122", "same", overlay.VXLAN, "fd65::2", ""},
		{"IPv6, cross-subnet, one segment", []overlay.Pool{pool("fd65::/48", cross)}, "fd65::40/122", "same", overlay.Segment, "fd10::1:2", ""},
		{"IPv6, a node without IPv4", []overlay.Pool{pool("fd65::/48", cross)}, "fd65::40/122", "six", overlay.VXLAN, "fd65::5", ""},
		{"the smaller pool decides", []overlay.Pool{pool("10.0.0.0/8", always), pool("10.65.0.0/16", never)}, "10.65.2.0/26", "far", overlay.BGP, "", ""},
		{"in any order", []overlay.Pool{pool("10.65.0.0/16", always), pool("10.0.0.0/8", never)}, "10.65.2.0/26", "far", overlay.VXLAN, "10.65.2.1", ""},
		{"a pool smaller than the block does not", []overlay.Pool{pool("10.65.2.0/28", always)}, "10.65.2.0/26", "far", overlay.BGP, "", ""},
		{"a node without a tunnel", []overlay.Pool{pool("10.65.0.0/16", always)}, "10.65.9.0/26", "bare", overlay.BGP, "", "node bare has no IPv4 VXLAN tunnel address yet"},
		{"a node without an address", []overlay.Pool{pool("10.65.0.0/16", always)}, "10.65.9.0/26", "six", overlay.BGP, "", "node six has no IPv4 address for VXLAN"},
		{"a node that can't be read", []overlay.Pool{pool("10.65.0.0/16", always)}, "10.65.9.0/26", "nonsense", overlay.BGP, "", "node nonsense has no IPv4 address"},
		{"a node nobody knows", []overlay.Pool{pool("10.65.0.0/16", always)}, "10.65.9.0/26", "", overlay.BGP, "", "node unknown has no IPv4 address"},
		{"this node", []overlay.Pool{pool("10.65.0.0/16", always)}, "10.65.0.0/26", "a", overlay.BGP, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			way := view("a", tt.pools, nodes...).To(netip.MustParsePrefix(tt.dst), tt.node)
			if way.Carrier != tt.want || !strings.Contains(way.Reason, tt.reason) || tt.reason == "" && way.Reason != "" {
				t.Fatalf("carrier %d for the reason %q, want %d for %q", way.Carrier, way.Reason, tt.want, tt.reason)
			}
			via := ""
			switch way.Carrier {
			case overlay.VXLAN:
				via = way.There.Tunnel.String()
			case overlay.Segment:
				via = way.There.Address.Addr().String()
			}
			if via != tt.via {
				t.Errorf("via %q, want %q", via, tt.via)
			}
		})
	}
}

// TestNodeWithoutAnAddressTakesNobodysTunnel: felix does not know of such a node, bgpd
// does.
func TestNodeWithoutAnAddressTakesNobodysTunnel(t *testing.T) {
	a, b := node("a", "10.10.1.1/24", "", "10.65.0.1", ""), node("b", "10.10.1.2/24", "", "10.65.1.1", "")
	absent := &api.Node{ObjectMeta: metav1.ObjectMeta{Name: "absent"}, Spec: api.NodeSpec{IPv4VXLANTunnelAddr: "10.65.1.1"}}
	pools := []overlay.Pool{pool("10.65.0.0/16", overlay.Always)}
	for _, v := range []overlay.View{view("a", pools, a, b), view("a", pools, a, b, absent)} {
		if way := v.To(netip.MustParsePrefix("10.65.1.0/26"), "b"); way.Carrier != overlay.VXLAN {
			t.Errorf("carrier %d: %s", way.Carrier, way.Reason)
		}
	}
}

// TestTunnelThatCouldDrawOthersPacketsIsRefused by the nodes at both ends: BGP carries.
func TestTunnelThatCouldDrawOthersPacketsIsRefused(t *testing.T) {
	pools := []overlay.Pool{pool("10.65.0.0/16", overlay.Always), pool("10.10.0.0/16", overlay.Always)}
	other := node("c", "10.10.3.3/24", "", "10.65.2.1", "")
	for _, tt := range []struct {
		name, tunnel, mac, reason string
		pairOnly                  bool
	}{
		{"in no pool", "192.0.2.9", "", "lies in no IP pool", false},
		{"a node's address", "10.10.3.3", "", "is that of node c itself", false},
		{"in the node's own network", "10.10.2.254", "", "lies in the node's own network 10.10.2.0/24", false},
		{"in the other's network", "10.10.1.254", "", "lies in the network 10.10.1.0/24 of the node at the other end", true},
		{"another's address", "10.65.0.1", "", "node a has the VXLAN tunnel address 10.65.0.1 already", false},
		{"another's MAC address", "10.65.1.1", overlay.DefaultMAC("a", false).String(), "node a has the MAC address", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := node("a", "10.10.1.1/24", "", "10.65.0.1", ""), node("b", "10.10.2.2/24", "", tt.tunnel, "")
			b.Spec.VXLANTunnelMACAddr = tt.mac
			for self, dst := range map[string][2]string{"a": {"10.65.1.0/26", "b"}, "b": {"10.65.0.0/26", "a"}} {
				way := view(self, pools, a, b, other).To(netip.MustParsePrefix(dst[0]), dst[1])
				if way.Carrier != overlay.BGP || !strings.Contains(way.Reason, tt.reason) {
					t.Errorf("on %s: carrier %d for %q", self, way.Carrier, way.Reason)
				}
			}
			if v := view("b", pools, a, b, other); (len(v.Tunnels()) == 0) == tt.pairOnly || (len(v.Refused()) == 1) == tt.pairOnly {
				t.Errorf("its own: %v, refused: %v", v.Tunnels(), v.Refused())
			}
		})
	}
}

// TestBothEndsAgree: one way by VXLAN and back by another would be dropped wherever
// the kernel checks the reverse path.
func TestBothEndsAgree(t *testing.T) {
	addresses := []string{"", "10.10.1.1/24", "10.10.1.2/24", "10.10.2.3/24", "10.10.1.4/16", "10.10.1.5", "nonsense"}
	tunnels := []string{"", "10.65.0.1", "10.65.1.1"}
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(name string) *api.Node {
			n := node(name, rapid.SampledFrom(addresses).Draw(rt, "address"), "", rapid.SampledFrom(tunnels).Draw(rt, "tunnel"), "")
			n.Spec.BGP.IPv4IPIPTunnelAddr = rapid.SampledFrom(tunnels).Draw(rt, "IPIP tunnel")
			return n
		}
		a, b := draw("a"), draw("b")
		pools := []overlay.Pool{pool("10.65.0.0/16", rapid.SampledFrom([]overlay.Mode{overlay.Never, overlay.CrossSubnet, overlay.Always}).Draw(rt, "mode"))}
		pools[0].By = rapid.SampledFrom([]overlay.Carrier{overlay.VXLAN, overlay.IPIP}).Draw(rt, "by")
		there := view("a", pools, a, b).To(netip.MustParsePrefix("10.65.1.0/26"), "b")
		back := view("b", pools, a, b).To(netip.MustParsePrefix("10.65.0.0/26"), "a")
		if there.Carrier != back.Carrier {
			rt.Fatalf("there by %d, back by %d", there.Carrier, back.Carrier)
		}
	})
}

// TestIPIPCarriesToTheNodesOwnAddress: always, or across subnets, between nodes that
// both have a device; else BGP, for a reason.
func TestIPIPCarriesToTheNodesOwnAddress(t *testing.T) {
	nodes := []*api.Node{
		ipipNode("a", "10.10.1.1/24", "10.65.0.1"), ipipNode("same", "10.10.1.2/24", "10.65.1.1"), ipipNode("far", "10.10.2.3/24", "10.65.2.1"),
		node("bare", "10.10.2.4/24", "", "10.65.3.1", ""), // it has VXLAN
		ipipNode("copy", "10.10.2.5/24", "10.65.0.1"), ipipNode("astray", "10.10.2.6/24", "192.0.2.1"),
	}
	for _, tt := range []struct {
		name, node string
		mode       overlay.Mode
		want       overlay.Carrier
		reason     string
	}{
		{"always, behind a router", "far", overlay.Always, overlay.IPIP, ""},
		{"always, one segment", "same", overlay.Always, overlay.IPIP, ""},
		{"cross-subnet, behind a router", "far", overlay.CrossSubnet, overlay.IPIP, ""},
		{"cross-subnet, one segment", "same", overlay.CrossSubnet, overlay.Segment, ""},
		{"a node without a device of IPIP", "bare", overlay.Always, overlay.BGP, "node bare has no IPv4 IPIP tunnel address yet"},
		{"another node's address", "copy", overlay.Always, overlay.BGP, "node copy: node a has the IPIP tunnel address 10.65.0.1 already"},
		{"an address in no pool", "astray", overlay.Always, overlay.BGP, "node astray: the IPIP tunnel address 192.0.2.1 lies in no IP pool"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := view("a", []overlay.Pool{ipipPool("10.65.0.0/16", tt.mode)}, nodes...)
			way := v.To(netip.MustParsePrefix("10.65.9.0/26"), tt.node)
			if way.Carrier != tt.want || way.Reason != tt.reason {
				t.Errorf("%s for the reason %q, want %s for %q", way.Carrier, way.Reason, tt.want, tt.reason)
			}
			if v.IPIP().String() != "10.65.0.1" || len(v.Tunnels()) != 0 {
				t.Errorf("this node's own: %s, %v", v.IPIP(), v.Tunnels())
			}
		})
	}
}

// TestRefusedIPIPAddressIsTold to the operator of its own node, and is not on its device.
func TestRefusedIPIPAddressIsTold(t *testing.T) {
	v := view("a", []overlay.Pool{ipipPool("10.65.0.0/16", overlay.Always)}, ipipNode("a", "10.10.1.1/24", "192.0.2.1"))
	if got := v.Refused(); v.IPIP().IsValid() || len(got) != 1 || got[0] != "the IPIP tunnel address 192.0.2.1 lies in no IP pool" {
		t.Errorf("%v; %v", v.IPIP(), got)
	}
}

func TestModeOfAPool(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.65.0.0/16"), netip.MustParsePrefix("fd65::/48")
	for _, tt := range []struct {
		name string
		cidr netip.Prefix
		spec v3.IPPoolSpec
		mode overlay.Mode
		by   overlay.Carrier
	}{
		{"nothing said", v4, v3.IPPoolSpec{}, overlay.Never, overlay.BGP},
		{"never", v4, v3.IPPoolSpec{VXLANMode: v3.VXLANModeNever, IPIPMode: v3.IPIPModeNever}, overlay.Never, overlay.BGP},
		{"VXLAN", v4, v3.IPPoolSpec{VXLANMode: v3.VXLANModeAlways, IPIPMode: v3.IPIPModeNever}, overlay.Always, overlay.VXLAN},
		{"VXLAN across subnets", v6, v3.IPPoolSpec{VXLANMode: v3.VXLANModeCrossSubnet}, overlay.CrossSubnet, overlay.VXLAN},
		{"IPIP", v4, v3.IPPoolSpec{IPIPMode: v3.IPIPModeAlways, VXLANMode: v3.VXLANModeNever}, overlay.Always, overlay.IPIP},
		{"IPIP across subnets", v4, v3.IPPoolSpec{IPIPMode: v3.IPIPModeCrossSubnet}, overlay.CrossSubnet, overlay.IPIP},
		{"IPIP in a pool of IPv6", v6, v3.IPPoolSpec{IPIPMode: v3.IPIPModeAlways}, overlay.Never, overlay.BGP},
		{"both", v4, v3.IPPoolSpec{IPIPMode: v3.IPIPModeAlways, VXLANMode: v3.VXLANModeCrossSubnet}, overlay.CrossSubnet, overlay.VXLAN},
	} {
		if got := overlay.PoolOf(tt.cidr, tt.spec); got.Mode != tt.mode || got.By != tt.by || got.Prefix != tt.cidr {
			t.Errorf("%s: %+v, want mode %d by %s", tt.name, got, tt.mode, tt.by)
		}
	}
}

const mac4, mac6 = "66:f9:37:c3:7e:94", "66:0f:35:f2:60:df"

// TestMACIsUpstreamsUnlessTheNodeSaysAnother: 66 and the beginning of the SHA-1 of
// the node's name.
func TestMACIsUpstreamsUnlessTheNodeSaysAnother(t *testing.T) {
	n := node("node1", "10.10.1.1/24", "fd10::1/64", "10.65.0.1", "fd65::1")
	read := overlay.ReadNode(n.Name, &n.Spec)
	// printf node1 | sha1sum, printf node1-v6 | sha1sum
	if got, want := read.V4.MAC.String(), mac4; got != want {
		t.Errorf("IPv4 %s, want %s", got, want)
	}
	if got, want := read.V6.MAC.String(), mac6; got != want {
		t.Errorf("IPv6 %s, want %s", got, want)
	}
	n.Spec.VXLANTunnelMACAddr = "02:00:5e:10:00:ff"
	for given, want := range map[string]string{"02:00:5e:10:00:ff": "02:00:5e:10:00:ff", "01:00:5e:10:00:ff": mac4, "02005e1000ff": mac4, "x": mac4} {
		n.Spec.VXLANTunnelMACAddr = given
		if got := overlay.ReadNode(n.Name, &n.Spec).V4.MAC.String(); got != want {
			t.Errorf("given %q: %s, want %s", given, got, want)
		}
	}
}

func TestTunnelsNameEveryOtherReadyNodeOnce(t *testing.T) {
	v := view("a", []overlay.Pool{pool("10.65.0.0/16", overlay.Never)},
		node("a", "10.10.1.1/24", "fd10::1/64", "10.65.0.1", ""),
		node("d", "10.10.1.4/24", "", "10.65.0.4", ""),
		node("b", "10.10.1.2/24", "", "10.65.0.9", ""),
		node("c", "10.10.1.3/24", "", "10.65.0.9", ""), // b's
		node("e", "10.10.1.5/24", "", "10.65.0.1", ""), // a's
		node("f", "10.10.1.6/24", "", "", ""),
		node("g", "", "", "10.65.0.7", ""),
	)
	tunnels := v.Tunnels()
	if len(tunnels) != 1 || tunnels[0].Here.Tunnel.String() != "10.65.0.1" {
		t.Fatalf("tunnels %v, want the one of IPv4", tunnels)
	}
	var peers []string
	for _, p := range tunnels[0].Peers {
		peers = append(peers, p.Address.Addr().String()+" "+p.Tunnel.String())
	}
	if got, want := strings.Join(peers, ", "), "10.10.1.4 10.65.0.4, 10.10.1.2 10.65.0.9"; got != want {
		t.Errorf("peers %s, want %s", got, want)
	}
}

// TestWrongModesAreNamed: what nobody can write with calicoctl, and what comes of it.
func TestWrongModesAreNamed(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.65.0.0/16"), netip.MustParsePrefix("fd65::/48")
	for _, tt := range []struct {
		name        string
		cidr        netip.Prefix
		vxlan, ipip string
		mode        overlay.Mode
		by          overlay.Carrier
		wrong       string
	}{
		{"right", v4, "CrossSubnet", "Never", overlay.CrossSubnet, overlay.VXLAN, ""},
		{"right by IPIP", v4, "", "CrossSubnet", overlay.CrossSubnet, overlay.IPIP, ""},
		{"a word nobody knows", v4, "always", "", overlay.Always, overlay.VXLAN, `spec.vxlanMode: "always" is none of Never, CrossSubnet and Always: it is taken for Always`},
		{"a word nobody knows, of IPIP", v4, "", "Sometimes", overlay.Always, overlay.IPIP, `spec.ipipMode: "Sometimes" is none of`},
		{"both", v4, "CrossSubnet", "Always", overlay.CrossSubnet, overlay.VXLAN, "a pool has one encapsulation, and this one asks for two: vxlanMode CrossSubnet counts"},
		{"IPIP for IPv6", v6, "Never", "Always", overlay.Never, overlay.BGP, "spec.ipipMode: IPIP carries only IPv4, so Always is taken for Never"},
	} {
		spec := v3.IPPoolSpec{VXLANMode: v3.VXLANMode(tt.vxlan), IPIPMode: v3.IPIPMode(tt.ipip)}
		pool, wrong := overlay.PoolOf(tt.cidr, spec), overlay.Wrong(tt.cidr, spec)
		if pool.Mode != tt.mode || pool.By != tt.by || !strings.HasPrefix(wrong, tt.wrong) || tt.wrong == "" && wrong != "" {
			t.Errorf("%s: mode %d by %s, %q; want %d by %s, %q", tt.name, pool.Mode, pool.By, wrong, tt.mode, tt.by, tt.wrong)
		}
	}
}
