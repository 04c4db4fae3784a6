package lab

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"

	"tortie/tests/lab/matrix"
)

// CheckAll probes every path between all pods, nodes and the outside host, and
// judges the answers.
func (l *Lab) CheckAll(ctx context.Context) ([]matrix.Check, error) {
	setup, err := l.setup()
	if err != nil {
		return nil, err
	}
	checks := matrix.Plan(setup)
	return checks, matrix.Run(ctx, l, checks)
}

// setup says what the lab has to probe.
func (l *Lab) setup() (matrix.Setup, error) {
	t := l.st.Topology
	s := matrix.Setup{Outside: t.Outside.probed(), Hop: t.hop}
	for _, n := range t.Nodes {
		s.Nodes = append(s.Nodes, n.probed())
	}
	for _, p := range l.Pods() {
		pod := matrix.Pod{Host: matrix.Host{Name: p.Name, V4: p.Addr(false), V6: p.Addr(true)}, Node: p.Node}
		for i := range p.Containers {
			pod.Agents = append(pod.Agents, p.Agent(i))
		}
		s.Pods = append(s.Pods, pod)
	}
	pools, err := l.resources("ippools")
	if err != nil {
		return s, err
	}
	if s.Pools, err = matrix.ReadPools(pools); err != nil {
		return s, err
	}
	nodes, err := l.resources("nodes")
	if err != nil {
		return s, err
	}
	s.Tunnels, err = matrix.ReadTunnels(nodes)
	return s, err
}

// resources asks calicoctl for all resources of a kind.
func (l *Lab) resources(kind string) ([]byte, error) {
	var out, errs bytes.Buffer
	err := l.onNode(l.st.Topology.Nodes[0].Name, []string{"calicoctl", "get", kind, "-o", "json"}, Stdio{Out: &out, Err: &errs})
	if err != nil {
		return nil, fmt.Errorf("read the %s: %w: %s", kind, err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.Bytes(), nil
}

func (h Host) probed() matrix.Host {
	return matrix.Host{Name: h.Name, V4: h.V4.Addr(), V6: h.V6.Addr()}
}

// hop is the next hop between two nodes: the other one when both are on one
// segment, the router when they aren't.
func (t Topology) hop(from, to matrix.Host, v6 bool) netip.Addr {
	a, errA := t.Node(from.Name)
	b, errB := t.Node(to.Name)
	switch {
	case errA != nil || errB != nil:
		return netip.Addr{}
	case a.Segment == b.Segment:
		return to.Addr(v6)
	case v6:
		return t.Segment(a.Segment).RouterV6
	}
	return t.Segment(a.Segment).Router
}

// NextHop implements matrix.Lab.
func (l *Lab) NextHop(_ context.Context, node string, dst netip.Addr) (netip.Addr, error) {
	return matrix.NextHopIn(l.st.Holders[node].Netns(), dst)
}
