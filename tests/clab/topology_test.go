package clab

import (
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func load(t *testing.T, name string) (*Topology, []byte) {
	t.Helper()
	topology, err := Load(".", name)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(topology.File)
	if err != nil {
		t.Fatal(err)
	}
	return topology, text
}

// TestTopologyAndClusterAgree: the addresses stand in two files, one for containerlab
// and one for calicoctl.
func TestTopologyAndClusterAgree(t *testing.T) {
	for _, name := range Labs() {
		topology, _ := load(t, name)
		cluster, err := os.ReadFile(topology.Cluster)
		if err != nil {
			t.Fatal(err)
		}
		nodes := map[string]bool{}
		for _, doc := range strings.Split(string(cluster), "\n---\n") {
			var r struct {
				Kind     string
				Metadata struct{ Name string }
				Spec     struct {
					BGP struct{ IPv4Address, IPv6Address netip.Prefix }
				}
			}
			if err := yaml.Unmarshal([]byte(doc), &r); err != nil {
				t.Fatalf("%s: %v", topology.Cluster, err)
			}
			if r.Kind != "Node" {
				continue
			}
			nodes[r.Metadata.Name] = true
			i := slices.IndexFunc(topology.Nodes, func(m Machine) bool { return m.Name == r.Metadata.Name })
			if i < 0 {
				t.Errorf("%s: Node %s is no node of the topology", name, r.Metadata.Name)
				continue
			}
			if m := topology.Nodes[i]; m.V4 != r.Spec.BGP.IPv4Address || m.V6 != r.Spec.BGP.IPv6Address {
				t.Errorf("%s: Node %s has %s and %s in the cluster, %s and %s in the topology",
					name, m.Name, r.Spec.BGP.IPv4Address, r.Spec.BGP.IPv6Address, m.V4, m.V6)
			}
		}
		for _, m := range topology.Nodes {
			if !nodes[m.Name] {
				t.Errorf("%s: node %s is no Node of the cluster", name, m.Name)
			}
		}
	}
}

// whole is what the tests read of a topology file beyond what the program does.
type whole struct {
	Topology struct {
		Defaults, Groups map[string]any
		Nodes            map[string]struct {
			Group       string
			NetworkMode string `json:"network-mode"`
			PidMode     string `json:"pid-mode"`
		}
		Links []struct{ Endpoints []string }
	}
}

func TestEveryNodeHasFelixAndBgpdInItsNamespaces(t *testing.T) {
	for _, name := range Labs() {
		topology, text := load(t, name)
		var w whole
		if err := yaml.Unmarshal(text, &w); err != nil {
			t.Fatal(err)
		}
		for _, m := range topology.Nodes {
			for _, program := range []string{"felix", "bgpd"} {
				n := w.Topology.Nodes[m.Name+"-"+program]
				if want := "container:" + m.Name; n.Group != program || n.NetworkMode != want || n.PidMode != want {
					t.Errorf("%s: %s of %s: %+v", name, program, m.Name, n)
				}
			}
		}
	}
}

func TestLinksJoinWhatIsThereAndNoDeviceTwice(t *testing.T) {
	for _, name := range Labs() {
		_, text := load(t, name)
		var w whole
		if err := yaml.Unmarshal(text, &w); err != nil {
			t.Fatal(err)
		}
		used := map[string]bool{}
		for _, l := range w.Topology.Links {
			for _, end := range l.Endpoints {
				node, _, _ := strings.Cut(end, ":")
				if _, ok := w.Topology.Nodes[node]; !ok || used[end] {
					t.Errorf("%s: link of %s: no such node, or used twice", name, end)
				}
				used[end] = true
			}
		}
	}
}

func TestEveryImageIsAVariableWithALocalDefault(t *testing.T) {
	image := regexp.MustCompile(`(?m)^\s*image: (.*)$`)
	allowed := regexp.MustCompile(`^\$\{(NODE|HOST|FRR|BIRD|ETCD)_IMAGE:=tortie/(node:dev|etcd:dev|debian:lab)\}$`)
	for _, name := range Labs() {
		_, text := load(t, name)
		found := image.FindAllSubmatch(text, -1)
		if len(found) < 4 {
			t.Errorf("%s: only %d images", name, len(found))
		}
		for _, m := range found {
			if !allowed.Match(m[1]) {
				t.Errorf("%s: image %s", name, m[1])
			}
		}
	}
}

func TestLoadRefusesWhatItCanNotRun(t *testing.T) {
	if _, err := Load(".", "ring"); err == nil || !strings.Contains(err.Error(), "mesh, leaf-spine, reflectors") {
		t.Errorf("a lab that isn't there: %v", err)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"another name", "name: other", `"other"`},
		{"a node without IPv6", "name: x\ntopology: {nodes: {n1: {group: node, exec: [ip address add 10.0.0.1/24 dev eth0]}}}", "n1"},
		{"half an address", "name: x\ntopology: {nodes: {n1: {group: node, exec: [ip address add 10.0.0/24 dev eth0]}}}", "10.0.0/24"},
		{"no address of a router", "name: x\ntopology: {nodes: {n1: {group: node, exec: [ip route add default via gw]}}}", "gw"},
	} {
		topology := &Topology{Name: "x", Programs: map[string][]string{}}
		if err := topology.read([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestNextHopIsTheNodeOnTheSegmentAndElseTheDefaultRouter(t *testing.T) {
	for _, tt := range []struct {
		lab, from, to string
		v6            bool
		want          string
	}{
		{"mesh", "n1", "n2", false, "10.20.0.2"},
		{"leaf-spine", "n1", "n2", true, "fd30:1::2"},
		{"leaf-spine", "n1", "n3", false, "10.30.1.254"},
		{"leaf-spine", "n4", "n1", true, "fd30:2::fe"},
		{"reflectors", "n1", "rr1", false, "10.40.0.1"},
	} {
		topology, _ := load(t, tt.lab)
		node := func(name string) Machine {
			return topology.Nodes[slices.IndexFunc(topology.Nodes, func(m Machine) bool { return m.Name == name })]
		}
		if got := topology.hop(node(tt.from).probed(), node(tt.to).probed(), tt.v6); got != addr(tt.want) {
			t.Errorf("%s: %s to %s by %s, want %s", tt.lab, tt.from, tt.to, got, tt.want)
		}
	}
}

func TestPodsAreReadFromWhatANodeLists(t *testing.T) {
	p, err := readPod("n1", "web 2 10.65.40.128/32 fd65::1/128\n")
	if err != nil || p.Name != "web" || p.Node != "n1" || p.V4 != addr("10.65.40.128") || p.V6 != addr("fd65::1") ||
		!slices.Equal(p.Agents, []string{"web.0", "web.1"}) {
		t.Errorf("%+v, %v", p, err)
	}
	for _, line := range []string{"", "web", "web two 10.65.0.1/32", "web 1 10.65.0.1"} {
		if _, err := readPod("n1", line); err == nil {
			t.Errorf("%q: no error", line)
		}
	}
}

func TestSessionsThatAreDownAreNamedUnlessTheirNodeIsGone(t *testing.T) {
	const up = `{"name":"n2","address":"10.40.0.4","state":"Established"}`
	topology, _ := load(t, "reflectors")
	l := &Lab{Topology: topology, nodes: slices.Clone(topology.Nodes)}
	l.forget("rr1")
	for _, tt := range []struct{ name, out, want string }{
		{"all up", "[" + up + "]", ""},
		{"none", "[]", "no BGP peers"},
		{"one down", `[` + up + `,{"name":"border","address":"fd40::fe","state":"Active"}]`, "fd40::fe (border) is Active"},
		{"that of a node that is gone", `[` + up + `,{"name":"reflectors","address":"10.40.0.1","state":"Idle"}]`, ""},
		{"that of a node that is there", `[` + up + `,{"name":"reflectors","address":"10.40.0.2","state":"Idle"}]`, "10.40.0.2"},
		{"no JSON", "bgpd is away", "calicoctl bgp peers"},
	} {
		err := down(tt.out, l.gone)
		if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
