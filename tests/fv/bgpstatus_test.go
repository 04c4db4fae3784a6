package fv

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"sigs.k8s.io/yaml"

	"tortie/tests/lab"
)

// TestOperatorSeesBGPOfAllNodes asks the running programs what an operator asks.
func TestOperatorSeesBGPOfAllNodes(t *testing.T) {
	l := upWith(t, "bgpstatus", 3, func(s *lab.Spec) { s.Env = append(s.Env, "BGPD_METRICS_ADDRESS=localhost:9098") })
	addPods(t, l, 3, 1)
	mustConverge(t, l)
	all := run(t, l, "", "calicoctl", "bgp", "peers", "--all-nodes")
	if n := strings.Count(all, "Established"); n != 18 {
		t.Errorf("%d sessions are up, want 18:\n%s", n, all)
	}
	block := blockOf(t, l, "node3")
	why := run(t, l, "", "calicoctl", "bgp", "why", block)
	for _, want := range []string{"block of node3", "(node3, node-to-node mesh)", "decided by  the only path", "filters     accepted", "proto 81 (bgpd)"} {
		if !strings.Contains(why, want) {
			t.Errorf("bgp why %s lacks %q:\n%s", block, want, why)
		}
	}
	for _, table := range []string{"--in", "--fib"} {
		if out := run(t, l, "", "calicoctl", "bgp", "routes", block, table); !strings.Contains(out, "block of node3") {
			t.Errorf("bgp routes %s %s:\n%s", block, table, out)
		}
	}
	own := blockOf(t, l, "this node")
	if out := run(t, l, "", "calicoctl", "bgp", "routes", own, "--out"); strings.Count(out, own) != 3 {
		t.Errorf("%s is sent to others than two nodes and the router:\n%s", own, out)
	}
	metrics := run(t, l, "", "curl", "-sS", "localhost:9098/metrics")
	for _, want := range []string{
		`bgpd_sessions{family="ipv4",state="Established",type="node-to-node mesh"} 2`, `bgpd_sessions{family="ipv6",state="Established",type="node specific"} 1`,
		`bgpd_fib_routes{family="ipv4"} 2`, `bgpd_prefixes_best{family="ipv6"} 2`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("metrics lack %s:\n%s", want, metrics)
		}
	}
	aNodeThatIsAwayIsNamed(t, l)
}

func aNodeThatIsAwayIsNamed(t *testing.T, l *lab.Lab) {
	apply(t, l, manifestHead+"kind: CalicoNodeStatus\nmetadata: {name: mine}\nspec: {node: node2, classes: [Agent, BGP, Routes], updatePeriodSeconds: 1}\n")
	if err := l.KillDaemon("bgpd", "node3", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	err := l.Exec("node1", []string{"calicoctl", "bgp", "peers", "--all-nodes"}, lab.Stdio{In: strings.NewReader(""), Out: &out, Err: &errs})
	if err == nil || !strings.HasPrefix(errs.String(), "node node3: no answer within 5s") || strings.Count(errs.String(), "\n") != 1 || !strings.Contains(out.String(), "node2   node1") {
		t.Errorf("all nodes without node3: %v\n%s%s", err, out.String(), errs.String())
	}
	if left := run(t, l, "", "calicoctl", "get", "caliconodestatus"); strings.Contains(left, "calicoctl-") {
		t.Errorf("requests are left:\n%s", left)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		var s v3.CalicoNodeStatus
		if err := yaml.Unmarshal([]byte(run(t, l, "", "calicoctl", "get", "caliconodestatus", "mine", "-o", "yaml")), &s); err != nil {
			t.Fatal(err)
		}
		b := s.Status.BGP
		if b.NumberEstablishedV4 == 2 && b.NumberNotEstablishedV4 == 1 && b.NumberEstablishedV6 == 2 && len(s.Status.Routes.RoutesV4) == 3 && s.Status.Agent.BIRDV4.State == v3.BGPDaemonStateReady {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("CalicoNodeStatus of node2 after 30 s: %+v", s.Status)
		}
	}
}

// blockOf is the first IPv4 block whose reason names somebody.
func blockOf(t *testing.T, l *lab.Lab, whose string) string {
	t.Helper()
	for line := range strings.Lines(run(t, l, "", "calicoctl", "bgp", "routes")) {
		if strings.Contains(line, "block of "+whose) {
			return strings.Fields(line)[0]
		}
	}
	t.Fatalf("no block of %s", whose)
	return ""
}

// planned is what bgp plan -o json says of the kernel.
type planned struct {
	SessionsRemoved []struct{ Node, Address string }
	KernelRoutes    []struct{ Node, Prefix, Before, After string }
}

// TestPlanIsWhatComesToPass compares a plan with what bgpd's of all nodes then do.
func TestPlanIsWhatComesToPass(t *testing.T) {
	l := up(t, "bgpplan", 3)
	addPods(t, l, 3, 1)
	mustConverge(t, l)
	// Without the routers' sessions too: what they pass on is no part of a plan.
	gone := run(t, l, "", "calicoctl", "get", "bgppeers", "-o", "yaml")
	run(t, l, gone, "calicoctl", "delete", "-f", "-")
	change := manifestHead + "kind: BGPConfiguration\nmetadata: {name: default}\nspec: {asNumber: 64512, nodeToNodeMeshEnabled: false}\n---\n" +
		manifestHead + "kind: BGPPeer\nmetadata: {name: one}\nspec: {node: node1, peerIP: 10.10.1.2, asNumber: 64512}\n---\n" +
		manifestHead + "kind: BGPPeer\nmetadata: {name: two}\nspec: {node: node2, peerIP: 10.10.1.1, asNumber: 64512}\n"
	var p planned
	if err := json.Unmarshal([]byte(run(t, l, change, "calicoctl", "bgp", "plan", "-f", "-", "-o", "json")), &p); err != nil {
		t.Fatal(err)
	}
	before := kernelRoutes(t, l)
	apply(t, l, change)
	var want []string
	for _, r := range before {
		if !slices.ContainsFunc(p.KernelRoutes, func(x struct{ Node, Prefix, Before, After string }) bool {
			return x.Node+" "+x.Prefix == r && x.After == ""
		}) {
			want = append(want, r)
		}
	}
	if len(want) != 2 || len(before) != 12 {
		t.Fatalf("the plan leaves %v of %v, want the two IPv4 routes between node1 and node2", want, before)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		now := kernelRoutes(t, l)
		if slices.Equal(now, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("routes after 30 s: %v; planned %v", now, want)
		}
	}
}

// kernelRoutes are bgpd's on all nodes, "node prefix".
func kernelRoutes(t *testing.T, l *lab.Lab) []string {
	t.Helper()
	var out []string
	for _, n := range l.Topology().Nodes {
		for _, family := range []string{"-4", "-6"} {
			var text, errs bytes.Buffer
			if err := l.Exec(n.Name, []string{"ip", family, "route", "show", "proto", "81"}, lab.Stdio{In: strings.NewReader(""), Out: &text, Err: &errs}); err != nil {
				t.Fatalf("%s: %v: %s", n.Name, err, errs.String())
			}
			for line := range strings.Lines(text.String()) {
				out = append(out, fmt.Sprintf("%s %s", n.Name, strings.Fields(line)[0]))
			}
		}
	}
	slices.Sort(out)
	return out
}
