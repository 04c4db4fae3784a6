package topology

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

// TestSessionAnnotations: what makes no sense costs its sessions only what it is about.
func TestSessionAnnotations(t *testing.T) {
	mesh := defaultConfig(v3.BGPConfigurationSpec{})
	mesh[0].Annotations = map[string]string{api.AnnotationTimers: "hold=30s", api.AnnotationLongLived: "1h"}
	in := Input{
		Node: "node1", Configs: mesh,
		Nodes: []*api.Node{aNode("node1", "10.0.0.1/24", ""), aNode("node2", "10.0.0.2/24", "")},
		Filters: []*api.BGPFilter{{
			ObjectMeta: metav1.ObjectMeta{Name: "by-device"},
			Spec:       api.BGPFilterSpec{ExportV4: []api.BGPFilterRule{{Interface: "eth1", Action: v3.Reject}}},
		}},
	}
	for i, tt := range []struct {
		annotations map[string]string
		spec        v3.BGPPeerSpec
		check       func(p Peer) bool
		problem     string
	}{
		{nil, v3.BGPPeerSpec{}, func(p Peer) bool { return p.HoldTime == 0 && p.LongLived == 0 && !p.AddPath }, ""},
		{
			map[string]string{api.AnnotationTimers: "hold=9s connect=5s", api.AnnotationAddPath: "on"},
			v3.BGPPeerSpec{},
			func(p Peer) bool {
				return p.HoldTime == 9*time.Second && p.KeepaliveTime == 3*time.Second && p.ConnectRetry == 5*time.Second && p.AddPath
			}, "",
		},
		{
			map[string]string{api.AnnotationTimers: "soon", api.AnnotationLongLived: "1m"},
			v3.BGPPeerSpec{},
			func(p Peer) bool { return p.HoldTime == 0 && p.LongLived == time.Minute },
			"annotation tortie/timers: \"soon\": want one or more of hold, keepalive and connect, as in \"hold=30s keepalive=10s connect=5s\"; its sessions have the default timers",
		},
		{
			map[string]string{api.AnnotationLongLived: "ever"},
			v3.BGPPeerSpec{},
			func(p Peer) bool { return p.LongLived == 0 },
			"annotation tortie/long-lived-restart: want off, or a time as in \"1h30m\"; its sessions are without long-lived graceful restart",
		},
		{
			map[string]string{api.AnnotationLongLived: "1h"},
			v3.BGPPeerSpec{MaxRestartTime: &metav1.Duration{}},
			func(p Peer) bool { return p.LongLived == 0 },
			"annotation tortie/long-lived-restart: needs graceful restart, which a restart time of 0 turns off; its sessions are without long-lived graceful restart",
		},
		{
			map[string]string{api.AnnotationLongLived: "1h"},
			v3.BGPPeerSpec{Filters: []string{"by-device"}},
			func(p Peer) bool { return p.LongLived == 0 },
			"annotation tortie/long-lived-restart: can't be combined with an export rule of a BGPFilter that names an interface; its sessions are without long-lived graceful restart",
		},
		{
			map[string]string{api.AnnotationAddPath: "yes"},
			v3.BGPPeerSpec{},
			func(p Peer) bool { return !p.AddPath },
			"annotation tortie/add-path: want on or off; its sessions are without add-path",
		},
	} {
		tt.spec.PeerIP, tt.spec.ASNumber = "10.0.0.254", 64999
		peer := aPeer("tor", tt.spec)
		peer.Annotations = tt.annotations
		in.Peers = []*v3.BGPPeer{peer}
		out := Compute(in)
		if len(out.Peers) != 2 || out.Peers[0].HoldTime != 30*time.Second || out.Peers[0].LongLived != time.Hour {
			t.Fatalf("%d: the mesh is not as its annotations say: %+v", i, out.Peers)
		}
		if p := out.Peers[1]; !tt.check(p) {
			t.Errorf("%v: %+v", tt.annotations, p)
		}
		if got := strings.Join(out.Problems, "\n"); tt.problem == "" && got != "" || tt.problem != "" && got != "BGPPeer tor: "+tt.problem {
			t.Errorf("%v: problems %q, want %q", tt.annotations, got, tt.problem)
		}
	}
}

// TestNameOfNoAnnotationIsNamed: what somebody wanted by a misspelt name is not done in
// silence. Of BGPPeers and configurations of other nodes these tell themselves.
func TestNameOfNoAnnotationIsNamed(t *testing.T) {
	configs := defaultConfig(v3.BGPConfigurationSpec{})
	configs[0].Annotations = map[string]string{"tortie/bdf": "on"}
	for _, name := range []string{"node.node1", "node.node2"} {
		configs = append(configs, &v3.BGPConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"tortie/x": ""}}})
	}
	self, other := aNode("node1", "10.0.0.1/24", ""), aNode("node2", "10.0.0.2/24", "")
	self.Annotations = map[string]string{api.LabelGracefulShutdown: "true"}
	other.Annotations = self.Annotations
	peer := aPeer("tor", v3.BGPPeerSpec{PeerIP: "10.0.0.254", ASNumber: 64999})
	peer.Annotations = map[string]string{"tortie/timer": "hold=9s"}
	far := aPeer("far", v3.BGPPeerSpec{Node: "node2", PeerIP: "10.0.0.253", ASNumber: 64999})
	far.Annotations = peer.Annotations
	out := Compute(Input{Node: "node1", Configs: configs, Nodes: []*api.Node{self, other}, Peers: []*v3.BGPPeer{peer, far}})
	var got []string
	for _, p := range out.Problems {
		what, _, _ := strings.Cut(p, ": there is no")
		what, _, _ = strings.Cut(what, ": nobody")
		got = append(got, what)
		if !strings.HasSuffix(p, "; it has no effect") {
			t.Errorf("%s: doesn't say what follows", p)
		}
	}
	want := []string{
		"BGPConfiguration default: annotation tortie/bdf", "BGPConfiguration node.node1: label tortie/x",
		"BGPPeer tor: annotation tortie/timer", "Node node1: annotation tortie/graceful-shutdown",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestPatternOfNoDeviceIsNamed: it leaves the other patterns as they are.
func TestPatternOfNoDeviceIsNamed(t *testing.T) {
	out := Compute(Input{
		Node: "node1", Nodes: []*api.Node{aNode("node1", "10.0.0.1/24", "")},
		Configs: defaultConfig(v3.BGPConfigurationSpec{IgnoredInterfaces: []string{"docker*", "eth["}}),
	})
	const want = `BGPConfiguration default: spec.ignoredInterfaces[1]: "eth[": want the name of a network device, '*' for any characters but not alone; it has no effect`
	if diff := cmp.Diff([]string{want}, out.Problems); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"docker*"}, out.IgnoredInterfaces); diff != "" {
		t.Error(diff)
	}
}
