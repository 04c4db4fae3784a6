package fv

import (
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tortie/tests/lab"
)

// TestKilledDaemonsLoseNoPacket kills programs with SIGKILL under running traffic,
// starts them again, and demands that no packet was lost and that every node's
// routes are the same as before.
func TestKilledDaemonsLoseNoPacket(t *testing.T) {
	l := up(t, "kill", 3)
	addPods(t, l, 6, 1)
	mustConverge(t, l)
	cases := []struct {
		name     string
		programs []string
		nodes    []string
	}{
		{"felix", []string{"felix"}, []string{"node1"}},
		{"bgpd", []string{"bgpd"}, []string{"node1"}},
		{"felix and bgpd", []string{"felix", "bgpd"}, []string{"node2"}},
		{"felix and bgpd behind the router", []string{"felix", "bgpd"}, []string{"node3"}},
		{"both on every node at once", []string{"felix", "bgpd"}, []string{"node1", "node2", "node3"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			demandNoLossWhileKilled(t, l, c.programs, c.nodes)
		})
	}
}

// demandNoLossWhileKilled kills programs on nodes under traffic and starts them again: no
// packet is lost, and every node's routes are the same as before.
func demandNoLossWhileKilled(t *testing.T, l *lab.Lab, programs, nodes []string) {
	t.Helper()
	demandLossWhileKilled(t, l, nil, programs, nodes)
}

// demandLossWhileKilled forgives what a queue has dropped; nil: nothing.
func demandLossWhileKilled(t *testing.T, l *lab.Lab, dropped func() int, programs, nodes []string) {
	t.Helper()
	before := routesOf(t, l)
	tr := startTraffic(t, l)
	tr.dropped = dropped
	killAndRestart(t, l, programs, nodes)
	tr.stopAndDemandNoLoss(t)
	mustConverge(t, l)
	if diff := cmp.Diff(before, routesOf(t, l)); diff != "" {
		t.Errorf("routes differ from before (-before +after):\n%s", diff)
	}
}

// killAndRestart gives traffic time before, between and after.
func killAndRestart(t *testing.T, l *lab.Lab, programs, nodes []string) {
	t.Helper()
	time.Sleep(500 * time.Millisecond)
	for _, n := range nodes {
		for _, p := range programs {
			if err := l.KillDaemon(p, n, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(2 * time.Second) // traffic flows with nobody at home
	for _, n := range nodes {
		for _, p := range programs {
			if err := l.StartDaemon(p, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
	time.Sleep(3 * time.Second) // End-of-RIB, sweeps and resyncs fall into this time
}

// TestPodsComeAndGoWhileDaemonsAreKilled adds and deletes pods around kills: what
// was added works, what was deleted is gone everywhere.
func TestPodsComeAndGoWhileDaemonsAreKilled(t *testing.T) {
	l := up(t, "churn", 3)
	addPods(t, l, 9, 1)
	victims := []string{"pod-00-node1", "pod-04-node2", "pod-08-node3"}
	for i, victim := range victims {
		node := l.Topology().Nodes[i].Name
		if err := l.DelPod(t.Context(), victim); err != nil {
			t.Fatal(err)
		}
		for _, program := range []string{"felix", "bgpd"} {
			if err := l.KillDaemon(program, node, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := l.StartDaemon(program, node); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustConverge(t, l)
	waitStoreSound(t, l, 6)
}
