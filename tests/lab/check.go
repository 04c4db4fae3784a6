package lab

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"tortie/tests/lab/agentwire"
)

// The paths a packet can take, in the order of the matrix.
const (
	PathLocalhost   = "container → container, same pod, over localhost"
	PathSameNode    = "pod → pod, same node"
	PathSameSegment = "pod → pod, other node, same segment"
	PathRouted      = "pod → pod, other node, through the router"
	PathNodeToPod   = "node → pod"
	PathPodToNode   = "pod → node"
	PathOutside     = "pod → outside host"
)

// Paths lists them.
func Paths() []string {
	return []string{PathLocalhost, PathSameNode, PathSameSegment, PathRouted, PathNodeToPod, PathPodToNode, PathOutside}
}

// Check is one probe with what is expected of it.
type Check struct {
	Path     string
	From, To string // agents
	V6       bool
	Probe    agentwire.Probe
	// Want is the address the receiver must see; invalid means any.
	Want netip.Addr
	// Node and Via: the node of the sender must send by this next hop; invalid when
	// any will do.
	Node   string
	Via    netip.Addr
	Result agentwire.Result
	// Failure says what was wrong; empty means it passed.
	Failure string
}

// Family is "IPv4" or "IPv6".
func (c Check) Family() string {
	if c.V6 {
		return "IPv6"
	}
	return "IPv4"
}

// probeTimeout is how long one probe may take; the first may wait for a neighbour.
const probeTimeout = 5 * time.Second

// CheckAll probes every path between all pods, nodes and the outside host, by TCP
// and UDP, IPv4 and IPv6, and judges the answers.
func (l *Lab) CheckAll(ctx context.Context) ([]Check, error) {
	checks, err := l.plan()
	if err != nil {
		return nil, err
	}
	ways := l.ways()
	byAgent := map[string][]int{}
	for i, c := range checks {
		byAgent[c.From] = append(byAgent[c.From], i)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for agent, indexes := range byAgent {
		g.Go(func() error {
			req := agentwire.Request{}
			for _, i := range indexes {
				req.Probes = append(req.Probes, checks[i].Probe)
			}
			resp, err := l.Ask(ctx, agent, req)
			for n, i := range indexes {
				if err != nil {
					checks[i].Failure = err.Error()
					continue
				}
				checks[i].Result = resp.Results[n]
				checks[i].Failure = checks[i].judge()
				if checks[i].Failure == "" {
					checks[i].Failure = ways.judge(checks[i])
				}
			}
			return ctx.Err()
		})
	}
	return checks, g.Wait()
}

func (c Check) judge() string {
	switch {
	case c.Result.Err != "":
		return c.Result.Err
	case c.Result.By != c.To:
		return fmt.Sprintf("answered by %q instead of %q", c.Result.By, c.To)
	case c.Want.IsValid() && c.Result.Seen != c.Want:
		return fmt.Sprintf("%s saw it come from %s instead of %s", c.To, c.Result.Seen, c.Want)
	}
	return ""
}

// plan lists the checks.
func (l *Lab) plan() ([]Check, error) {
	resources, err := l.cluster()
	if err != nil {
		return nil, err
	}
	p := planner{lab: l, cluster: resources}
	pods := l.Pods()
	for _, v6 := range []bool{false, true} {
		for _, pod := range pods {
			p.within(pod, v6)
			for _, other := range pods {
				if pod != other {
					p.between(pod, other, v6)
				}
			}
			p.withHosts(pod, v6)
		}
	}
	return p.checks, nil
}

// planner collects checks.
type planner struct {
	lab     *Lab
	cluster cluster
	checks  []Check
}

// add checks TCP and UDP; without a target, which is to say without an address of
// that family, nothing.
func (p *planner) add(c Check, target netip.Addr, port int) {
	if !target.IsValid() {
		return
	}
	c.V6 = target.Is6()
	for _, network := range []string{"tcp", "udp"} {
		c.Probe = agentwire.Probe{Network: network, Target: netip.AddrPortFrom(target, uint16(port)), Timeout: probeTimeout}
		p.checks = append(p.checks, c)
	}
}

// within has every container of a pod reach the next one over localhost.
func (p *planner) within(pod *Pod, v6 bool) {
	localhost := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if v6 {
		localhost = netip.IPv6Loopback()
	}
	for i := range pod.Containers {
		if to := (i + 1) % len(pod.Containers); to != i {
			p.add(Check{Path: PathLocalhost, From: pod.Agent(i), To: pod.Agent(to), Want: localhost}, localhost, agentwire.Port+to)
		}
	}
}

// between has one pod reach another, with its own address and by the right next hop.
func (p *planner) between(from, to *Pod, v6 bool) {
	p.add(Check{
		Path: p.lab.pathBetween(from, to), From: from.Agent(0), To: to.Agent(0), Want: from.Addr(v6),
		Node: from.Node, Via: p.cluster.via(from, to, v6),
	}, to.Addr(v6), agentwire.Port)
}

// withHosts has a pod reach every node and be reached from it, and reach the
// outside host, which sees the node instead when the pod's pool is masqueraded. Where a
// tunnel leads from a node to the pod, the pod sees the tunnel's address, and the
// node that of the pod's node, if its pool is masqueraded.
func (p *planner) withHosts(pod *Pod, v6 bool) {
	t, own := p.lab.st.Topology, pod.Addr(v6)
	for _, n := range t.Nodes {
		seen, back := n.addr(v6), own
		if p.cluster.tunneled(n.Name, pod.Node, own) {
			seen = p.cluster.tunnel(n.Name, v6)
			back = p.outsideAs(pod, v6)
		}
		p.add(Check{Path: PathNodeToPod, From: n.Name, To: pod.Agent(0), Want: seen}, own, agentwire.Port)
		p.add(Check{Path: PathPodToNode, From: pod.Agent(0), To: n.Name, Want: back}, n.addr(v6), agentwire.Port)
	}
	seen := p.outsideAs(pod, v6)
	p.add(Check{Path: PathOutside, From: pod.Agent(0), To: t.Outside.Name, Want: seen}, t.Outside.addr(v6), agentwire.Port)
}

// outsideAs is what a pod is seen as outside of the cluster.
func (p *planner) outsideAs(pod *Pod, v6 bool) netip.Addr {
	own := pod.Addr(v6)
	if n, err := p.lab.st.Topology.Node(pod.Node); err == nil && p.cluster.poolOf(own).NATOutgoing {
		return n.addr(v6)
	}
	return own
}

func (h Host) addr(v6 bool) netip.Addr {
	if v6 {
		return h.V6.Addr()
	}
	return h.V4.Addr()
}

func (l *Lab) pathBetween(p, q *Pod) string {
	a, _ := l.st.Topology.Node(p.Node)
	b, _ := l.st.Topology.Node(q.Node)
	switch {
	case a.Name == b.Name:
		return PathSameNode
	case a.Segment == b.Segment:
		return PathSameSegment
	}
	return PathRouted
}
