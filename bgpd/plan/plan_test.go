package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/topology"
	"tortie/internal/api"
)

func aNode(name, address string, change ...func(*api.Node)) *api.Node {
	n := &api.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}, Spec: api.NodeSpec{BGP: &api.NodeBGPSpec{IPv4Address: address}}}
	for _, f := range change {
		f(n)
	}
	return n
}

func reflector(n *api.Node) { n.Spec.BGP.RouteReflectorClusterID = "244.0.0.1" }

func as(asn uint32) func(*api.Node) {
	return func(n *api.Node) { a := numorstring.ASNumber(asn); n.Spec.BGP.ASNumber = &a }
}

func claim(node, cidr string) *api.BlockAffinity {
	return &api.BlockAffinity{
		ObjectMeta: metav1.ObjectMeta{Name: node + cidr},
		Spec:       api.BlockAffinitySpec{State: api.AffinityConfirmed, Type: api.AffinityHost, Node: node, CIDR: cidr},
	}
}

func peerOf(name string, spec v3.BGPPeerSpec) *v3.BGPPeer {
	return &v3.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

func mesh(on bool) []*v3.BGPConfiguration {
	return []*v3.BGPConfiguration{{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.BGPConfigurationSpec{NodeToNodeMeshEnabled: &on}}}
}

// three nodes in a mesh, each with a block: a and b on one segment, c on another.
func three() topology.Input {
	return topology.Input{
		Nodes:      []*api.Node{aNode("a", "10.0.0.1/24"), aNode("b", "10.0.0.2/24"), aNode("c", "10.0.9.3/24")},
		Affinities: []*api.BlockAffinity{claim("a", "10.65.1.0/26"), claim("b", "10.65.2.0/26"), claim("c", "10.65.3.0/26")},
		Pools:      []*v3.IPPool{{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v3.IPPoolSpec{CIDR: "10.65.0.0/16", BlockSize: 26}}},
	}
}

// lines are all of a result.
func lines(r Result) string {
	var out []string
	for name, list := range map[string][]Session{"added": r.Added, "removed": r.Removed, "reset": r.Reset, "changed": r.Changed} {
		for _, s := range list {
			out = append(out, fmt.Sprintf("%s %s-%s: %s", name, s.Node, s.Peer, s.Why))
		}
	}
	for name, list := range map[string][]Prefix{"gained": r.Gained, "lost": r.Lost} {
		for _, p := range list {
			out = append(out, fmt.Sprintf("%s %s of %s by %s", name, p.Prefix, p.From, p.Who))
		}
	}
	for _, x := range r.Routes {
		out = append(out, fmt.Sprintf("route %s %s: %q to %q", x.Node, x.Prefix, x.Before, x.After))
	}
	for _, p := range r.Problems {
		out = append(out, "problem "+strings.Join(p.Nodes, " ")+": "+p.Text)
	}
	for _, p := range r.Solved {
		out = append(out, "solved "+strings.Join(p.Nodes, " ")+": "+p.Text)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func TestPlan(t *testing.T) {
	reflectors := peerOf("reflectors", v3.BGPPeerSpec{NodeSelector: "all()", PeerSelector: "name == 'a'"})
	for _, c := range []struct {
		name   string
		change func(*topology.Input)
		want   string
	}{
		{"nothing", func(*topology.Input) {}, ""},
		{"a new node", func(in *topology.Input) {
			in.Nodes = append(in.Nodes, aNode("d", "10.0.0.4/24"))
			in.Affinities = append(in.Affinities, claim("d", "10.65.4.0/26"))
		}, `added a-d: node-to-node mesh
added b-d: node-to-node mesh
added c-d: node-to-node mesh
gained 10.65.1.0/26 of a by d
gained 10.65.2.0/26 of b by d
gained 10.65.3.0/26 of c by d
gained 10.65.4.0/26 of d by a
gained 10.65.4.0/26 of d by b
gained 10.65.4.0/26 of d by c
route a 10.65.4.0/26: "" to "via 10.0.0.4"
route b 10.65.4.0/26: "" to "via 10.0.0.4"
route c 10.65.4.0/26: "" to "via 10.0.0.4"
route d 10.65.1.0/26: "" to "via 10.0.0.1"
route d 10.65.2.0/26: "" to "via 10.0.0.2"
route d 10.65.3.0/26: "" to "via 10.0.9.3"`},
		{"one node's own AS number resets its sessions", func(in *topology.Input) { in.Nodes[2] = aNode("c", "10.0.9.3/24", as(64600)) }, `reset a-c: AS number changes from 64512 to 64600, multihop changes from off to on
reset b-c: AS number changes from 64512 to 64600, multihop changes from off to on`},
		{"the mesh becomes a reflector without a prefix lost", func(in *topology.Input) {
			in.Configs, in.Peers = mesh(false), []*v3.BGPPeer{reflectors}
			in.Nodes[0] = aNode("a", "10.0.0.1/24", reflector)
		}, `removed b-c: node-to-node mesh
reset a-b: all of a's: it becomes a route reflector
reset a-c: all of a's: it becomes a route reflector`},
		{"a BGPPeer that only one side has", func(in *topology.Input) {
			in.Configs = mesh(false)
			in.Peers = []*v3.BGPPeer{peerOf("one", v3.BGPPeerSpec{Node: "a", PeerIP: "10.0.0.2", ASNumber: 64512})}
		}, `lost 10.65.1.0/26 of a by b
lost 10.65.1.0/26 of a by c
lost 10.65.2.0/26 of b by a
lost 10.65.2.0/26 of b by c
lost 10.65.3.0/26 of c by a
lost 10.65.3.0/26 of c by b
removed a-c: node-to-node mesh
removed b-a: node-to-node mesh
removed b-c: node-to-node mesh
route a 10.65.2.0/26: "via 10.0.0.2" to ""
route a 10.65.3.0/26: "via 10.0.9.3" to ""
route b 10.65.1.0/26: "via 10.0.0.1" to ""
route b 10.65.3.0/26: "via 10.0.9.3" to ""
route c 10.65.1.0/26: "via 10.0.0.1" to ""
route c 10.65.2.0/26: "via 10.0.0.2" to ""`},
		{"a pool that is no longer exported", func(in *topology.Input) {
			in.Pools = []*v3.IPPool{{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v3.IPPoolSpec{CIDR: "10.65.0.0/16", BlockSize: 26, DisableBGPExport: true}}}
			in.Affinities = in.Affinities[:3]
		}, `lost 10.65.1.0/26 of a by b
lost 10.65.1.0/26 of a by c
lost 10.65.2.0/26 of b by a
lost 10.65.2.0/26 of b by c
lost 10.65.3.0/26 of c by a
lost 10.65.3.0/26 of c by b
route a 10.65.2.0/26: "via 10.0.0.2" to ""
route a 10.65.3.0/26: "via 10.0.9.3" to ""
route b 10.65.1.0/26: "via 10.0.0.1" to ""
route b 10.65.3.0/26: "via 10.0.9.3" to ""
route c 10.65.1.0/26: "via 10.0.0.1" to ""
route c 10.65.2.0/26: "via 10.0.0.2" to ""`},
		{"a router outside, and a broken peer", func(in *topology.Input) {
			in.Peers = []*v3.BGPPeer{
				peerOf("tor", v3.BGPPeerSpec{Node: "a", PeerIP: "10.0.0.254", ASNumber: 64999}), peerOf("bad", v3.BGPPeerSpec{Node: "b", PeerIP: "10.0.0.253"}),
			}
		}, `added a-tor: BGPPeer tor
gained 10.65.1.0/26 of a by 10.0.0.254
problem b: BGPPeer bad: spec.asNumber is not set; the peer is not configured`},
		{"a filter that keeps one pool from a router", func(in *topology.Input) {
			in.Peers = []*v3.BGPPeer{peerOf("tor", v3.BGPPeerSpec{Node: "a", PeerIP: "10.0.0.254", ASNumber: 64999, Filters: []string{"f"}})}
			in.Affinities = append(in.Affinities, claim("a", "10.65.9.0/26"))
			in.Filters = []*api.BGPFilter{{ObjectMeta: metav1.ObjectMeta{Name: "f"}, Spec: api.BGPFilterSpec{
				ExportV4: []api.BGPFilterRule{{CIDR: "10.65.9.0/26", Operator: "Equal", Action: "Reject"}},
			}}}
		}, `added a-tor: BGPPeer tor
gained 10.65.1.0/26 of a by 10.0.0.254
gained 10.65.9.0/26 of a by b
gained 10.65.9.0/26 of a by c
route b 10.65.9.0/26: "" to "via 10.0.0.1"
route c 10.65.9.0/26: "" to "via 10.0.0.1"`},
		{"BFD for the mesh, which goes on", func(in *topology.Input) {
			in.Configs = mesh(true)
			in.Configs[0].Annotations = map[string]string{api.AnnotationBFD: "on"}
		}, `changed a-b: BFD changes from off to 300ms x 3
changed a-c: BFD changes from off to 300ms x 3
changed b-c: BFD changes from off to 300ms x 3`},
		{"graceful shutdown of a node", func(in *topology.Input) {
			in.Nodes[0] = aNode("a", "10.0.0.1/24", func(n *api.Node) { n.Labels[api.LabelGracefulShutdown] = "true" })
		}, `changed a-b: graceful shutdown begins
changed a-c: graceful shutdown begins`},
		{"a service address is no route between nodes", func(in *topology.Input) {
			in.Configs = []*v3.BGPConfiguration{{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v3.BGPConfigurationSpec{ServiceClusterIPs: []v3.ServiceClusterIPBlock{{CIDR: "10.96.0.0/12"}}}}}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			after := three()
			c.change(&after)
			if d := cmp.Diff(c.want, lines(Compare(three(), after))); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			back := Compare(after, three())
			forth := Compare(three(), after)
			if len(back.Added) != len(forth.Removed) || len(back.Lost) != len(forth.Gained) || len(back.Solved) != len(forth.Problems) || len(back.Routes) != len(forth.Routes) {
				t.Errorf("the way back is another:\n%s", lines(back))
			}
		})
	}
}

func TestPlanNamesWhoseRouteItIs(t *testing.T) {
	after := three()
	for i, n := range after.Nodes {
		n.Spec.IPv4VXLANTunnelAddr = fmt.Sprintf("10.65.%d.0", i+1)
	}
	after.Pools = []*v3.IPPool{{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v3.IPPoolSpec{CIDR: "10.65.0.0/16", BlockSize: 26, VXLANMode: v3.VXLANModeCrossSubnet}}}
	r := Compare(three(), after)
	if len(r.Lost)+len(r.Removed)+len(r.Reset) != 0 || len(r.Routes) != 6 {
		t.Fatalf("got:\n%s", lines(r))
	}
	want := map[string]string{"b": "along the segment to b (felix)", "c": "by VXLAN to c (felix)"}
	for _, x := range r.Routes {
		if x.Node != "a" {
			continue
		}
		if owner := map[string]string{"10.65.2.0/26": "b", "10.65.3.0/26": "c"}[x.Prefix]; x.After != want[owner] {
			t.Errorf("route %+v, want %q", x, want[owner])
		}
	}
}

func TestPlanOfRoutersOutsideSaysWhatIsNotKnown(t *testing.T) {
	before := three()
	before.Peers = []*v3.BGPPeer{peerOf("tor", v3.BGPPeerSpec{PeerIP: "10.0.0.254", ASNumber: 64999})}
	got := strings.Join(Compare(before, three()).Unknown, "\n")
	if !strings.Contains(got, "what 10.0.0.254 announces is lost") || !strings.Contains(got, "may pass on") {
		t.Errorf("unknown:\n%s", got)
	}
	if unknown := Compare(three(), three()).Unknown; len(unknown) != 0 {
		t.Errorf("unknown without routers outside: %v", unknown)
	}
}

func secret(name, key string) *v3.BGPPassword {
	return &v3.BGPPassword{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key}}
}

func TestPasswordsAreTakenToBeThere(t *testing.T) {
	long := strings.Repeat("x", 253)
	with := func(password *v3.BGPPassword) topology.Input {
		in := three()
		in.Configs = mesh(true)
		in.Configs[0].Spec.NodeMeshPassword = password
		return in
	}
	off := three()
	off.Configs = mesh(false)
	tor := three()
	tor.Peers = []*v3.BGPPeer{peerOf("tor", v3.BGPPeerSpec{Node: "a", PeerIP: "10.0.0.254", ASNumber: 64999, Password: secret("bgp", "tor")})}
	const resets = "reset a-b: password changes\nreset a-c: password changes\nreset b-c: password changes"
	for _, c := range []struct {
		name          string
		before, after topology.Input
		want          string
		unknown       bool
	}{
		{"a password for the mesh resets its sessions", three(), with(secret("bgp", "mesh")), resets, true},
		{"another key is another password", with(secret("bgp", "mesh")), with(secret("bgp", "new")), resets, true},
		{"a secret of the longest name", three(), with(secret(long, long)), resets, true},
		{"none any more", with(secret("bgp", "mesh")), three(), resets, false},
		{"a peer with one", three(), tor, "added a-tor: BGPPeer tor\ngained 10.65.1.0/26 of a by 10.0.0.254", true},
		{"the mesh with one goes", with(secret("bgp", "mesh")), off, lines(Compare(three(), off)), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Compare(c.before, c.after)
			if diff := cmp.Diff(c.want, lines(r)); diff != "" {
				t.Error(diff)
			}
			if got := strings.Contains(strings.Join(r.Unknown, "\n"), "passwords"); got != c.unknown {
				t.Errorf("says that passwords are not known: %v, want %v: %q", got, c.unknown, r.Unknown)
			}
		})
	}
}

func TestPlanSpeaksOfLostPrefixesOnlyWhereSomeAre(t *testing.T) {
	after := three()
	after.Peers = []*v3.BGPPeer{peerOf("tor", v3.BGPPeerSpec{PeerIP: "10.0.0.254", ASNumber: 64999})}
	if unknown := Compare(three(), after).Unknown; len(unknown) != 0 {
		t.Errorf("unknown when nothing is lost: %q", unknown)
	}
}

// TestPlanOfANextHopRule: the sessions go on, and what the reflector passes on leads to it.
func TestPlanOfANextHopRule(t *testing.T) {
	with := func(spec v3.BGPPeerSpec) topology.Input {
		in := three()
		in.Nodes[0] = aNode("a", "10.0.0.1/24", reflector)
		spec.NodeSelector, spec.PeerSelector = "name == 'a'", "name != 'a'"
		in.Configs, in.Peers = mesh(false), []*v3.BGPPeer{peerOf("clients", spec)}
		return in
	}
	self := v3.NextHopMode(v3.NextHopModeSelf)
	want := `changed a-b: next hop changes from auto to self
changed a-c: next hop changes from auto to self
route b 10.65.3.0/26: "via 10.0.9.3" to "via 10.0.0.1"
route c 10.65.2.0/26: "via 10.0.0.2" to "via 10.0.0.1"`
	if d := cmp.Diff(want, lines(Compare(with(v3.BGPPeerSpec{}), with(v3.BGPPeerSpec{NextHopMode: &self})))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	restart := &metav1.Duration{Duration: time.Minute}
	want = `reset a-b: next hop changes from auto to self, restart time changes from 2m0s to 1m0s
reset a-c: next hop changes from auto to self, restart time changes from 2m0s to 1m0s
route b 10.65.3.0/26: "via 10.0.9.3" to "via 10.0.0.1"
route c 10.65.2.0/26: "via 10.0.0.2" to "via 10.0.0.1"`
	if d := cmp.Diff(want, lines(Compare(with(v3.BGPPeerSpec{}), with(v3.BGPPeerSpec{NextHopMode: &self, MaxRestartTime: restart})))); d != "" {
		t.Errorf("with another setting (-want +got):\n%s", d)
	}
}

// BenchmarkMeshOff300 is the change of a big mesh.
func BenchmarkMeshOff300(b *testing.B) {
	in := topology.Input{Pools: three().Pools}
	for i := range 300 {
		name := fmt.Sprintf("node%03d", i)
		in.Nodes = append(in.Nodes, aNode(name, fmt.Sprintf("10.0.%d.%d/16", i/250, i%250+1)))
		in.Affinities = append(in.Affinities, claim(name, fmt.Sprintf("10.65.%d.%d/26", i/4, i%4*64)))
	}
	after := in
	after.Configs = mesh(false)
	b.ReportAllocs()
	for b.Loop() {
		Compare(in, after)
	}
}
