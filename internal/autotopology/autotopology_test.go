package autotopology_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/autotopology"
	"tortie/internal/bgpsummary"
)

// input is a cluster of nodes n1, n2 … in zones, with settings.
func input(settings string, zones ...string) autotopology.Input {
	var in autotopology.Input
	in.Config = v3.NewBGPConfiguration()
	in.Config.Name = "default"
	in.Config.Annotations = map[string]string{}
	if settings != "" {
		in.Config.Annotations[api.AnnotationAutoTopology] = settings
	}
	for i, zone := range zones {
		in.Nodes = append(in.Nodes, newNode(fmt.Sprint("n", i+1), zone))
	}
	return in
}

func reflectors(in autotopology.Input) (out []string) {
	for _, n := range in.Nodes {
		if acting(n) {
			out = append(out, n.Name)
		}
	}
	slices.Sort(out)
	return out
}

// arrive is where a cluster comes to.
func arrive(t *testing.T, in autotopology.Input) autotopology.Input {
	t.Helper()
	_, end, refused := autotopology.Foresee(in)
	if len(refused) > 0 {
		t.Fatalf("refused: %v", refused)
	}
	return end
}

func TestElectionSpreadsOverZonesAndStays(t *testing.T) {
	zone := func(in autotopology.Input, name, zone string) {
		find(in, name).Labels["topology.kubernetes.io/zone"] = zone
	}
	for _, tt := range []struct {
		name   string
		zones  string
		first  string
		change func(in *autotopology.Input)
		then   string
	}{
		{"one zone", "aaaa", "n1 n2 n3", nil, "n1 n2 n3"},
		{"two zones", "aaabbb", "n1 n2 n4", nil, "n1 n2 n4"},
		{"three zones", "aabbcc", "n1 n3 n5", nil, "n1 n3 n5"},
		{"more zones than reflectors", "abcde", "n1 n2 n3", nil, "n1 n2 n3"},
		{"a zone of one node", "abbb", "n1 n2 n3", nil, "n1 n2 n3"},
		{
			"another node of a lesser name changes nothing", "bbbb", "n1 n2 n3",
			func(in *autotopology.Input) { in.Nodes = append(in.Nodes, newNode("n0", "b")) }, "n1 n2 n3",
		},
		{"a new zone gets one", "aaab", "n1 n2 n4", func(in *autotopology.Input) { zone(*in, "n3", "c") }, "n1 n3 n4"},
		{
			"one that is gone is replaced in its zone", "aabbcc", "n1 n3 n5",
			func(in *autotopology.Input) {
				in.Nodes = slices.DeleteFunc(slices.Clone(in.Nodes), func(n *api.Node) bool { return n.Name == "n3" })
			}, "n1 n4 n5",
		},
		{
			"one that is cordoned is replaced", "aabbcc", "n1 n3 n5",
			func(in *autotopology.Input) { find(*in, "n5").Labels[api.LabelGracefulShutdown] = "true" }, "n1 n3 n6",
		},
		{
			"one that is not ready is replaced", "aabbcc", "n1 n3 n5",
			func(in *autotopology.Input) { in.Unfit = map[string]string{"n1": "not ready"} }, "n2 n3 n5",
		},
		{
			"one for whom there is nobody stays", "aaa", "n1 n2 n3",
			func(in *autotopology.Input) { in.Unfit = map[string]string{"n1": "not ready"} }, "n1 n2 n3",
		},
		{"never more than nodes", "aa", "n1 n2", nil, "n1 n2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := arrive(t, input("above=1 reflectors=3", strings.Split(tt.zones, "")...))
			if got := strings.Join(reflectors(in), " "); got != tt.first {
				t.Errorf("first %s, want %s", got, tt.first)
			}
			if tt.change != nil {
				for i, n := range in.Nodes {
					in.Nodes[i] = n.DeepCopyObject().(*api.Node)
				}
				tt.change(&in)
			}
			if got := strings.Join(reflectors(arrive(t, in)), " "); got != tt.then {
				t.Errorf("then %s, want %s", got, tt.then)
			}
		})
	}
}

func TestStepsComeInTheOrderThatKeepsRoutes(t *testing.T) {
	in := input("above=2 reflectors=2", "a", "b", "b")
	in.Config.Spec.NodeMeshPassword = &v3.BGPPassword{}
	in.Config.Spec.NodeMeshMaxRestartTime = &metav1.Duration{Duration: time.Minute}
	in.Config.Annotations[api.AnnotationBFD] = "on"
	check := func(want ...string) autotopology.Input {
		t.Helper()
		steps, end, _ := autotopology.Foresee(in)
		var got []string
		for _, s := range steps {
			got = append(got, s.What)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("steps (-want +got):\n%s", diff)
		}
		return end
	}
	in = check("create BGPPeer auto-topology",
		"give node n1 the label tortie/route-reflector, by which all nodes peer with it",
		"give node n2 the label tortie/route-reflector, by which all nodes peer with it",
		"make node n1 a route reflector, with the cluster ID 224.0.0.1",
		"make node n2 a route reflector, with the cluster ID 224.0.0.1",
		"switch the node-to-node mesh off")
	peer := in.Peers[0]
	if peer.Spec.Password == nil || peer.Spec.MaxRestartTime == nil || peer.Annotations[api.AnnotationBFD] != "on" {
		t.Errorf("the BGPPeer hasn't the settings of the mesh: %+v %v", peer.Spec, peer.Annotations)
	}
	if c := in.Config.Spec; c.NodeMeshPassword != nil || c.NodeMeshMaxRestartTime != nil {
		t.Errorf("settings of the mesh stay without one: %+v", c)
	}
	in.Config = in.Config.DeepCopy()
	in.Config.Annotations[api.AnnotationAutoTopology] = "off"
	in = check("switch the node-to-node mesh on",
		"make node n1 no route reflector any more, and take its label tortie/route-reflector away",
		"make node n2 no route reflector any more, and take its label tortie/route-reflector away",
		"delete BGPPeer auto-topology",
		"take the settings of auto-topology away")
	if c := in.Config.Spec; c.NodeMeshPassword == nil || c.NodeMeshMaxRestartTime == nil {
		t.Errorf("the mesh hasn't got its settings back: %+v", c)
	}
	check()
}

func TestClusterDoesNotFlapAroundItsSize(t *testing.T) {
	zones := slices.Repeat([]string{"a"}, 21)
	in := input("above=20 reflectors=2", zones[:20]...)
	mesh := func(what string, want bool) {
		t.Helper()
		if in = arrive(t, in); meshOf(in) != want || (len(reflectors(in)) == 0) != want {
			t.Errorf("%s: mesh %v, reflectors %v", what, meshOf(in), reflectors(in))
		}
	}
	mesh("at its size", true)
	in.Nodes = append(in.Nodes, newNode("n21", "a"))
	mesh("one above", false)
	in.Nodes = slices.DeleteFunc(in.Nodes, func(n *api.Node) bool { return n.Name == "n21" || n.Name == "n20" })
	mesh("a little below", false)
	in.Nodes = slices.DeleteFunc(in.Nodes, func(n *api.Node) bool { return n.Name == "n19" })
	mesh("a tenth below", true)
	in.Nodes = append(in.Nodes, newNode("n19", "a"))
	mesh("a little below, again", true)
}

func TestWhatOthersHaveSetUpIsRefusedByName(t *testing.T) {
	off := false
	asn := api.ASN(64999)
	const without = "do without auto-topology (calicoctl bgp auto-topology --off)"
	for _, tt := range []struct {
		name   string
		change func(in *autotopology.Input)
		want   string
	}{
		{
			"a reflector", func(in *autotopology.Input) { in.Nodes[1].Spec.BGP.RouteReflectorClusterID = "1.1.1.1" },
			"Node n2: spec.bgp.routeReflectorClusterID 1.1.1.1 was set by hand, and auto-topology changes no reflector of others: take it away, or " + without,
		},
		{
			"another cluster ID", func(in *autotopology.Input) {
				in.Nodes[1].Spec.BGP.RouteReflectorClusterID, in.Nodes[1].Labels[api.LabelRouteReflector] = "1.1.1.1", "true"
			},
			"Node n2: spec.bgp.routeReflectorClusterID is 1.1.1.1, and not 224.0.0.1, which all reflectors of auto-topology have: set it to that",
		},
		{
			"the mesh is off", func(in *autotopology.Input) { in.Config.Spec.NodeToNodeMeshEnabled = &off },
			"BGPConfiguration default: spec.nodeToNodeMeshEnabled is false, not by auto-topology, which begins with the mesh: set it to true, or " + without,
		},
		{
			"an AS of its own", func(in *autotopology.Input) { in.Nodes[0].Spec.BGP.ASNumber = &asn },
			"Node n1: spec.bgp.asNumber is 64999, not the cluster's 64512, and reflectors and their clients have to be of one AS: leave it out, or " + without,
		},
		{
			"a BGPPeer of the name", func(in *autotopology.Input) {
				p := bgpPeer(api.AutoTopologyPeer, "192.0.2.1")
				p.Spec.Node = "elsewhere"
				in.Peers = append(in.Peers, p)
			},
			"BGPPeer auto-topology has the name that auto-topology's own has, and was made by somebody else: create it anew under another name, then delete it",
		},
		{
			"a BGPPeer between nodes", func(in *autotopology.Input) { in.Peers = append(in.Peers, bgpPeer("pair", "10.0.0.2")) },
			"BGPPeer pair makes sessions between nodes, which would be beside those that auto-topology makes: delete it, or " + without,
		},
		{
			"routers without a filter", func(in *autotopology.Input) { in.Peers = append(in.Peers, bgpPeer("tor", "192.0.2.1")) },
			"no node can be a route reflector, so everything stays as it is: n1, n2, n3: it would pass other nodes' routes on to the peer of BGPPeer tor: " +
				"give that a BGPFilter with exportV4 and exportV6 of {action: Reject, source: RemotePeers}",
		},
		{
			"settings", func(in *autotopology.Input) { in.Config.Annotations[api.AnnotationAutoTopology] = "above=x" },
			"BGPConfiguration default: annotation tortie/auto-topology: above=x: want a number; until then nothing is changed: calicoctl bgp auto-topology --above=N writes it anew",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input("above=2", "a", "b", "c")
			tt.change(&in)
			out := autotopology.Next(in)
			if diff := cmp.Diff([]string{tt.want}, out.Refused); out.Step != nil || len(out.Ask) > 0 || diff != "" {
				t.Errorf("step %v, refused (-want +got):\n%s", out.Step, diff)
			}
		})
	}
}

func bgpPeer(name, address string) *v3.BGPPeer {
	p := v3.NewBGPPeer()
	p.Name, p.Spec.PeerIP, p.Spec.ASNumber = name, address, 64999
	return p
}

func TestFilterThatKeepsWhatIsLearnedMakesAReflectorPossible(t *testing.T) {
	learned := api.BGPFilterRule{Action: v3.Reject, Source: v3.BGPFilterSourceRemotePeers}
	for _, tt := range []struct {
		name  string
		rules []api.BGPFilterRule
		fits  bool
	}{
		{"rejects what is learned", []api.BGPFilterRule{learned}, true},
		{"rejects some, then what is learned", []api.BGPFilterRule{{Action: v3.Reject, CIDR: "10.1.0.0/16"}, learned}, true},
		{"rejects all", []api.BGPFilterRule{{Action: v3.Reject}}, true},
		{"accepts some first", []api.BGPFilterRule{{Action: v3.Accept, CIDR: "10.1.0.0/16"}, learned}, false},
		{"rejects some only", []api.BGPFilterRule{{Action: v3.Reject, CIDR: "10.1.0.0/16"}}, false},
		{"no rule", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input("above=2", "a", "b", "c")
			tor := bgpPeer("tor", "192.0.2.1")
			tor.Spec.Filters = []string{"f"}
			in.Peers = append(in.Peers, tor)
			in.Filters = []*api.BGPFilter{{ObjectMeta: metav1.ObjectMeta{Name: "f"}, Spec: api.BGPFilterSpec{ExportV4: tt.rules}}}
			if fits := len(autotopology.Next(in).Refused) == 0; fits != tt.fits {
				t.Errorf("fits %v", fits)
			}
		})
	}
}

// TestMeshGoesOnlyWhenNobodyNeedsIt takes one thing after the other away from a cluster that
// is ready for it.
func TestMeshGoesOnlyWhenNobodyNeedsIt(t *testing.T) {
	last := func(in autotopology.Input) autotopology.Input {
		for {
			in.Asked, in.Summaries = autotopology.WellOff(in)
			out := autotopology.Next(in)
			if strings.Contains(out.Step.What, "mesh off") {
				return in
			}
			in = in.After(*out.Step)
		}
	}
	for _, tt := range []struct {
		name   string
		change func(s *bgpsummary.Summary)
		want   string
	}{
		{"a session is down", func(s *bgpsummary.Summary) { down(s, "10.0.0.1") }, "node n3: session with n1, 10.0.0.1: refused"},
		{"a session is young", func(s *bgpsummary.Summary) { young(s) }, "node n3: a session has been up for 1 s"},
		{"a session is missing", func(s *bgpsummary.Summary) { s.Peers = nil }, "node n3 has 0 sessions, not yet 2"},
		{"a route comes by the mesh alone", func(s *bgpsummary.Summary) { s.MeshOnly = 2 }, "node n3 knows 2 prefixes by the mesh alone"},
		{"a route is only kept", func(s *bgpsummary.Summary) { s.Kept = 1 }, "node n3 keeps 1 routes"},
		{"another cluster ID", func(s *bgpsummary.Summary) { s.ClusterID = "1.2.3.4" }, `node n3 acts by the cluster ID "1.2.3.4"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := last(input("above=2 reflectors=2", "a", "b", "c", "c"))
			s := in.Summaries["n3"]
			tt.change(&s)
			in.Summaries["n3"] = s
			out := autotopology.Next(in)
			if out.Step != nil || !strings.Contains(strings.Join(out.Wait, "\n"), tt.want) {
				t.Errorf("step %+v, wait %q, want %q", out.Step, out.Wait, tt.want)
			}
		})
	}
	t.Run("a node doesn't answer", func(t *testing.T) {
		in := last(input("above=2 reflectors=2", "a", "b", "c", "c"))
		delete(in.Summaries, "n3")
		if out := autotopology.Next(in); out.Step != nil || !strings.Contains(strings.Join(out.Wait, "\n"), "node n3 doesn't answer") {
			t.Errorf("step %+v, wait %q", out.Step, out.Wait)
		}
	})
	t.Run("a node is lost", func(t *testing.T) {
		in := last(input("above=2 reflectors=2", "a", "b", "c", "c"))
		delete(in.Summaries, "n3")
		for name, s := range in.Summaries {
			down(&s, "10.0.0.3")
			in.Summaries[name] = s
		}
		if out := autotopology.Next(in); out.Step == nil {
			t.Errorf("wait %q", out.Wait)
		}
	})
}

func down(s *bgpsummary.Summary, address string) {
	g := s.Peers[api.AutoTopologyPeer]
	if g.Sessions == 0 || s.ClusterID == "" && address == "10.0.0.3" {
		s.Mesh.Down = map[string]string{address: "refused"}
		return
	}
	g.Down = map[string]string{address: "refused"}
	s.Peers = map[string]bgpsummary.Group{api.AutoTopologyPeer: g}
}

func young(s *bgpsummary.Summary) {
	g := s.Peers[api.AutoTopologyPeer]
	g.Youngest = 1
	s.Peers = map[string]bgpsummary.Group{api.AutoTopologyPeer: g}
}

func TestWriteDependsOnAllThatHasAPart(t *testing.T) {
	steps, _, _ := autotopology.Foresee(input("above=2 reflectors=2", "a", "b", "c"))
	off := steps[len(steps)-1]
	var names []string
	for _, o := range off.DependsOn {
		names = append(names, o.GetName())
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{api.AutoTopologyPeer, "n1", "n2"}, names); diff != "" {
		t.Error(diff)
	}
}
