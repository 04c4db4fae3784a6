package fv

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tortie/tests/lab"
)

// zoneLabel is by what reflectors are spread.
const zoneLabel = "topology.kubernetes.io/zone"

// TestAutoTopologyLosesNoRoute goes from the mesh to reflectors in two zones, lets a third
// zone appear, so that a living reflector is replaced, has one die, and goes back to the
// mesh: under traffic, and with every change of every kernel's routes written down. No
// packet is lost, and no route of a node that lives is ever gone.
func TestAutoTopologyLosesNoRoute(t *testing.T) {
	const victim = "node3"
	l := up(t, "auto", 6)
	addPods(t, l, 6, 1)
	mustConverge(t, l)
	// Routes of a dead node stay for as long; and it has to come back from where it is put.
	apply(t, l, manifestHead+"kind: BGPConfiguration\nmetadata: {name: default}\nspec: {asNumber: 64512, nodeToNodeMeshEnabled: true, nodeMeshMaxRestartTime: 15s}\n")
	ownOnly(t, l)
	for node, zone := range map[string]string{"node1": "a", "node2": "a", "node4": "a", "node3": "b", "node5": "b", "node6": "b"} {
		setZone(t, l, node, zone)
	}
	routes := watchRoutes(t, l)
	tr := trafficBeside(t, l, victim)

	reflectorsAre(t, run(t, l, "", "calicoctl", "bgp", "auto-topology", "--above=4", "--apply"), "node1, node2, node3")
	setZone(t, l, "node6", "c")
	reflectorsAre(t, run(t, l, "", "calicoctl", "bgp", "auto-topology", "--apply"), "node1, node3, node6")
	tr.stopAndDemandNoLoss(t)
	routes.demandNoneGone(t, "")

	tr = trafficBeside(t, l, victim)
	if err := l.KillDaemon("bgpd", victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	reflectorsAre(t, run(t, l, "", "calicoctl", "bgp", "auto-topology", "--apply"), "node1, node5, node6")
	tr.stopAndDemandNoLoss(t)
	routes.demandNoneGone(t, victim)
	if err := l.StartDaemon("bgpd", victim); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitConverged(t.Context(), 30*time.Second); err != nil {
		t.Fatal(err)
	}

	tr = trafficBeside(t, l, victim)
	reflectorsAre(t, run(t, l, "", "calicoctl", "bgp", "auto-topology", "--off", "--apply"), "none")
	tr.stopAndDemandNoLoss(t)
	routes.demandNoneGone(t, victim)
	mustConverge(t, l)
	left := run(t, l, "", "calicoctl", "get", "nodes", "-o", "yaml") + run(t, l, "", "calicoctl", "get", "bgpconfig", "-o", "yaml") + run(t, l, "", "calicoctl", "get", "bgppeers")
	for _, trace := range []string{"auto-topology", "route-reflector", "routeReflectorClusterID", "nodeToNodeMeshEnabled: false"} {
		if strings.Contains(left, trace) {
			t.Errorf("%s is left:\n%s", trace, left)
		}
	}
	if !strings.Contains(left, "nodeMeshMaxRestartTime: 15s") {
		t.Errorf("the mesh didn't get its restart time back:\n%s", left)
	}
}

// ownOnly keeps what reflectors pass on from the lab's router.
func ownOnly(t *testing.T, l *lab.Lab) {
	t.Helper()
	apply(t, l, manifestHead+"kind: BGPFilter\nmetadata: {name: own-only}\nspec:\n  exportV4: [{action: Reject, source: RemotePeers}]\n  exportV6: [{action: Reject, source: RemotePeers}]\n")
	for i, seg := range []string{"seg-a", "seg-b"} {
		for family, address := range map[string]string{"v4": fmt.Sprintf("10.10.%d.254", i+1), "v6": fmt.Sprintf("fd10:0:0:%d::fe", i+1)} {
			apply(t, l, manifestHead+fmt.Sprintf("kind: BGPPeer\nmetadata: {name: router-%s-%s}\nspec: {asNumber: 64999, nodeSelector: segment == '%s', peerIP: '%s', filters: [own-only]}\n",
				seg, family, seg, address))
		}
	}
}

func setZone(t *testing.T, l *lab.Lab, node, zone string) {
	t.Helper()
	run(t, l, "", "calicoctl", "label", "nodes", node, zoneLabel+"="+zone, "--overwrite")
}

func reflectorsAre(t *testing.T, out, want string) {
	t.Helper()
	t.Log(out)
	if !strings.Contains(out, "reflectors: "+want+".") {
		t.Errorf("want reflectors %s", want)
	}
}

// trafficBeside sends between the pods of all nodes but one, each to the next two.
func trafficBeside(t *testing.T, l *lab.Lab, victim string) *traffic {
	t.Helper()
	tr := &traffic{l: l, interval: streamInterval, streams: map[string]string{}}
	var pods []*lab.Pod
	for _, p := range l.Pods() {
		if p.Node != victim {
			pods = append(pods, p)
		}
	}
	for i, p := range pods {
		for _, q := range []*lab.Pod{pods[(i+1)%len(pods)], pods[(i+2)%len(pods)]} {
			for _, v6 := range []bool{false, true} {
				tr.start(t, p, q.Addr(v6), "udp")
			}
		}
	}
	return tr
}

// routeWatch has what the kernels of all nodes have said of their routes.
type routeWatch struct {
	mu     sync.Mutex
	said   map[string]*bytes.Buffer
	blocks map[string][]string // by node
}

// watchRoutes writes down every change of bgpd's routes on every node from now on.
func watchRoutes(t *testing.T, l *lab.Lab) *routeWatch {
	t.Helper()
	w := &routeWatch{said: map[string]*bytes.Buffer{}, blocks: map[string][]string{}}
	for _, n := range l.Topology().Nodes {
		var own bytes.Buffer
		// felix's blackholes are the node's own blocks.
		script := "ip route show type blackhole proto 80; ip -6 route show type blackhole proto 80"
		if err := l.Exec(n.Name, []string{"sh", "-c", script}, lab.Stdio{Out: &own}); err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(own.String()), "\n") {
			w.blocks[n.Name] = append(w.blocks[n.Name], strings.Fields(line)[1])
		}
		end, stop := io.Pipe()
		t.Cleanup(func() { stop.Close() })
		started := make(chan struct{})
		said := &bytes.Buffer{}
		w.said[n.Name] = said
		go func() {
			// The first line says that it runs; it ends with its standard input.
			script := "ip -o monitor route & m=$!; sleep 1; echo watching; cat >/dev/null; kill $m"
			out := &lockedWriter{w: w, to: said, first: started}
			if err := l.Exec(n.Name, []string{"sh", "-c", script}, lab.Stdio{In: end, Out: out}); err != nil {
				w.failed(n.Name, err)
			}
		}()
		<-started
	}
	return w
}

func (w *routeWatch) failed(node string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintf(w.said[node], "\nwatch: %v\n", err)
}

// lockedWriter adds to what a node has said.
type lockedWriter struct {
	w     *routeWatch
	to    *bytes.Buffer
	first chan struct{}
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if l.first != nil && bytes.Contains(p, []byte("watching")) {
		close(l.first)
		l.first = nil
	}
	return l.to.Write(p)
}

// demandNoneGone fails for each of bgpd's routes that was taken away on a node that lives,
// but for those to the node that is dead.
func (w *routeWatch) demandNoneGone(t *testing.T, dead string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	deleted := regexp.MustCompile(`(?m)^Deleted .*proto 81.*$`)
	for node, said := range w.said {
		if !strings.Contains(said.String(), "watching") {
			t.Errorf("nobody has watched %s", node)
		}
		for _, line := range deleted.FindAllString(said.String(), -1) {
			excused := node == dead
			for _, block := range w.blocks[dead] {
				excused = excused || strings.Contains(line, " "+block+" ")
			}
			if !excused {
				t.Errorf("%s: %s", node, line)
			}
		}
	}
}
