package topology

import (
	"slices"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

func TestBFDIsThatOfThePeersResource(t *testing.T) {
	asked := func(o *v3.BGPPeer, value string) *v3.BGPPeer {
		o.Annotations = map[string]string{api.AnnotationBFD: value}
		return o
	}
	mesh := defaultConfig(v3.BGPConfigurationSpec{})
	mesh[0].Annotations = map[string]string{api.AnnotationBFD: "on"}
	in := Input{
		Node: "node1", Configs: mesh,
		Nodes: []*api.Node{aNode("node1", "10.0.0.1/24", ""), aNode("node2", "10.0.0.2/24", ""), aNode("node3", "10.0.0.3/24", "")},
		Peers: []*v3.BGPPeer{
			asked(aPeer("tor", v3.BGPPeerSpec{PeerIP: "10.0.0.254", ASNumber: 64999}), "100ms x 5"),
			asked(aPeer("wrong", v3.BGPPeerSpec{PeerIP: "10.0.0.253", ASNumber: 64999}), "soon"),
			aPeer("explicit", v3.BGPPeerSpec{PeerIP: "10.0.0.3", ASNumber: DefaultASN}),
		},
	}
	got := map[string]api.BFD{}
	out := Compute(in)
	for _, p := range out.Peers {
		got[p.Address.String()] = p.BFD
	}
	for address, want := range map[string]api.BFD{
		"10.0.0.2":   api.DefaultBFD(), // the mesh
		"10.0.0.3":   {},               // a BGPPeer that asks for none takes its place
		"10.0.0.254": {Interval: 100 * time.Millisecond, Multiplier: 5},
		"10.0.0.253": {},
	} {
		if p, ok := got[address]; !ok || p != want {
			t.Errorf("%s: %v, %t; want %v", address, p, ok, want)
		}
	}
	const problem = `BGPPeer wrong: annotation tortie/bfd: want on, off, or an interval and a multiplier as in "300ms x 3"; its sessions are without BFD`
	if !slices.Contains(out.Problems, problem) {
		t.Errorf("problems %q, want %q", out.Problems, problem)
	}
	in.Configs = nil
	for _, p := range Compute(in).Peers {
		if p.Type == Mesh && p.BFD.On() {
			t.Errorf("BFD in the mesh with %s although nobody asked", p.Address)
		}
	}
}
