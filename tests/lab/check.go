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
	masqueraded, err := l.masqueraded()
	if err != nil {
		return nil, err
	}
	var checks []Check
	pods, t := l.Pods(), l.st.Topology
	add := func(path, from, to string, target netip.Addr, port int, want netip.Addr) {
		if !target.IsValid() {
			return
		}
		for _, network := range []string{"tcp", "udp"} {
			checks = append(checks, Check{
				Path: path, From: from, To: to, V6: target.Is6(), Want: want,
				Probe: agentwire.Probe{Network: network, Target: netip.AddrPortFrom(target, uint16(port)), Timeout: probeTimeout},
			})
		}
	}
	between := func(p, q *Pod, v6 bool) {
		before := len(checks)
		add(l.pathBetween(p, q), p.Agent(0), q.Agent(0), q.Addr(v6), agentwire.Port, p.Addr(v6))
		for i := before; i < len(checks); i++ {
			checks[i].Node, checks[i].Via = p.Node, l.via(p, q, v6)
		}
	}
	for _, v6 := range []bool{false, true} {
		for _, p := range pods {
			own := p.Addr(v6)
			localhost := netip.AddrFrom4([4]byte{127, 0, 0, 1})
			if v6 {
				localhost = netip.IPv6Loopback()
			}
			for i := range p.Containers {
				to := (i + 1) % len(p.Containers)
				if to != i {
					add(PathLocalhost, p.Agent(i), p.Agent(to), localhost, agentwire.Port+to, localhost)
				}
			}
			for _, q := range pods {
				if p != q {
					between(p, q, v6)
				}
			}
			for _, n := range t.Nodes {
				add(PathNodeToPod, n.Name, p.Agent(0), own, agentwire.Port, n.addr(v6))
				add(PathPodToNode, p.Agent(0), n.Name, n.addr(v6), agentwire.Port, own)
			}
			seen := own
			if n, err := t.Node(p.Node); err == nil && masqueraded(own) {
				seen = n.addr(v6)
			}
			add(PathOutside, p.Agent(0), t.Outside.Name, t.Outside.addr(v6), agentwire.Port, seen)
		}
	}
	return checks, nil
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
