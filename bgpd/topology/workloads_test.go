package topology

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/speaker"
	"tortie/internal/api"
)

func aPod(node, name string, labels map[string]string, networks ...string) *api.WorkloadEndpoint {
	return &api.WorkloadEndpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: node + "-k8s-" + name + "-eth0", Labels: labels},
		Spec:       api.WorkloadEndpointSpec{Node: node, Pod: name, IPNetworks: networks},
	}
}

// TestPodsOfThisNodeArePeers: those that a localWorkloadSelector selects, at their own
// addresses, of the families for which the node has an address to peer at.
func TestPodsOfThisNodeArePeers(t *testing.T) {
	red, blue := map[string]string{"color": "red"}, map[string]string{"color": "blue"}
	both := v3.BGPConfigurationSpec{LocalWorkloadPeeringIPV4: "169.254.0.179", LocalWorkloadPeeringIPV6: "fd00:0:0:b9::1"}
	for _, tt := range []struct {
		name    string
		config  v3.BGPConfigurationSpec
		spec    v3.BGPPeerSpec
		want    string // address, local address, pod
		problem string
	}{
		{
			"both families", both,
			v3.BGPPeerSpec{LocalWorkloadSelector: "color == 'red'"},
			"10.65.1.5 169.254.0.179 ns/a; 10.65.1.6 169.254.0.179 ns/b; fd65:1::5 fd00:0:0:b9::1 ns/a", "",
		},
		{
			"IPv4 alone",
			v3.BGPConfigurationSpec{LocalWorkloadPeeringIPV4: "169.254.0.179"},
			v3.BGPPeerSpec{LocalWorkloadSelector: "all()", NodeSelector: "all()"},
			"10.65.1.5 169.254.0.179 ns/a; 10.65.1.6 169.254.0.179 ns/b; 10.65.1.7 169.254.0.179 ns/c", "",
		},
		{"of another node", both, v3.BGPPeerSpec{LocalWorkloadSelector: "all()", Node: "node2"}, "", ""},
		{"nobody", both, v3.BGPPeerSpec{LocalWorkloadSelector: "color == 'green'"}, "", ""},
		{
			"nowhere to peer at",
			v3.BGPConfigurationSpec{},
			v3.BGPPeerSpec{LocalWorkloadSelector: "all()"},
			"",
			"BGPPeer pods: spec.localWorkloadSelector needs an address that pods connect to: set spec.localWorkloadPeeringIPV4 or spec.localWorkloadPeeringIPV6",
		},
		{
			"an address nobody can connect to",
			v3.BGPConfigurationSpec{LocalWorkloadPeeringIPV4: "169.254.0.179", LocalWorkloadPeeringIPV6: "fe80::1"},
			v3.BGPPeerSpec{LocalWorkloadSelector: "color == 'blue'"},
			"10.65.1.7 169.254.0.179 ns/c",
			`BGPConfiguration default: spec.localWorkloadPeeringIPV6: "fe80::1": pods can't connect to it: want an address that nobody else has, such as fd00:0:0:b9::1; it has no effect`,
		},
		{
			"a node's address",
			v3.BGPConfigurationSpec{LocalWorkloadPeeringIPV4: "10.0.0.1", LocalWorkloadPeeringIPV6: "fd00:0:0:b9::1"},
			v3.BGPPeerSpec{LocalWorkloadSelector: "color == 'blue'"},
			"",
			"BGPConfiguration default: spec.localWorkloadPeeringIPV4: 10.0.0.1: it is the address of node node1: want an address that nobody else has, such as 169.254.0.179; it has no effect",
		},
		{
			"a selector that can't be read", both,
			v3.BGPPeerSpec{LocalWorkloadSelector: "color =="},
			"",
			`BGPPeer pods: spec.localWorkloadSelector: "color =="`,
		},
		{
			"two ways to name the peer", both,
			v3.BGPPeerSpec{LocalWorkloadSelector: "all()", PeerIP: "10.0.0.254"},
			"",
			"BGPPeer pods: spec: peerIP and localWorkloadSelector can't be combined; set one of them; the peer is not configured",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.ASNumber, tt.spec.SourceAddress = 65401, v3.SourceAddressNone
			out := Compute(Input{
				Node: "node1", Configs: defaultConfig(tt.config), Peers: []*v3.BGPPeer{aPeer("pods", tt.spec)},
				Nodes: []*api.Node{aNode("node1", "10.0.0.1/24", "fd00::1/64"), {ObjectMeta: meta("node2")}},
				Workloads: []*api.WorkloadEndpoint{
					aPod("node1", "b", red, "10.65.1.6/32"), aPod("node1", "a", red, "fd65:1::5/128", "10.65.1.5/32"),
					aPod("node1", "c", blue, "10.65.1.7/32", "what"), aPod("node2", "d", red, "10.65.2.5/32"),
				},
			})
			var got []string
			for _, p := range out.Peers {
				got = append(got, strings.Join([]string{p.Address.String(), p.LocalAddress.String(), p.Workload}, " "))
				if p.ASN != 65401 || !out.Scope().Workloads[p.Address] || p.Reason != "BGPPeer pods, pod "+p.Workload || p.Passive {
					t.Errorf("%+v", p)
				}
			}
			if s := strings.Join(got, "; "); s != tt.want {
				t.Errorf("peers %s, want %s", s, tt.want)
			}
			if problems := strings.Join(out.Problems, "\n"); tt.problem == "" && problems != "" || !strings.Contains(problems, tt.problem) {
				t.Errorf("problems %q, want %q", problems, tt.problem)
			}
			if wants := tt.spec.Node != "node2" && tt.spec.PeerIP == ""; out.WantsWorkloads != wants && tt.spec.PeerIP == "" {
				t.Errorf("pods are wanted: %v", out.WantsWorkloads)
			}
		})
	}
}

// TestAPodSpeaksForNobodyElse: what it announces leads to itself, and takes away neither
// pods' addresses nor a peer's.
func TestAPodSpeaksForNobodyElse(t *testing.T) {
	in := Input{
		Node: "node1", Configs: defaultConfig(v3.BGPConfigurationSpec{LocalWorkloadPeeringIPV4: "169.254.0.179"}),
		Nodes:      []*api.Node{aNode("node1", "10.0.0.1/24", ""), aNode("node2", "10.9.0.2/24", "")},
		Peers:      []*v3.BGPPeer{aPeer("pods", v3.BGPPeerSpec{LocalWorkloadSelector: "all()", ASNumber: 65401})},
		Affinities: []*api.BlockAffinity{affinity("node2", "10.65.2.0/26", api.AffinityConfirmed)},
		Workloads:  []*api.WorkloadEndpoint{aPod("node1", "a", nil, "10.65.1.5/32")},
	}
	scope := Compute(in).Scope()
	pod := netip.MustParseAddr("10.65.1.5")
	for _, tt := range []struct{ prefix, nextHop, refused string }{
		{"10.123.0.0/26", "10.65.1.5", ""},
		{"10.123.0.0/26", "10.65.1.6", "its next hop 10.65.1.6 is not the pod 10.65.1.5"},
		{"10.65.2.7/32", "10.65.1.5", "overlaps the block 10.65.2.0/26"},
		{"10.65.0.0/16", "10.65.1.5", "overlaps the block 10.65.2.0/26"},
		{"10.9.0.2/32", "10.65.1.5", "covers 10.9.0.2, a peer of this node"},
		{"0.0.0.0/0", "10.65.1.5", "a default route is never imported"},
	} {
		got := scope.Import(speaker.Path{Prefix: netip.MustParsePrefix(tt.prefix), NextHop: netip.MustParseAddr(tt.nextHop), Peer: pod})
		if tt.refused == "" && got != "" || !strings.Contains(got, tt.refused) {
			t.Errorf("%s via %s: %q, want %q", tt.prefix, tt.nextHop, got, tt.refused)
		}
	}
	if peers := Compute(in).Peers; !slices.ContainsFunc(peers, func(p Peer) bool { return p.Type == Mesh }) {
		t.Error("no mesh beside it")
	}
}
