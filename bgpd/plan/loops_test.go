package plan

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/topology"
	"tortie/internal/api"
)

// ownOnly is the filter that docs/bgp.md has for a router beside a reflector.
func ownOnly(t *testing.T) *api.BGPFilter {
	t.Helper()
	f := &api.BGPFilter{ObjectMeta: metav1.ObjectMeta{Name: "own-only"}}
	if err := json.Unmarshal([]byte(`{"exportV4":[{"action":"Reject","source":"RemotePeers"}]}`), &f.Spec); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestPlanNamesTheLoopOfAReflectorAndARouter: the router would send to the reflector what
// the reflector sends through the router. c is on another segment than a, the reflector.
func TestPlanNamesTheLoopOfAReflectorAndARouter(t *testing.T) {
	const loops = "BGPPeer rack: router 10.0.0.254 may send to this reflector what the reflector sends through that router, a loop, first 10.65.3.0/26: " +
		"keep from it what is reflected, by a BGPFilter with source: RemotePeers, action: Reject in spec.filters"
	toReflector := peerOf("rr", v3.BGPPeerSpec{NodeSelector: "all()", PeerSelector: "name == 'a'"})
	router := func(change func(*v3.BGPPeerSpec)) *v3.BGPPeer {
		p := peerOf("rack", v3.BGPPeerSpec{PeerIP: "10.0.0.254", ASNumber: 64999})
		change(&p.Spec)
		return p
	}
	keep := v3.NextHopMode(v3.NextHopModeKeep)
	for _, tt := range []struct {
		name   string
		rack   *v3.BGPPeer
		change func(*topology.Input)
		want   []string
	}{
		{"a router that hears what is reflected", router(func(*v3.BGPPeerSpec) {}), nil, []string{"a: " + loops}},
		{"one that hears only what is the reflector's own", router(func(s *v3.BGPPeerSpec) { s.Filters = []string{"own-only"} }), nil, nil},
		{"one that is told the nodes themselves", router(func(s *v3.BGPPeerSpec) { s.NextHopMode = &keep }), nil, nil},
		{"one elsewhere", router(func(s *v3.BGPPeerSpec) { s.PeerIP = "192.0.2.1" }), nil, nil},
		{"one of other nodes", router(func(s *v3.BGPPeerSpec) { s.Node = "b" }), nil, nil},
		{"all nodes on its segment", router(func(*v3.BGPPeerSpec) {}), func(in *topology.Input) {
			in.Nodes[2] = aNode("c", "10.0.0.3/24")
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := three()
			if tt.change != nil {
				tt.change(&before)
			}
			before.Configs, before.Filters = mesh(false), []*api.BGPFilter{ownOnly(t)}
			before.Peers = []*v3.BGPPeer{tt.rack, toReflector}
			after := before
			after.Nodes = slices.Clone(before.Nodes)
			after.Nodes[0] = aNode("a", "10.0.0.1/24", reflector)
			var got []string
			for _, p := range Compare(before, after).Problems {
				got = append(got, strings.Join(p.Nodes, " ")+": "+p.Text)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("problems %q, want %q", got, tt.want)
			}
			if back := Compare(after, before).Solved; len(back) != len(tt.want) {
				t.Errorf("solved by going back: %v", back)
			}
		})
	}
}

// TestProblemOfAllNodesIsSaidOnce.
func TestProblemOfAllNodesIsSaidOnce(t *testing.T) {
	after := three()
	after.Peers = []*v3.BGPPeer{peerOf("rack", v3.BGPPeerSpec{PeerIP: "10.0.0.254", ASNumber: 64999, Filters: []string{"none"}})}
	got := Compare(three(), after).Problems
	if len(got) != 1 || !slices.Equal(got[0].Nodes, []string{"a", "b", "c"}) || !strings.Contains(got[0].Text, "there is no BGPFilter none") {
		t.Errorf("problems %+v, want one of three nodes", got)
	}
}
