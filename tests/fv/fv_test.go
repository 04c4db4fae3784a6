// Package fv tests the whole programs together on the lab: real etcd, real BGP
// sessions, real kernel routes, real CNI calls, and faults under running traffic.
package fv

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tortie/tests/lab"
	"tortie/tests/lab/agentwire"
)

// bin is where `make build` puts the programs, seen from this package.
const bin = "../../bin"

// up brings up a lab for one test and takes it down at its end. A failed test
// leaves the ends of the programs' logs in its output.
func up(t *testing.T, name string, nodes int) *lab.Lab {
	t.Helper()
	return upWith(t, name, nodes, func(*lab.Spec) {})
}

func upWith(t *testing.T, name string, nodes int, change func(*lab.Spec)) *lab.Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the lab makes network namespaces: run the tests as root")
	}
	spec := lab.DefaultSpec()
	spec.Name, spec.Nodes = "fv-"+name, nodes
	change(&spec)
	if old, err := lab.Open(spec.Name); err == nil {
		if err := old.Down(); err != nil { // left by a run that was killed
			t.Fatal(err)
		}
	}
	l, err := lab.Up(t.Context(), spec, bin, func(step string) { t.Log(step) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			dumpLogs(t, l)
		}
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func dumpLogs(t *testing.T, l *lab.Lab) {
	t.Helper()
	logs, _ := filepath.Glob(filepath.Join(l.Dir(), "nodes", "*", "*.log"))
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			continue
		}
		t.Logf("--- %s/%s\n%s", filepath.Base(filepath.Dir(path)), filepath.Base(path), b[max(0, len(b)-6000):])
	}
	for _, n := range l.Topology().Nodes {
		routes, err := l.Routes(n.Name)
		t.Logf("--- routes of %s (%v)\n%s", n.Name, err, routes)
	}
}

// addPods makes pods round robin over the nodes.
func addPods(t *testing.T, l *lab.Lab, count, containers int) {
	t.Helper()
	nodes := l.Topology().Nodes
	for i := range count {
		n := nodes[i%len(nodes)].Name
		spec := lab.PodSpec{Name: fmt.Sprintf("pod-%02d-%s", i, n), Node: n, Containers: containers}
		if _, err := l.AddPod(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
}

// patience is long enough for a busy machine; see [lab.Patience] for slower ones.
const patience = time.Minute

// mustConverge fails the test unless every path works before long.
func mustConverge(t *testing.T, l *lab.Lab) {
	t.Helper()
	if err := l.WaitConverged(t.Context(), patience); err != nil {
		t.Fatal(err)
	}
}

// everyPathWorks tries each once, and names those that don't.
func everyPathWorks(t *testing.T, l *lab.Lab) {
	t.Helper()
	checks, err := l.CheckAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range checks {
		if c.Failure != "" {
			t.Errorf("%s: %s → %s (%s %s): %s", c.Path, c.From, c.To, c.Probe.Network, c.Probe.Target, c.Failure)
		}
	}
}

// traffic is a set of streams that run through a fault.
type traffic struct {
	l        *lab.Lab
	interval time.Duration
	streams  map[string]string // stream ID → agent that sends it
	// dropped counts what a queue has dropped that is not felix's or bgpd's to keep from
	// running full; so many packets of all streams may be lost. nil: none.
	dropped func() int
}

// streamInterval is the time between two packets of one stream; the slow one is for an
// emulated processor, which does little else than run the packets' senders otherwise. What
// is lost for less time than it, felix/tunnels' test of packets notices.
const streamInterval, slowInterval = 5 * time.Millisecond, 250 * time.Millisecond

// startTraffic sends UDP and TCP between pods of every two nodes, both families.
func startTraffic(t *testing.T, l *lab.Lab) *traffic {
	t.Helper()
	return startTrafficEvery(t, l, streamInterval)
}

func startTrafficEvery(t *testing.T, l *lab.Lab, interval time.Duration) *traffic {
	t.Helper()
	tr := &traffic{l: l, interval: interval, streams: map[string]string{}}
	first := map[string]*lab.Pod{}
	for _, p := range l.Pods() {
		if first[p.Node] == nil {
			first[p.Node] = p
		}
	}
	for _, p := range first {
		for _, q := range first {
			if p == q {
				continue
			}
			for _, to := range q.Addrs {
				for _, network := range []string{"udp", "tcp"} {
					tr.start(t, p, to, network)
				}
			}
		}
	}
	if len(tr.streams) == 0 {
		t.Fatal("no streams: the lab needs pods on two nodes at least")
	}
	return tr
}

func (tr *traffic) start(t *testing.T, from *lab.Pod, to netip.Addr, network string) {
	t.Helper()
	id := fmt.Sprintf("%s %s → %s", network, from.Name, to)
	_, err := tr.l.Ask(t.Context(), from.Agent(0), agentwire.Request{StartStream: &agentwire.Stream{
		ID: id, Network: network, Target: netip.AddrPortFrom(to, agentwire.Port), Interval: tr.interval,
	}})
	if err != nil {
		t.Fatal(err)
	}
	tr.streams[id] = from.Agent(0)
}

// stopAndDemandNoLoss ends the streams: not one packet may be without its answer, but for
// those that a queue has dropped.
func (tr *traffic) stopAndDemandNoLoss(t *testing.T) {
	t.Helper()
	total, lost := 0, 0
	var losses []string
	for id, agent := range tr.streams {
		resp, err := tr.l.Ask(context.WithoutCancel(t.Context()), agent, agentwire.Request{StopStream: id})
		if err != nil {
			t.Error(err)
			continue
		}
		r := resp.Stream
		total += r.Sent
		lost += r.Sent - r.Answered
		says := fmt.Sprintf("%s: sent %d, answered %d, lost %v, longest gap %v, error %q", id, r.Sent, r.Answered, r.Lost, r.LongestGap, r.Err)
		switch {
		case r.Err != "" || r.Sent == 0:
			t.Error(says)
		case r.Sent > r.Answered:
			losses = append(losses, says)
		}
	}
	dropped := 0
	if tr.dropped != nil {
		dropped = tr.dropped()
	}
	if lost > dropped {
		t.Errorf("%d packets lost, of which queues dropped %d:\n%s", lost, dropped, strings.Join(losses, "\n"))
	}
	t.Logf("%d packets on %d streams, %d lost (queues dropped %d)", total, len(tr.streams), lost, dropped)
}

// routesOf snapshots the routes of every node.
func routesOf(t *testing.T, l *lab.Lab) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, n := range l.Topology().Nodes {
		r, err := l.Routes(n.Name)
		if err != nil {
			t.Fatal(err)
		}
		all[n.Name] = r
	}
	return all
}

// waitStoreSound waits until the datastore holds the endpoints and addresses of
// exactly the given number of pods, with one address of each version of IP that the lab
// has, and breaks none of the allocator's invariants.
func waitStoreSound(t *testing.T, l *lab.Lab, pods int) {
	t.Helper()
	var report lab.StoreReport
	addresses := pods * len(l.Topology().Nodes[0].Addresses())
	for end := time.Now().Add(lab.Patience(30 * time.Second)); ; time.Sleep(200 * time.Millisecond) {
		var err error
		if report, err = l.Store(); err != nil {
			t.Fatal(err)
		}
		if len(report.Endpoints) == pods && len(report.Allocated) == addresses && len(report.Problems) == 0 {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	t.Errorf("the store does not settle at %d pods: %d endpoints %v, %d addresses %v, problems %v",
		pods, len(report.Endpoints), report.Endpoints, len(report.Allocated), report.Allocated, report.Problems)
}
