package clab

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"tortie/tests/lab/agentwire"
	"tortie/tests/lab/matrix"
)

func TestLossAddsUpOverFlowsAndKeepsTheLongestOutage(t *testing.T) {
	var l Loss
	for _, r := range []agentwire.StreamReport{
		{Sent: 1000, Answered: 1000, LongestGap: time.Second}, // slow, but nothing lost
		{Sent: 1000, Answered: 990, LongestLoss: 4},
		{Sent: 500, Answered: 400, LongestLoss: 100},
	} {
		l.add(r)
	}
	if want := (Loss{Flows: 3, Hit: 2, Sent: 2500, Lost: 110, Outage: 100 * interval}); l != want {
		t.Errorf("%+v, want %+v", l, want)
	}
}

func TestLossIsJudgedByWhatTheFaultMayCost(t *testing.T) {
	for _, tt := range []struct {
		name   string
		loss   Loss
		outage time.Duration
		ok     bool
	}{
		{"nothing lost", Loss{Sent: 10}, 0, true},
		{"one packet lost where none may be", Loss{Sent: 10, Lost: 1, Outage: interval}, 0, false},
		{"short enough", Loss{Sent: 10, Lost: 5, Outage: time.Second}, time.Second, true},
		{"too long", Loss{Sent: 10, Lost: 5, Outage: time.Second + interval}, time.Second, false},
		{"nothing was sent", Loss{}, time.Second, false},
	} {
		if err := tt.loss.judge(Fault{Outage: tt.outage}); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestFlowsGoFromEveryNodeToAllPodsOfTheOthersAndOutside(t *testing.T) {
	pod := func(name, node, v4, v6 string) matrix.Pod {
		return matrix.Pod{Host: matrix.Host{Name: name, V4: addr(v4), V6: addr(v6)}, Node: node, Agents: []string{name + ".0"}}
	}
	topology, _ := load(t, "mesh")
	l := &Lab{Topology: topology, pods: []matrix.Pod{
		pod("a", "n1", "10.65.0.1", "fd65::1"), pod("b", "n1", "10.65.0.2", "fd65::2"), pod("c", "n2", "10.65.1.1", "fd65::1:1"),
	}}
	got := map[string]int{}
	for _, f := range l.flows() {
		got[f.from+" "+f.to.Addr().String()]++
	}
	for _, want := range []string{
		"a.0 10.65.1.1", "a.0 fd65::1:1", "a.0 198.51.100.10", "a.0 2001:db8:ff::10",
		"c.0 10.65.0.1", "c.0 10.65.0.2", "c.0 fd65::1", "c.0 fd65::2", "c.0 198.51.100.10", "c.0 2001:db8:ff::10",
	} {
		if got[want] != 1 {
			t.Errorf("%d flows %s, want 1", got[want], want)
		}
		delete(got, want)
	}
	for f := range got {
		t.Errorf("flow %s should not be", f)
	}
}

func TestAMachineThatIsGoneHasNoFlows(t *testing.T) {
	topology, _ := load(t, "reflectors")
	l := &Lab{Topology: topology, nodes: slices.Clone(topology.Nodes)}
	for i, n := range topology.Nodes {
		a := netip.AddrFrom4([4]byte{10, 65, byte(i), 1})
		l.pods = append(l.pods, matrix.Pod{Host: matrix.Host{Name: n.Name, V4: a}, Node: n.Name, Agents: []string{"on-" + n.Name}})
	}
	gone := l.pods[slices.IndexFunc(l.pods, func(p matrix.Pod) bool { return p.Node == "rr1" })].V4
	l.forget("rr1")
	flows := l.flows()
	if len(flows) != 3*(2+2) { // three nodes, each to two others and, in both families, outside
		t.Errorf("%d flows", len(flows))
	}
	for _, f := range flows {
		if f.from == "on-rr1" || f.to.Addr() == gone {
			t.Errorf("flow %v", f)
		}
	}
	if len(topology.Nodes) != 4 {
		t.Error("the topology has forgotten the node, too")
	}
}

func TestEveryLabHasFaults(t *testing.T) {
	for _, name := range Labs() {
		topology, _ := load(t, name)
		faults := topology.Faults()
		if len(faults) < 2 {
			t.Errorf("%s: %d faults", name, len(faults))
		}
		for _, f := range faults {
			if f.Name == "" || f.Break == nil {
				t.Errorf("%s: a fault that breaks nothing: %+v", name, f)
			}
		}
	}
}
