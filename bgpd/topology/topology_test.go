package topology

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"tortie/bgpd/speaker"
	"tortie/internal/api"
)

func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func aNode(name, v4, v6 string, labels ...string) *api.Node {
	n := &api.Node{ObjectMeta: meta(name), Spec: api.NodeSpec{BGP: &api.NodeBGPSpec{IPv4Address: v4, IPv6Address: v6}}}
	n.Labels = map[string]string{}
	for _, l := range labels {
		n.Labels[l] = "true"
	}
	return n
}

func reflector(n *api.Node, cluster string) *api.Node {
	n.Spec.BGP.RouteReflectorClusterID = cluster
	return n
}

func withASN(n *api.Node, asn uint32) *api.Node {
	n.Spec.BGP.ASNumber = asNumber(asn)
	return n
}

func asNumber(asn uint32) *numorstring.ASNumber {
	as := numorstring.ASNumber(asn)
	return &as
}

func aPeer(name string, spec v3.BGPPeerSpec) *v3.BGPPeer {
	return &v3.BGPPeer{ObjectMeta: meta(name), Spec: spec}
}

func defaultConfig(spec v3.BGPConfigurationSpec) []*v3.BGPConfiguration {
	return []*v3.BGPConfiguration{{ObjectMeta: meta("default"), Spec: spec}}
}

func affinity(node, cidr string, state api.AffinityState) *api.BlockAffinity {
	return &api.BlockAffinity{
		ObjectMeta: meta(node + cidr),
		Spec:       api.BlockAffinitySpec{State: state, Type: api.AffinityHost, Node: node, CIDR: cidr},
	}
}

func aPool(name, cidr string) *v3.IPPool {
	return &v3.IPPool{ObjectMeta: meta(name), Spec: v3.IPPoolSpec{CIDR: cidr}}
}

func threeNodes() []*api.Node {
	return []*api.Node{
		aNode("node1", "10.1.1.11/24", "fd01::11/64"), aNode("node2", "10.1.1.12/24", "fd01::12/64"),
		aNode("node3", "10.1.2.13/24", ""),
	}
}

// brief is a peer on one line.
func brief(p Peer) string {
	s := fmt.Sprintf("%s %s AS%d from %s, %s", p.Name, netip.AddrPortFrom(p.Address, p.Port), p.ASN, p.LocalAddress, p.Type)
	if p.Passive {
		s += ", passive"
	}
	if p.Multihop {
		s += ", multihop"
	}
	if p.ReflectorClient {
		s += ", client of " + p.ClusterID.String()
	}
	return s
}

func TestPeers(t *testing.T) {
	off := false
	for _, tt := range []struct {
		name     string
		in       Input
		want     []string
		problems []string // substrings, one each
	}{
		{
			"mesh over all nodes in every family both have",
			Input{Nodes: threeNodes()},
			[]string{
				"node2 10.1.1.12:179 AS64512 from 10.1.1.11, node-to-node mesh",
				"node3 10.1.2.13:179 AS64512 from 10.1.1.11, node-to-node mesh",
				"node2 [fd01::12]:179 AS64512 from fd01::11, node-to-node mesh",
			},
			nil,
		},
		{
			"the greater text of the addresses waits, as upstream has it",
			Input{Nodes: []*api.Node{aNode("node1", "10.1.1.9/24", ""), aNode("node2", "10.1.1.10/24", "")}},
			[]string{"node2 10.1.1.10:179 AS64512 from 10.1.1.9, node-to-node mesh, passive"},
			nil,
		},
		{"mesh switched off", Input{Nodes: threeNodes(), Configs: defaultConfig(v3.BGPConfigurationSpec{NodeToNodeMeshEnabled: &off})}, nil, nil},
		{
			"reflectors stay out of the mesh",
			Input{Nodes: []*api.Node{aNode("node1", "10.1.1.11/24", ""), reflector(aNode("node2", "10.1.1.12/24", ""), "244.0.0.1"), aNode("node3", "10.1.2.13/24", "")}},
			[]string{"node3 10.1.2.13:179 AS64512 from 10.1.1.11, node-to-node mesh"},
			nil,
		},
		{
			"a node with another AS number is an external peer",
			Input{Nodes: []*api.Node{aNode("node1", "10.1.1.11/24", ""), withASN(aNode("node2", "10.1.1.12/24", ""), 65001)}},
			[]string{"node2 10.1.1.12:179 AS65001 from 10.1.1.11, node-to-node mesh, multihop"},
			nil,
		},
		{
			"the listen port of a node's own configuration",
			Input{
				Nodes:   []*api.Node{aNode("node1", "10.1.1.11/24", ""), aNode("node2", "10.1.1.12/24", "")},
				Configs: []*v3.BGPConfiguration{{ObjectMeta: meta("node.node2"), Spec: v3.BGPConfigurationSpec{ListenPort: 1790}}},
			},
			[]string{"node2 10.1.1.12:1790 AS64512 from 10.1.1.11, node-to-node mesh"},
			nil,
		},
		{
			"global, node and selector peers",
			Input{
				Nodes: []*api.Node{aNode("node1", "10.1.1.11/24", "fd01::11/64", "rack1"), aNode("node2", "", "", "rack2")},
				Peers: []*v3.BGPPeer{
					aPeer("all", v3.BGPPeerSpec{PeerIP: "10.1.1.254", ASNumber: 64999}),
					aPeer("mine", v3.BGPPeerSpec{Node: "node1", PeerIP: "[fd01::fe]:1179", ASNumber: 64512}),
					aPeer("other", v3.BGPPeerSpec{Node: "node2", PeerIP: "10.1.1.253", ASNumber: 64999}),
					aPeer("rack", v3.BGPPeerSpec{NodeSelector: "rack1 == 'true'", PeerIP: "10.1.1.252:180", ASNumber: 64999}),
					aPeer("rack2", v3.BGPPeerSpec{NodeSelector: "has(rack2)", PeerIP: "10.1.1.251", ASNumber: 64999}),
				},
			},
			[]string{
				"rack 10.1.1.252:180 AS64999 from 10.1.1.11, node specific, multihop",
				"all 10.1.1.254:179 AS64999 from 10.1.1.11, global, multihop",
				"mine [fd01::fe]:1179 AS64512 from fd01::11, node specific",
			},
			nil,
		},
		{
			"a global peer that is this node itself",
			Input{
				Nodes: []*api.Node{aNode("node1", "10.1.1.11/24", "")},
				Peers: []*v3.BGPPeer{aPeer("self", v3.BGPPeerSpec{PeerIP: "10.1.1.11", ASNumber: 64512})},
			},
			nil, nil,
		},
		{
			"a node's own peer that is this node itself, by either address, and one on its loopback",
			Input{
				Nodes: []*api.Node{aNode("node1", "10.1.1.11/24", "fd01::11/64", "rack")},
				Peers: []*v3.BGPPeer{
					aPeer("four", v3.BGPPeerSpec{Node: "node1", PeerIP: "10.1.1.11", ASNumber: 64512}),
					aPeer("loop", v3.BGPPeerSpec{PeerIP: "127.0.0.1", ASNumber: 64512}),
					aPeer("rack", v3.BGPPeerSpec{NodeSelector: "has(rack)", PeerIP: "fd01::11", ASNumber: 64512}),
					aPeer("six", v3.BGPPeerSpec{Node: "node1", PeerIP: "fd01::11", ASNumber: 64512}),
				},
			},
			nil,
			[]string{
				"BGPPeer four: spec.peerIP 10.1.1.11 is the address of node node1 itself: set it to that of the router to peer with; the peer is not configured",
				`BGPPeer loop: spec.peerIP "127.0.0.1": no peer can have this address`,
				"BGPPeer six: spec.peerIP fd01::11 is the address of node node1 itself",
			},
		},
		{
			"a peer with the address of a mesh node that agrees takes its place",
			Input{
				Nodes: threeNodes(),
				Peers: []*v3.BGPPeer{
					aPeer("four", v3.BGPPeerSpec{PeerIP: "10.1.1.12", ASNumber: 64512}),
					aPeer("six", v3.BGPPeerSpec{Node: "node1", PeerIP: "[fd01::12]:179", ASNumber: 64512}),
				},
			},
			[]string{
				"node2 10.1.1.12:179 AS64512 from 10.1.1.11, global",
				"node3 10.1.2.13:179 AS64512 from 10.1.1.11, node-to-node mesh",
				"node2 [fd01::12]:179 AS64512 from fd01::11, node specific",
			},
			nil,
		},
		{
			"a peer with the address of a mesh node that can't agree to it leaves the mesh session",
			Input{
				Nodes: threeNodes(),
				Peers: []*v3.BGPPeer{
					aPeer("asn", v3.BGPPeerSpec{PeerIP: "10.1.1.12", ASNumber: 65001}),
					aPeer("local", v3.BGPPeerSpec{PeerIP: "10.1.2.13", ASNumber: 64512, LocalASNumber: asNumber(65002)}),
					aPeer("port", v3.BGPPeerSpec{PeerIP: "[fd01::12]:1179", ASNumber: 64512}),
				},
			},
			[]string{
				"node2 10.1.1.12:179 AS64512 from 10.1.1.11, node-to-node mesh",
				"node3 10.1.2.13:179 AS64512 from 10.1.1.11, node-to-node mesh",
				"node2 [fd01::12]:179 AS64512 from fd01::11, node-to-node mesh",
			},
			[]string{
				"BGPPeer asn: 10.1.1.12 is the address of mesh node node2, whose AS number is 64512, not 65001: " +
					"set spec.asNumber to 64512, or delete the BGPPeer; the peer is not configured and the mesh session stays",
				"BGPPeer local: 10.1.2.13 is the address of mesh node node3, which knows this node by AS number 64512, not 65002: unset spec.localASNumber",
				"BGPPeer port: fd01::12 is the address of mesh node node2, which listens on port 179, not 1179: leave the port out",
			},
		},
		{
			"one that takes the place of a mesh session waits or connects as that does",
			Input{
				Node: "node2", Nodes: []*api.Node{aNode("node1", "10.1.1.11/24", ""), aNode("node2", "10.1.1.12/24", "")},
				Peers: []*v3.BGPPeer{aPeer("one-sided", v3.BGPPeerSpec{Node: "node2", PeerIP: "10.1.1.11", ASNumber: 64512})},
			},
			[]string{"node1 10.1.1.11:179 AS64512 from 10.1.1.12, node specific, passive"},
			nil,
		},
		{
			"a refused peer leaves the address to the next that asks for it",
			Input{
				Nodes: threeNodes()[:2],
				Peers: []*v3.BGPPeer{
					aPeer("bad", v3.BGPPeerSpec{Node: "node1", PeerIP: "10.1.1.12", ASNumber: 65001}),
					aPeer("good", v3.BGPPeerSpec{PeerIP: "10.1.1.12", ASNumber: 64512}),
				},
			},
			[]string{
				"node2 10.1.1.12:179 AS64512 from 10.1.1.11, global",
				"node2 [fd01::12]:179 AS64512 from fd01::11, node-to-node mesh",
			},
			[]string{"BGPPeer bad: 10.1.1.12 is the address of mesh node node2"},
		},
		{
			"without the mesh a node may be peered with by any AS number",
			Input{
				Nodes: threeNodes()[:2], Configs: defaultConfig(v3.BGPConfigurationSpec{NodeToNodeMeshEnabled: &off}),
				Peers: []*v3.BGPPeer{aPeer("asn", v3.BGPPeerSpec{PeerIP: "10.1.1.12", ASNumber: 65001})},
			},
			[]string{"node2 10.1.1.12:179 AS65001 from 10.1.1.11, global, multihop"},
			nil,
		},
		{
			"another node with this node's address is no peer, by mesh, selector or address",
			Input{
				Node:  "node2",
				Nodes: []*api.Node{aNode("node1", "10.1.1.11/24", "", "rack"), aNode("node2", "10.1.1.11/24", "")},
				Peers: []*v3.BGPPeer{
					aPeer("addr", v3.BGPPeerSpec{PeerIP: "10.1.1.11", ASNumber: 64512}),
					aPeer("sel", v3.BGPPeerSpec{PeerSelector: "has(rack)"}),
				},
			},
			nil,
			nil, // felix of this node says it
		},
		{
			"two other nodes with both addresses are one problem",
			Input{
				Nodes: []*api.Node{aNode("node3", "10.1.1.12/24", "fd01::12/64"), aNode("node2", "10.1.1.12/24", "fd01::12/64"), aNode("node1", "10.1.1.11/24", "")},
			},
			[]string{"node2 10.1.1.12:179 AS64512 from 10.1.1.11, node-to-node mesh"},
			[]string{"Node node2 and Node node3 have the same address 10.1.1.12 and fd01::12: correct spec.bgp of one of them; until then 10.1.1.12 and fd01::12 are taken for node2"},
		},
		{
			"two other nodes with one address are one session, to the first by name",
			Input{
				Nodes: []*api.Node{
					withASN(aNode("node3", "10.1.1.12/24", "fd01::13/64"), 65003), withASN(aNode("node2", "10.1.1.12/24", ""), 65002),
					aNode("node1", "10.1.1.11/24", "fd01::11/64"),
				},
			},
			[]string{
				"node2 10.1.1.12:179 AS65002 from 10.1.1.11, node-to-node mesh, multihop",
				"node3 [fd01::13]:179 AS65003 from fd01::11, node-to-node mesh, multihop",
			},
			[]string{"Node node2 and Node node3 have the same address 10.1.1.12: correct spec.bgp of one of them; until then 10.1.1.12 is taken for node2"},
		},
		{
			// As upstream has it: whom the resource itself names a peer is one of all nodes', the way back is the node's own.
			"the types of both ways of a peerSelector for all nodes",
			Input{
				Node: "rr", Configs: defaultConfig(v3.BGPConfigurationSpec{NodeToNodeMeshEnabled: &off}),
				Nodes: []*api.Node{aNode("rr", "10.1.1.1/24", "", "rr"), aNode("rr2", "10.1.1.2/24", "", "rr"), aNode("node1", "10.1.1.11/24", "")},
				Peers: []*v3.BGPPeer{aPeer("to-rr", v3.BGPPeerSpec{PeerSelector: "has(rr)"})},
			},
			[]string{"rr2 10.1.1.2:179 AS64512 from 10.1.1.1, global", "node1 10.1.1.11:179 AS64512 from 10.1.1.1, node specific"},
			nil,
		},
		{
			"a reflector and its clients, both ways of one peerSelector",
			Input{
				Node: "rr", Configs: defaultConfig(v3.BGPConfigurationSpec{NodeToNodeMeshEnabled: &off}),
				Nodes: []*api.Node{
					reflector(aNode("rr", "10.1.1.1/24", "", "rr"), "244.0.0.1"), reflector(aNode("rr2", "10.1.1.2/24", "", "rr"), "244.0.0.1"),
					aNode("node1", "10.1.1.11/24", ""),
				},
				Peers: []*v3.BGPPeer{aPeer("to-rr", v3.BGPPeerSpec{NodeSelector: "all()", PeerSelector: "has(rr)"})},
			},
			[]string{
				"rr2 10.1.1.2:179 AS64512 from 10.1.1.1, node specific",
				"node1 10.1.1.11:179 AS64512 from 10.1.1.1, node specific, client of 244.0.0.1",
			},
			nil,
		},
		{
			"a bad peer disables only itself",
			Input{
				Nodes: []*api.Node{aNode("node1", "10.1.1.11/24", "")},
				Peers: []*v3.BGPPeer{
					aPeer("address", v3.BGPPeerSpec{PeerIP: "10.1.1", ASNumber: 1}),
					aPeer("asn", v3.BGPPeerSpec{PeerIP: "10.1.1.250"}),
					aPeer("empty", v3.BGPPeerSpec{}),
					aPeer("family", v3.BGPPeerSpec{PeerIP: "fd01::fe", ASNumber: 64999}),
					aPeer("filtered", v3.BGPPeerSpec{PeerIP: "10.1.1.249", ASNumber: 64999, Filters: []string{"f1"}}),
					aPeer("good", v3.BGPPeerSpec{PeerIP: "10.1.1.254", ASNumber: 64999}),
					aPeer("selector", v3.BGPPeerSpec{NodeSelector: "a ==", PeerIP: "10.1.1.253", ASNumber: 64999}),
					aPeer("taken", v3.BGPPeerSpec{PeerIP: "10.1.1.254", ASNumber: 64998}),
				},
			},
			[]string{"good 10.1.1.254:179 AS64999 from 10.1.1.11, global, multihop"},
			[]string{
				`BGPPeer address: spec.peerIP "10.1.1": want an address`, "BGPPeer asn: spec.asNumber is not set",
				"BGPPeer empty: neither spec.peerIP nor spec.peerSelector is set", "BGPPeer family: fd01::fe can't be reached: this node has no address",
				"BGPPeer filtered: spec.filters[0]: there is no BGPFilter f1", "BGPPeer selector: spec.nodeSelector: ",
				"BGPPeer taken: 10.1.1.254 is already the peer of BGPPeer good",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.in.Node == "" {
				tt.in.Node = "node1"
			}
			out := Compute(tt.in)
			var got []string
			for _, p := range out.Peers {
				got = append(got, brief(p))
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("peers (-want +got):\n%s", d)
			}
			if len(out.Problems) != len(tt.problems) {
				t.Fatalf("problems %q, want %q", out.Problems, tt.problems)
			}
			for i, want := range tt.problems {
				if !strings.HasPrefix(out.Problems[i], want) {
					t.Errorf("problem %q, want %q…", out.Problems[i], want)
				}
			}
		})
	}
}

// TestBothSidesOfAMeshSessionAgree: exactly one side connects, to the port the
// other listens on, with the AS number it has.
func TestBothSidesOfAMeshSessionAgree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		in := Input{Nodes: genNodes(rt)}
		sides := map[[2]netip.Addr]Peer{}
		globals := map[netip.Addr]uint32{}
		for _, n := range in.Nodes {
			in.Node = n.Name
			out := Compute(in)
			for _, a := range out.Addresses {
				globals[a] = out.Global.ASN
			}
			for _, p := range out.Peers {
				sides[[2]netip.Addr{p.LocalAddress, p.Address}] = p
			}
		}
		for ends, p := range sides {
			back, ok := sides[[2]netip.Addr{ends[1], ends[0]}]
			if !ok || back.Passive == p.Passive {
				rt.Fatalf("%v has no counterpart that fits: %v", p, back)
			}
			if globals[p.Address] != p.ASN {
				rt.Fatalf("%v: the peer's AS number is %d", p, globals[p.Address])
			}
		}
	})
}

func genNodes(rt *rapid.T) []*api.Node {
	var out []*api.Node
	for i := range rapid.IntRange(0, 5).Draw(rt, "nodes") {
		n := aNode(fmt.Sprintf("node%d", i+1), "", "", rapid.SampledFrom([]string{"rr", "rack1", "rack2"}).Draw(rt, "label"))
		if rapid.IntRange(0, 9).Draw(rt, "v4") > 0 {
			n.Spec.BGP.IPv4Address = fmt.Sprintf("10.1.1.%d/24", i+7)
		}
		if rapid.Bool().Draw(rt, "v6") {
			n.Spec.BGP.IPv6Address = fmt.Sprintf("fd01::%d/64", i+7)
		}
		if rapid.IntRange(0, 4).Draw(rt, "asn") == 0 {
			n = withASN(n, 65000+uint32(i))
		}
		out = append(out, n)
	}
	return out
}

func genInput(rt *rapid.T) Input {
	in := Input{Node: rapid.SampledFrom([]string{"node1", "node1", "node3"}).Draw(rt, "self"), Nodes: genNodes(rt)}
	for _, n := range in.Nodes {
		if rapid.IntRange(0, 4).Draw(rt, "copied") == 0 {
			n.Spec.BGP.IPv4Address = "10.1.1.8/24"
		}
	}
	for i := range rapid.IntRange(0, 4).Draw(rt, "peers") {
		in.Peers = append(in.Peers, aPeer(fmt.Sprintf("p%d", i), v3.BGPPeerSpec{
			Node:         rapid.SampledFrom([]string{"", "", "node1", "node2"}).Draw(rt, "node"),
			NodeSelector: rapid.SampledFrom([]string{"", "", "all()", "has(rr)", "(("}).Draw(rt, "nodeSelector"),
			PeerIP:       rapid.SampledFrom([]string{"", "10.1.1.8", "10.1.1.254", "fd01::fe", "x"}).Draw(rt, "peerIP"),
			PeerSelector: rapid.SampledFrom([]string{"", "has(rr)", "all()"}).Draw(rt, "peerSelector"),
			ASNumber:     numorstring.ASNumber(rapid.SampledFrom([]uint32{0, 64512, 64999}).Draw(rt, "asn")),
		}))
	}
	for i := range rapid.IntRange(0, 5).Draw(rt, "affinities") {
		in.Affinities = append(in.Affinities, affinity(
			rapid.SampledFrom([]string{"node1", "node2"}).Draw(rt, "owner"),
			fmt.Sprintf("10.65.%d.0/26", rapid.IntRange(0, 3).Draw(rt, "block")),
			rapid.SampledFrom([]api.AffinityState{api.AffinityConfirmed, api.AffinityPending}).Draw(rt, "state")))
		in.Affinities[i].Name += fmt.Sprint(i)
	}
	for i := range rapid.IntRange(0, 3).Draw(rt, "pools") {
		p := aPool(fmt.Sprintf("pool%d", i), rapid.SampledFrom([]string{"10.65.0.0/16", "10.65.1.0/24", "junk"}).Draw(rt, "cidr"))
		p.Spec.DisableBGPExport = rapid.Bool().Draw(rt, "disabled")
		in.Pools = append(in.Pools, p)
	}
	for i := range rapid.IntRange(0, 3).Draw(rt, "blocks") {
		in.Blocks = append(in.Blocks, block(fmt.Sprintf("10.65.%d.0/26", i), rapid.IntRange(0, 70).Draw(rt, "ordinal"), "node1"))
	}
	return in
}

// block has one address in use on a node, at an ordinal.
func block(cidr string, ordinal int, node string) *api.IPAMBlock {
	b := &api.IPAMBlock{ObjectMeta: meta(cidr), Spec: api.IPAMBlockSpec{CIDR: cidr, Allocations: make([]*int, 64)}}
	if ordinal < 64 {
		index := 0
		b.Spec.Allocations[ordinal] = &index
	}
	b.Spec.Attributes = []api.BlockAttributes{{ActiveOwnerAttrs: map[string]string{api.AttributeNode: node}}}
	return b
}

func TestOutputDoesNotDependOnTheOrderOfTheInput(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		in := genInput(rt)
		first := Compute(in)
		r := rand.New(rand.NewPCG(1, uint64(rapid.IntRange(0, 1000).Draw(rt, "seed"))))
		shuffle(r, in.Nodes)
		shuffle(r, in.Peers)
		shuffle(r, in.Affinities)
		shuffle(r, in.Blocks)
		shuffle(r, in.Pools)
		if d := cmp.Diff(first, Compute(in), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
			rt.Fatalf("another order, another output:\n%s", d)
		}
		seen := map[netip.Addr]bool{}
		for _, p := range first.Peers {
			if seen[p.Address] || slices.Contains(first.Addresses, p.Address) {
				rt.Fatalf("peer %s twice, or ourselves", p.Address)
			}
			seen[p.Address] = true
		}
	})
}

func shuffle[T any](r *rand.Rand, s []T) {
	r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

func TestExports(t *testing.T) {
	hidden := aPool("hidden", "10.66.0.0/16")
	hidden.Spec.DisableBGPExport = true
	disabled := aPool("disabled", "10.67.0.0/16")
	disabled.Spec.Disabled = true
	out := Compute(Input{
		Node: "node1", Nodes: threeNodes(),
		Pools: []*v3.IPPool{aPool("v4", "10.65.0.0/16"), aPool("v6", "fd65::/16"), hidden, disabled},
		Affinities: []*api.BlockAffinity{
			affinity("node1", "10.65.1.0/26", api.AffinityConfirmed), affinity("node1", "fd65:1::/122", api.AffinityConfirmed),
			affinity("node1", "10.65.1.64/26", api.AffinityPending), affinity("node1", "10.66.1.0/26", api.AffinityConfirmed),
			affinity("node1", "10.67.1.0/26", api.AffinityConfirmed), affinity("node1", "192.0.2.0/26", api.AffinityConfirmed),
			affinity("node2", "10.65.2.0/26", api.AffinityConfirmed), affinity("node2", "192.0.2.64/26", api.AffinityPending),
		},
		Blocks: []*api.IPAMBlock{
			block("10.65.1.0/26", 3, "node1"), block("10.65.2.0/26", 5, "node1"), block("10.65.9.0/26", 7, "node1"),
			block("10.65.2.64/26", 5, "node3"), block("fd65:2::/122", 63, "node1"),
			block("192.0.2.64/26", 1, "node1"), block("10.66.2.0/26", 1, "node1"),
		},
	})
	want := []Export{
		{Prefix: netip.MustParsePrefix("10.65.1.0/26"), Reason: "block of this node"},
		{Prefix: netip.MustParsePrefix("10.65.2.5/32"), Reason: "address borrowed from block 10.65.2.0/26 of node2"},
		{Prefix: netip.MustParsePrefix("10.65.9.7/32"), Reason: "address in block 10.65.9.0/26, which has no owner"},
		{Prefix: netip.MustParsePrefix("10.67.1.0/26"), Reason: "block of this node"},
		{Prefix: netip.MustParsePrefix("192.0.2.0/26"), Reason: "block of this node; its pool is gone"},
		{Prefix: netip.MustParsePrefix("192.0.2.65/32"), Reason: "address in block 192.0.2.64/26, which has no owner; its pool is gone"},
		{Prefix: netip.MustParsePrefix("fd65:1::/122"), Reason: "block of this node"},
		{Prefix: netip.MustParsePrefix("fd65:2::3f/128"), Reason: "address in block fd65:2::/122, which has no owner"},
	}
	if d := cmp.Diff(want, out.Exports, cmpopts.EquateComparable(netip.Prefix{})); d != "" {
		t.Errorf("exports (-want +got):\n%s", d)
	}
	for _, b := range []string{"10.65.1.64/26", "10.65.2.0/26", "192.0.2.64/26"} {
		if !out.Blocks[netip.MustParsePrefix(b)] {
			t.Errorf("block %s, which has an affinity, is not known", b)
		}
	}
	if out.Blocks[netip.MustParsePrefix("10.65.9.0/26")] {
		t.Error("a block without affinity is known as one with")
	}
}

// TestConfirmedBlockIsExportedUnlessItsPoolForbidsIt: a pool that is gone or
// can't be read takes no block away, and another node takes what is announced.
func TestConfirmedBlockIsExportedUnlessItsPoolForbidsIt(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		in := genInput(rt)
		out := Compute(in)
		if out.Missing != "" {
			return
		}
		exports := map[netip.Prefix]bool{}
		for _, e := range out.Exports {
			exports[e.Prefix] = true
		}
		for _, a := range in.Affinities {
			block := netip.MustParsePrefix(a.Spec.CIDR)
			if a.Spec.Node != in.Node || a.Spec.State != api.AffinityConfirmed {
				continue
			}
			allowed := true
			for _, p := range in.Pools {
				if cidr, err := netip.ParsePrefix(p.Spec.CIDR); err == nil && cidr.Contains(block.Addr()) {
					allowed = allowed && !p.Spec.DisableBGPExport
				}
			}
			if allowed && !exports[block] || !allowed && !anyAllows(in.Pools, block) && exports[block] {
				rt.Fatalf("block %s exported: %v, pools %v", block, exports[block], in.Pools)
			}
			if !out.Blocks[block] {
				rt.Fatalf("block %s is not known", block)
			}
		}
	})
}

func anyAllows(pools []*v3.IPPool, block netip.Prefix) bool {
	return slices.ContainsFunc(pools, func(p *v3.IPPool) bool {
		cidr, err := netip.ParsePrefix(p.Spec.CIDR)
		return err == nil && cidr.Contains(block.Addr()) && !p.Spec.DisableBGPExport
	})
}

func TestBlocksOfPoolsOfEveryModeAreExported(t *testing.T) {
	ipip, vxlan, never := aPool("ipip", "10.65.0.0/16"), aPool("vxlan", "10.66.0.0/16"), aPool("never", "10.67.0.0/16")
	ipip.Spec.IPIPMode, ipip.Spec.VXLANMode = v3.IPIPModeAlways, v3.VXLANModeNever
	vxlan.Spec.IPIPMode, vxlan.Spec.VXLANMode = v3.IPIPModeNever, v3.VXLANModeCrossSubnet
	never.Spec.IPIPMode, never.Spec.VXLANMode = v3.IPIPModeNever, v3.VXLANModeNever
	out := Compute(Input{
		Node: "node1", Nodes: threeNodes(), Pools: []*v3.IPPool{ipip, vxlan, never, aPool("unset", "10.68.0.0/16")},
		Affinities: []*api.BlockAffinity{
			affinity("node1", "10.65.1.0/26", api.AffinityConfirmed), affinity("node1", "10.66.1.0/26", api.AffinityConfirmed),
		},
	})
	if len(out.Problems) != 0 {
		t.Errorf("problems: %v", out.Problems)
	}
	if len(out.Exports) != 2 || out.Exports[0].Reason != "block of this node" || out.Exports[1].Reason != "block of this node" {
		t.Errorf("exports %v", out.Exports)
	}
}

func TestGlobal(t *testing.T) {
	asn, bind := numorstring.ASNumber(64600), v3.BindModeNodeIP
	out := Compute(Input{
		Node: "node3", Nodes: []*api.Node{aNode("node3", "", "fd01::3/64")},
		Configs: defaultConfig(v3.BGPConfigurationSpec{ASNumber: &asn, BindMode: &bind, ListenPort: 1790}),
	})
	g := out.Global
	if g.ASN != 64600 || g.Port != 1790 || len(g.Listen) != 1 || g.Listen[0] != netip.MustParseAddr("fd01::3") || g.Transit {
		t.Errorf("global %+v", g)
	}
	if !g.RouterID.Is4() || g.RouterID.As4()[0] == 0 || g.RouterID.As4()[0] >= 224 {
		t.Errorf("router ID %s of an IPv6 node", g.RouterID)
	}
	if v4 := Compute(Input{Node: "node1", Nodes: threeNodes()}).Global.RouterID; v4 != netip.MustParseAddr("10.1.1.11") {
		t.Errorf("router ID %s, want the IPv4 address", v4)
	}
}

// TestOnlyAReflectorHasSegments: to a node without Transit they would mean nothing,
// and a change of them would reset its sessions.
func TestOnlyAReflectorHasSegments(t *testing.T) {
	rr := reflector(aNode("rr", "10.1.1.1/24", "fd01::1/64"), "244.0.0.1")
	for node, want := range map[string]string{"rr": "[10.1.1.0/24 fd01::/64]", "node1": "[]"} {
		g := Compute(Input{Node: node, Nodes: []*api.Node{rr, aNode("node1", "10.1.1.11/24", "")}}).Global
		if got := fmt.Sprint(g.Segments); got != want {
			t.Errorf("%s: segments %s, want %s", node, got, want)
		}
	}
	if g := Compute(Input{Node: "rr", Nodes: []*api.Node{reflector(aNode("rr", "10.1.1.1", ""), "244.0.0.1")}}).Global; len(g.Segments) != 0 {
		t.Errorf("segments %v of an address without a prefix length", g.Segments)
	}
}

// TestValueThatMakesNoSenseTurnsItsPeerOff: the store may have been written by anyone.
func TestValueThatMakesNoSenseTurnsItsPeerOff(t *testing.T) {
	drop, sometimes, minus := v3.NextHopMode("Drop"), v3.ReversePeering("Sometimes"), int32(-1)
	for field, spec := range map[string]v3.BGPPeerSpec{
		"nextHopMode":              {NextHopMode: &drop},
		"sourceAddress":            {SourceAddress: "Any"},
		"reversePeering":           {ReversePeering: &sometimes},
		"numAllowedLocalASNumbers": {NumAllowedLocalASNumbers: &minus},
		"maxRestartTime":           {MaxRestartTime: &metav1.Duration{Duration: 2 * time.Hour}},
	} {
		t.Run(field, func(t *testing.T) {
			spec.PeerIP, spec.ASNumber = "10.1.1.254", 64999
			out := Compute(Input{Node: "node1", Nodes: threeNodes()[:1], Peers: []*v3.BGPPeer{
				aPeer("p", spec), aPeer("other", v3.BGPPeerSpec{PeerIP: "10.1.1.253", ASNumber: 64999}),
			}})
			if len(out.Problems) != 1 || !strings.HasPrefix(out.Problems[0], "BGPPeer p: spec."+field+": ") || len(out.Peers) != 1 {
				t.Errorf("peers %v, problems %q", out.Peers, out.Problems)
			}
		})
	}
}

func TestValueOfABGPConfigurationThatMakesNoSense(t *testing.T) {
	somewhere, none := v3.BindMode("Somewhere"), numorstring.ASNumber(0)
	out := Compute(Input{Node: "node1", Nodes: threeNodes()[:2], Configs: defaultConfig(v3.BGPConfigurationSpec{BindMode: &somewhere, ASNumber: &none})})
	if len(out.Problems) != 2 || out.Global.ASN != DefaultASN || len(out.Peers) != 2 {
		t.Errorf("AS %d, peers %v, problems %q", out.Global.ASN, out.Peers, out.Problems)
	}
}

// TestOneSessionWithAnAddress: whatever the ports, and that is said.
func TestOneSessionWithAnAddress(t *testing.T) {
	out := Compute(Input{Node: "node1", Nodes: threeNodes()[:1], Peers: []*v3.BGPPeer{
		aPeer("a", v3.BGPPeerSpec{PeerIP: "10.1.1.254:1790", ASNumber: 64999}), aPeer("b", v3.BGPPeerSpec{PeerIP: "10.1.1.254:1791", ASNumber: 64999}),
	}})
	want := "BGPPeer b: 10.1.1.254 is already the peer of BGPPeer a, on port 1790: this version has one session with an address, whatever the ports; " +
		"give the other speaker there an address of its own; it is not configured"
	if len(out.Peers) != 1 || out.Peers[0].Name != "a" || len(out.Problems) != 1 || out.Problems[0] != want {
		t.Errorf("peers %v, problems %q", out.Peers, out.Problems)
	}
}

func TestPeerThatMeansNoNodeIsNamed(t *testing.T) {
	nodes := threeNodes()
	nodes[1].Labels = map[string]string{"rack": "2"}
	for _, tt := range []struct {
		name string
		spec v3.BGPPeerSpec
		want string
	}{
		{"a node", v3.BGPPeerSpec{Node: "node2", PeerIP: "10.1.1.254", ASNumber: 1}, ""},
		{"a label", v3.BGPPeerSpec{NodeSelector: "rack == '2'", PeerIP: "10.1.1.254", ASNumber: 1}, ""},
		{"no such node", v3.BGPPeerSpec{Node: "node9", PeerIP: "10.1.1.254", ASNumber: 1}, "spec.node: there is no Node node9"},
		{"no such label", v3.BGPPeerSpec{NodeSelector: "rack == '9'", PeerIP: "10.1.1.254", ASNumber: 1}, "spec.nodeSelector rack == '9' matches no Node: see the labels in calicoctl get nodes -o yaml"},
		{"nobody to peer with", v3.BGPPeerSpec{PeerSelector: "has(rr)"}, "spec.peerSelector has(rr) matches no Node: see the labels in calicoctl get nodes -o yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var want []string
			if tt.want != "" {
				want = []string{"BGPPeer p: " + tt.want + "; nobody has this session"}
			}
			out := Compute(Input{Node: "node1", Nodes: nodes, Peers: []*v3.BGPPeer{aPeer("p", tt.spec)}})
			if d := cmp.Diff(want, out.Problems); d != "" {
				t.Errorf("problems (-want +got):\n%s", d)
			}
		})
	}
}

func TestGatewayOfAPeer(t *testing.T) {
	for _, tt := range []struct{ name, peer, by, want string }{
		{"IPv4", "10.9.9.9", "10.1.1.254", ""},
		{"IPv6", "fd09::9", "fd01::fe", ""},
		{"no address", "10.9.9.9", "router", `spec.reachableBy "router" is not the address of a router`},
		{"nobody's address", "10.9.9.9", "0.0.0.0", `spec.reachableBy "0.0.0.0" is not the address of a router`},
		{"another family", "10.9.9.9", "fd01::fe", "spec.reachableBy fd01::fe is not of the family of spec.peerIP 10.9.9.9"},
		{"the peer itself", "10.9.9.9", "10.9.9.9", "spec.reachableBy 10.9.9.9 is the peer itself: leave it out, or name the router on the way"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := Compute(Input{Node: "node1", Nodes: threeNodes()[:1], Peers: []*v3.BGPPeer{
				aPeer("p", v3.BGPPeerSpec{PeerIP: tt.peer, ASNumber: 64999, ReachableBy: tt.by}),
				aPeer("other", v3.BGPPeerSpec{PeerIP: "10.1.1.253", ASNumber: 64999}),
			}})
			if tt.want == "" {
				if got := fmt.Sprint(out.Gateways()); got != "map["+tt.peer+":"+tt.by+"]" || len(out.Problems) > 0 {
					t.Errorf("gateways %s, problems %q", got, out.Problems)
				}
				return
			}
			if want := "BGPPeer p: " + tt.want + "; the peer is not configured"; len(out.Problems) != 1 || out.Problems[0] != want || len(out.Peers) != 1 {
				t.Errorf("problems %q, want %q", out.Problems, want)
			}
		})
	}
}

func TestNextHopModes(t *testing.T) {
	mode := func(m string) *v3.NextHopMode { mode := v3.NextHopMode(m); return &mode }
	for _, tt := range []struct {
		name string
		asn  numorstring.ASNumber
		mode *v3.NextHopMode
		keep bool
		want speaker.NextHopMode
	}{
		{"nothing said", 64999, nil, false, speaker.NextHopAuto},
		{"Auto", 64999, mode("Auto"), false, speaker.NextHopAuto},
		{"Self", 64999, mode("Self"), false, speaker.NextHopSelf},
		{"Keep", 64512, mode("Keep"), false, speaker.NextHopKeep},
		{"the older field, external", 64999, nil, true, speaker.NextHopKeep},
		{"the older field counts for external peers alone", 64512, nil, true, speaker.NextHopAuto},
		{"the mode overrules the older field", 64999, mode("Auto"), true, speaker.NextHopAuto},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := Compute(Input{Node: "node1", Nodes: threeNodes()[:1], Peers: []*v3.BGPPeer{
				aPeer("p", v3.BGPPeerSpec{PeerIP: "10.1.1.254", ASNumber: tt.asn, NextHopMode: tt.mode, KeepOriginalNextHop: tt.keep}),
			}})
			if len(out.Peers) != 1 || out.Peers[0].NextHop != tt.want {
				t.Errorf("%+v, problems %q, want mode %d", out.Peers, out.Problems, tt.want)
			}
		})
	}
}

func TestRestartTimes(t *testing.T) {
	out := Compute(Input{
		Node: "node1", Nodes: threeNodes()[:2],
		Configs: defaultConfig(v3.BGPConfigurationSpec{NodeMeshMaxRestartTime: &metav1.Duration{Duration: 7 * time.Second}}),
		Peers: []*v3.BGPPeer{
			aPeer("a", v3.BGPPeerSpec{PeerIP: "10.1.1.1", ASNumber: 1, MaxRestartTime: &metav1.Duration{Duration: 9 * time.Second}}),
			aPeer("b", v3.BGPPeerSpec{PeerIP: "10.1.1.2", ASNumber: 1}),
		},
	})
	for _, p := range out.Peers {
		want := map[string]time.Duration{"a": 9 * time.Second, "b": DefaultRestartTime, "node2": 7 * time.Second}[p.Name]
		if p.RestartTime != want {
			t.Errorf("%s: restart time %v, want %v", p.Name, p.RestartTime, want)
		}
	}
}

func TestMissingNodeSaysWhatToCreate(t *testing.T) {
	for _, tt := range []struct {
		node string
		want string
	}{
		{"nobody", "there is no Node nobody: create it"},
		{"bare", "Node bare has no usable BGP address: set spec.bgp.ipv4Address"},
	} {
		out := Compute(Input{Node: tt.node, Nodes: append(threeNodes(), &api.Node{ObjectMeta: meta("bare")})})
		if !strings.HasPrefix(out.Missing, tt.want) || out.NoNode != (tt.node == "nobody") || len(out.Peers) > 0 {
			t.Errorf("%s: %q, %d peers; want %q… and none", tt.node, out.Missing, len(out.Peers), tt.want)
		}
	}
}
