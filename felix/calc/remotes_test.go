package calc_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/calc"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/overlay"
)

func vxlanPool(name, cidr string, mode v3.VXLANMode, change ...func(*v3.IPPoolSpec)) datastore.SyncUpdate {
	u := poolUpdate(name, cidr, false, false)
	spec := &u.Entry.Object.(*v3.IPPool).Spec
	spec.VXLANMode, spec.IPIPMode = mode, v3.IPIPModeNever
	for _, c := range change {
		c(spec)
	}
	return u
}

// tunnelNode has an address and a tunnel's in each family; labels are names.
func tunnelNode(name, v4, tunnel4, v6, tunnel6 string, labels ...string) datastore.SyncUpdate {
	u := nodeUpdate(name, v4, v6)
	obj := u.Entry.Object.(*api.Node)
	obj.Spec.IPv4VXLANTunnelAddr, obj.Spec.IPv6VXLANTunnelAddr = tunnel4, tunnel6
	obj.Labels = map[string]string{}
	for _, l := range labels {
		obj.Labels[l] = "true"
	}
	return u
}

func ipipPool(name, cidr string, mode v3.IPIPMode, change ...func(*v3.IPPoolSpec)) datastore.SyncUpdate {
	return vxlanPool(name, cidr, v3.VXLANModeNever, append(change, func(s *v3.IPPoolSpec) { s.IPIPMode = mode })...)
}

func ipipNode(name, v4, tunnel string) datastore.SyncUpdate {
	u := tunnelNode(name, v4, "", "", "")
	u.Entry.Object.(*api.Node).Spec.BGP.IPv4IPIPTunnelAddr = tunnel
	return u
}

func threeIPIPNodes() []datastore.SyncUpdate {
	return []datastore.SyncUpdate{
		ipipNode("node-1", "192.0.2.1/24", "10.65.1.1"), ipipNode("node-2", "192.0.2.2/24", "10.65.2.1"), ipipNode("node-3", "198.51.100.3/24", "10.65.3.1"),
		affinity("node-1", "10.65.1.0/26", api.AffinityConfirmed), affinity("node-2", "10.65.2.0/26", api.AffinityConfirmed),
		affinity("node-3", "10.65.3.0/26", api.AffinityConfirmed),
	}
}

// TestRoutesByIPIPLeadToTheNodesOwnAddress, and what the pods send to these nodes
// themselves is masqueraded where the pool says so.
func TestRoutesByIPIPLeadToTheNodesOwnAddress(t *testing.T) {
	for _, tt := range []struct {
		name  string
		mode  v3.IPIPMode
		want  string
		nodes []string
	}{
		{"always", v3.IPIPModeAlways, "10.65.2.0/26 via 192.0.2.2 by ipip\n10.65.3.0/26 via 198.51.100.3 by ipip", []string{"192.0.2.2/32", "198.51.100.3/32"}},
		{"cross-subnet", v3.IPIPModeCrossSubnet, "10.65.2.0/26 via 192.0.2.2 by segment\n10.65.3.0/26 via 198.51.100.3 by ipip", []string{"198.51.100.3/32"}},
		{"never", v3.IPIPModeNever, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := stateOf(t, append(threeIPIPNodes(), ipipPool("p", "10.65.0.0/16", tt.mode, func(s *v3.IPPoolSpec) { s.NATOutgoing = true }))...)
			if got := brief(s.Remote); got != tt.want {
				t.Errorf("routes:\n%s\nwant:\n%s", got, tt.want)
			}
			if d := diff(prefixes(tt.nodes...), s.TunnelMasquerade.Nodes); d != "" {
				t.Errorf("masqueraded to: %s", d)
			}
			if s.IPIP.String() != "10.65.1.1" || !s.IPIPUsed || s.VXLANUsed || len(s.Problems) != 0 {
				t.Errorf("device %s, used %v, VXLAN %v, problems %v", s.IPIP, s.IPIPUsed, s.VXLANUsed, s.Problems)
			}
		})
	}
}

// blockUpdate is a block whose first addresses are held on the nodes named; "" is a
// free address.
func blockUpdate(cidr, owner string, holders ...string) datastore.SyncUpdate {
	spec := api.IPAMBlockSpec{CIDR: cidr}
	if owner != "" {
		affinity := api.HostAffinity(owner).String()
		spec.Affinity = &affinity
	}
	for i, h := range holders {
		if h == "" {
			spec.Allocations = append(spec.Allocations, nil)
		} else {
			spec.Allocations = append(spec.Allocations, &i)
		}
		spec.Attributes = append(spec.Attributes, api.BlockAttributes{ActiveOwnerAttrs: map[string]string{api.AttributeNode: h}})
	}
	return entry(api.BlockKey(netip.MustParsePrefix(cidr)), &api.IPAMBlock{Spec: spec})
}

func threeTunnelNodes() []datastore.SyncUpdate {
	return []datastore.SyncUpdate{
		poolUpdate("wide", "fd65::/32", false, false),
		tunnelNode("node-1", "192.0.2.1/24", "10.65.1.1", "2001:db8::1/64", "fd65::1:1"),
		tunnelNode("node-2", "192.0.2.2/24", "10.65.2.1", "2001:db8::2/64", "fd65::2:1"),
		tunnelNode("node-3", "198.51.100.3/24", "10.65.3.1", "2001:db8:1::3/64", "fd65::3:1"),
		affinity("node-1", "10.65.1.0/26", api.AffinityConfirmed), affinity("node-2", "10.65.2.0/26", api.AffinityConfirmed),
		affinity("node-3", "10.65.3.0/26", api.AffinityConfirmed), affinity("node-3", "fd65::3:0/122", api.AffinityConfirmed),
	}
}

func brief(remotes []calc.Remote) string {
	var lines []string
	for _, r := range remotes {
		via := "itself"
		if r.Via.IsValid() {
			via = r.Via.String()
		}
		lines = append(lines, fmt.Sprintf("%s via %s by %s", r.Dst, via, map[overlay.Carrier]string{overlay.Segment: "segment", overlay.VXLAN: "vxlan", overlay.IPIP: "ipip"}[r.Carrier]))
	}
	return strings.Join(lines, "\n")
}

func TestRoutesToOtherNodesAreAsThePoolsModeAsks(t *testing.T) {
	for _, tt := range []struct {
		name    string
		updates []datastore.SyncUpdate
		want    string
	}{
		{"no overlay", []datastore.SyncUpdate{poolUpdate("p", "10.65.0.0/16", false, false)}, ""},
		{
			"always",
			[]datastore.SyncUpdate{vxlanPool("p", "10.65.0.0/16", v3.VXLANModeAlways)},
			"10.65.2.0/26 via 10.65.2.1 by vxlan\n10.65.3.0/26 via 10.65.3.1 by vxlan",
		},
		{
			"cross-subnet",
			[]datastore.SyncUpdate{vxlanPool("p", "10.65.0.0/16", v3.VXLANModeCrossSubnet)},
			"10.65.2.0/26 via 192.0.2.2 by segment\n10.65.3.0/26 via 10.65.3.1 by vxlan",
		},
		{
			"IPv6, whose next hop has a route of its own",
			[]datastore.SyncUpdate{vxlanPool("p", "fd65::/48", v3.VXLANModeAlways), poolUpdate("q", "10.65.0.0/16", false, false)},
			"fd65::3:0/122 via fd65::3:1 by vxlan\nfd65::3:1/128 via itself by vxlan",
		},
		{
			"addresses borrowed by others, not by this node or the owner",
			[]datastore.SyncUpdate{
				vxlanPool("p", "10.65.0.0/16", v3.VXLANModeAlways),
				blockUpdate("10.65.2.0/26", "node-2", "node-2", "node-1", "", "node-3"),
				blockUpdate("10.65.1.0/26", "node-1", "node-1", "node-2"),
				blockUpdate("10.65.9.0/26", "", "", "node-2"),
			},
			"10.65.1.1/32 via 10.65.2.1 by vxlan\n10.65.2.0/26 via 10.65.2.1 by vxlan\n10.65.2.3/32 via 10.65.3.1 by vxlan\n" +
				"10.65.3.0/26 via 10.65.3.1 by vxlan\n10.65.9.1/32 via 10.65.2.1 by vxlan",
		},
		{
			"a tunnel's address that is borrowed",
			[]datastore.SyncUpdate{
				vxlanPool("p", "10.65.0.0/16", v3.VXLANModeAlways), vxlanPool("p6", "fd65::/48", v3.VXLANModeAlways),
				tunnelNode("node-2", "192.0.2.2/24", "10.65.1.9", "2001:db8::2/64", "fd65::3:1"),
				tunnelNode("node-3", "198.51.100.3/24", "10.65.3.1", "2001:db8:1::3/64", "fd65::3:2"),
				blockUpdate("10.65.1.0/26", "node-1", "", "", "", "", "", "", "", "", "", "node-2"),
				blockUpdate("fd65::3:0/122", "node-3", "", "node-2", "node-3", "node-2"),
			},
			"10.65.1.9/32 via 10.65.1.9 by vxlan\n10.65.2.0/26 via 10.65.1.9 by vxlan\n10.65.3.0/26 via 10.65.3.1 by vxlan\n" +
				"fd65::3:0/122 via fd65::3:2 by vxlan\nfd65::3:1/128 via itself by vxlan\nfd65::3:2/128 via itself by vxlan\nfd65::3:3/128 via fd65::3:1 by vxlan",
		},
		{
			"a claim that is no block of pods",
			[]datastore.SyncUpdate{
				vxlanPool("p", "0.0.0.0/0", v3.VXLANModeAlways),
				affinity("node-2", "192.0.2.0/26", api.AffinityConfirmed), affinity("node-2", "10.65.0.0/16", api.AffinityConfirmed),
				affinity("node-2", "198.51.100.0/26", api.AffinityConfirmed), affinity("node-2", "10.65.4.0/26", api.AffinityPending),
			},
			"10.65.2.0/26 via 10.65.2.1 by vxlan\n10.65.3.0/26 via 10.65.3.1 by vxlan",
		},
		{
			"two owners: the first by name",
			[]datastore.SyncUpdate{vxlanPool("p", "10.65.0.0/16", v3.VXLANModeAlways), affinity("node-3", "10.65.2.0/26", api.AffinityConfirmed)},
			"10.65.2.0/26 via 10.65.2.1 by vxlan\n10.65.3.0/26 via 10.65.3.1 by vxlan",
		},
		{
			"a node whose tunnel is not ready is left to BGP",
			[]datastore.SyncUpdate{vxlanPool("p", "10.65.0.0/16", v3.VXLANModeAlways), nodeUpdate("node-2", "192.0.2.2/24", "")},
			"10.65.3.0/26 via 10.65.3.1 by vxlan",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := stateOf(t, append(threeTunnelNodes(), tt.updates...)...)
			if got := brief(s.Remote); got != tt.want {
				t.Errorf("routes:\n%s\nwant:\n%s", got, tt.want)
			}
			if len(s.Problems) != 0 {
				t.Errorf("problems %v: what is wrong with another node is that node's to report", s.Problems)
			}
		})
	}
}

// TestTunnelAddressThatIsNoPodsDrawsNothing: a Node may name etcd's address, or the
// gateway's, as that of its tunnel.
func TestTunnelAddressThatIsNoPodsDrawsNothing(t *testing.T) {
	pools := []datastore.SyncUpdate{vxlanPool("p", "10.65.0.0/16", v3.VXLANModeAlways), vxlanPool("q", "fd65::/48", v3.VXLANModeAlways)}
	for name, wrong := range map[string][2]string{
		"in no pool": {"203.0.113.5", "2001:db8:9::5"}, "a gateway": {"192.0.2.254", "2001:db8::254"}, "a node": {"198.51.100.3", "2001:db8:1::3"},
	} {
		t.Run(name, func(t *testing.T) {
			updates := slices.Concat(threeTunnelNodes(), pools)
			others := slices.Concat(updates, []datastore.SyncUpdate{tunnelNode("node-3", "198.51.100.3/24", wrong[0], "2001:db8:1::3/64", wrong[1])})
			s := stateOf(t, others...)
			if got, want := brief(s.Remote), "10.65.2.0/26 via 10.65.2.1 by vxlan"; got != want || len(s.Problems) != 0 {
				t.Errorf("another's: routes %s, want %s; problems %v", got, want, s.Problems)
			}
			own := slices.Concat(updates, []datastore.SyncUpdate{tunnelNode("node-1", "192.0.2.1/24", wrong[0], "2001:db8::1/64", wrong[1])})
			s = stateOf(t, own...)
			if len(s.Remote) != 0 || len(s.Tunnels) != 0 || len(s.Problems) != 2 {
				t.Errorf("its own: tunnels %v, routes %s, problems %v; want two problems alone", s.Tunnels, brief(s.Remote), s.Problems)
			}
		})
	}
}

func TestOtherNodesMatterOnlyWithAnOverlay(t *testing.T) {
	g := calc.New("node-1")
	g.Update(append(threeTunnelNodes(), poolUpdate("p", "10.65.0.0/16", false, false)))
	for what, u := range map[string]datastore.SyncUpdate{
		"block": affinity("node-2", "10.65.7.0/26", api.AffinityConfirmed), "borrowed address": blockUpdate("10.65.7.0/26", "node-2", "node-3"),
	} {
		if g.Update([]datastore.SyncUpdate{u}) {
			t.Errorf("%s of another node matters without an overlay", what)
		}
	}
	g.Update([]datastore.SyncUpdate{vxlanPool("p", "10.65.0.0/16", v3.VXLANModeAlways)})
	if got := brief(g.State().Remote); !strings.Contains(got, "10.65.7.0/26") || !strings.Contains(got, "10.65.7.0/32") {
		t.Errorf("what came before the overlay is forgotten:\n%s", got)
	}
	g.Update([]datastore.SyncUpdate{gone(api.BlockKey(netip.MustParsePrefix("10.65.7.0/26")))})
	if g.Update([]datastore.SyncUpdate{blockUpdate("10.65.2.0/26", "node-2", "node-2", "node-2")}) {
		t.Error("a block of which nothing is borrowed matters")
	}
	if got := brief(g.State().Remote); strings.Contains(got, "10.65.7.0/32") {
		t.Errorf("a borrowed address of a block that is gone stays:\n%s", got)
	}
}

func TestPoolsThatGiveTunnelAddresses(t *testing.T) {
	s := stateOf(t,
		tunnelNode("node-1", "192.0.2.1/24", "", "", "", "rack1"),
		vxlanPool("a", "10.65.0.0/16", v3.VXLANModeAlways),
		vxlanPool("b", "fd65::/48", v3.VXLANModeCrossSubnet, func(s *v3.IPPoolSpec) { s.NodeSelector = "has(rack1)" }),
		vxlanPool("c", "10.66.0.0/16", v3.VXLANModeAlways, func(s *v3.IPPoolSpec) { s.Disabled = true }),
		vxlanPool("d", "10.67.0.0/16", v3.VXLANModeAlways, func(s *v3.IPPoolSpec) { s.AllowedUses = []v3.IPPoolAllowedUse{v3.IPPoolAllowedUseWorkload} }),
		vxlanPool("e", "10.68.0.0/16", v3.VXLANModeAlways, func(s *v3.IPPoolSpec) { s.NodeSelector = "has(rack2)" }),
		vxlanPool("f", "10.69.0.0/16", v3.VXLANModeNever),
		ipipPool("h", "10.71.0.0/16", v3.IPIPModeCrossSubnet),
		vxlanPool("g", "10.70.0.0/16", v3.VXLANModeAlways, func(s *v3.IPPoolSpec) { s.NodeSelector = "has(" }),
	)
	want := []calc.TunnelPool{
		{netip.MustParsePrefix("10.65.0.0/16"), true, overlay.VXLAN},
		{netip.MustParsePrefix("10.66.0.0/16"), false, overlay.VXLAN},
		{netip.MustParsePrefix("10.67.0.0/16"), false, overlay.VXLAN},
		{netip.MustParsePrefix("10.71.0.0/16"), true, overlay.IPIP},
		{netip.MustParsePrefix("fd65::/48"), true, overlay.VXLAN},
	}
	if d := diff(want, s.TunnelPools); d != "" {
		t.Error(d)
	}
}

// TestPoolsWhoseEncapsulationIsNeeded: where there is a node to encapsulate for, whether that
// is possible or not.
func TestPoolsWhoseEncapsulationIsNeeded(t *testing.T) {
	pools := []datastore.SyncUpdate{
		vxlanPool("a", "10.65.0.0/16", v3.VXLANModeCrossSubnet),
		vxlanPool("b", "10.66.0.0/16", "Crosssubnet"),
		ipipPool("c", "10.67.0.0/16", v3.IPIPModeAlways),
		vxlanPool("d", "10.68.0.0/16", v3.VXLANModeNever),
		vxlanPool("e", "fd65::/48", v3.VXLANModeAlways),
	}
	self, near, far := tunnelNode("node-1", "192.0.2.1/24", "", "", ""), tunnelNode("node-2", "192.0.2.2/24", "", "", ""), tunnelNode("node-3", "198.51.100.3/24", "", "", "")
	for _, tt := range []struct {
		name  string
		nodes []datastore.SyncUpdate
		want  string
	}{
		{"alone", []datastore.SyncUpdate{self}, ""},
		{"with one on the segment", []datastore.SyncUpdate{self, near}, "10.66.0.0/16 VXLAN wrong, 10.67.0.0/16 IPIP"},
		{"with one behind a router", []datastore.SyncUpdate{self, near, far}, "10.65.0.0/16 VXLAN, 10.66.0.0/16 VXLAN wrong, 10.67.0.0/16 IPIP"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, o := range stateOf(t, slices.Concat(pools, tt.nodes)...).Overlays {
				line := fmt.Sprint(o.Prefix, " ", o.By)
				if o.Wrong != "" {
					line += " wrong"
				}
				got = append(got, line)
			}
			if text := strings.Join(got, ", "); text != tt.want {
				t.Errorf("got  %s\nwant %s", text, tt.want)
			}
		})
	}
}

func TestPodsGoToNodesBehindATunnelUnderTheNodesAddress(t *testing.T) {
	nat := func(s *v3.IPPoolSpec) { s.NATOutgoing = true }
	for _, tt := range []struct {
		name  string
		pool  datastore.SyncUpdate
		pools []netip.Prefix
		nodes []netip.Prefix
	}{
		{"always", vxlanPool("p", "10.65.0.0/16", v3.VXLANModeAlways, nat), prefixes("10.65.0.0/16"), prefixes("192.0.2.2/32", "198.51.100.3/32")},
		{"cross-subnet", vxlanPool("p", "10.65.0.0/16", v3.VXLANModeCrossSubnet, nat), prefixes("10.65.0.0/16"), prefixes("198.51.100.3/32")},
		{"IPv6", vxlanPool("p", "fd65::/48", v3.VXLANModeCrossSubnet, nat), prefixes("fd65::/48"), prefixes("2001:db8:1::3/128")},
		{"without natOutgoing", vxlanPool("p", "10.65.0.0/16", v3.VXLANModeAlways), nil, nil},
		{"without VXLAN", vxlanPool("p", "10.65.0.0/16", v3.VXLANModeNever, nat), nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := stateOf(t, append(threeTunnelNodes(), tt.pool)...)
			if d := diff(calc.TunnelMasquerade{Pools: tt.pools, Nodes: tt.nodes}, s.TunnelMasquerade); d != "" {
				t.Error(d)
			}
		})
	}
}

// BenchmarkStateAmongManyNodes is a pod's share of a State: what is said of the other
// nodes is not computed anew.
func BenchmarkStateAmongManyNodes(b *testing.B) {
	g := calc.New("node-0")
	updates := []datastore.SyncUpdate{vxlanPool("p", "10.0.0.0/8", v3.VXLANModeAlways)}
	for i := range 1000 {
		name := fmt.Sprintf("node-%d", i)
		updates = append(updates, tunnelNode(name, fmt.Sprintf("192.168.%d.%d/16", i/250, i%250+1), fmt.Sprintf("10.%d.%d.1", i/250, i%250), "", ""))
		for block := range 4 {
			updates = append(updates, affinity(name, fmt.Sprintf("10.%d.%d.%d/26", i/250, i%250, 64*block), api.AffinityConfirmed))
		}
	}
	g.Update(updates)
	for b.Loop() {
		g.Update([]datastore.SyncUpdate{wep("node--0-k8s-p-eth0", "node-0", "cali00000000001", 0, "10.0.0.9/32")})
		g.State()
	}
}
