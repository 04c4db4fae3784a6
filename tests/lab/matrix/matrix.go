// Package matrix probes every path that a packet can take between pods, nodes and
// a host outside, and judges the answers: the receiver must have seen the right
// address, and the sender's node must have used the right next hop. Which pods and
// nodes there are, and how to ask them, is the lab's to say.
package matrix

import (
	"fmt"
	"net/netip"
	"time"

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

// Host is a node or the outside host; its agent has its name.
type Host struct {
	Name   string
	V4, V6 netip.Addr
}

// Addr is the address of one family; invalid if there is none.
func (h Host) Addr(v6 bool) netip.Addr {
	if v6 {
		return h.V6
	}
	return h.V4
}

// Pod is a pod with the agents of its containers; container i answers on
// agentwire.Port+i.
type Pod struct {
	Host
	Node   string
	Agents []string
}

// Setup is what there is to probe.
type Setup struct {
	Pods    []Pod
	Nodes   []Host
	Outside Host
	// Hop is the next hop that one node must use towards another; when that is the
	// other node itself, the two are on one segment.
	Hop func(from, to Host, v6 bool) netip.Addr
	// Pools are those of the pods' addresses.
	Pools []Pool
	// Tunnels are the nodes' by name; needed where a pool asks for them.
	Tunnels map[string]Tunnel
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

// String is one line about a check that failed.
func (c Check) String() string {
	return fmt.Sprintf("%s: %s → %s (%s %s): %s", c.Path, c.From, c.To, c.Probe.Network, c.Probe.Target, c.Failure)
}

// probeTimeout is how long one probe may take; the first may wait for a neighbour.
const probeTimeout = 5 * time.Second

// Plan lists the checks: all pairs, TCP and UDP, IPv4 and IPv6.
func Plan(s Setup) []Check {
	p := planner{Setup: s, nodes: map[string]Host{}}
	for _, n := range s.Nodes {
		p.nodes[n.Name] = n
	}
	for _, v6 := range []bool{false, true} {
		for i, pod := range s.Pods {
			p.within(pod, v6)
			for j, other := range s.Pods {
				if i != j {
					p.between(pod, other, v6)
				}
			}
			p.withHosts(pod, v6)
		}
	}
	return p.checks
}

// planner collects checks.
type planner struct {
	Setup
	nodes  map[string]Host
	checks []Check
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
func (p *planner) within(pod Pod, v6 bool) {
	localhost := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if v6 {
		localhost = netip.IPv6Loopback()
	}
	for i := range pod.Agents {
		if to := (i + 1) % len(pod.Agents); to != i {
			p.add(Check{Path: PathLocalhost, From: pod.Agents[i], To: pod.Agents[to], Want: localhost}, localhost, agentwire.Port+to)
		}
	}
}

// between has one pod reach another, with its own address and by the right next hop:
// the other end of a tunnel where the other pod's pool asks for one.
func (p *planner) between(from, to Pod, v6 bool) {
	c := Check{Path: PathSameNode, From: from.Agents[0], To: to.Agents[0], Want: from.Addr(v6), Node: from.Node}
	if a, b := p.nodes[from.Node], p.nodes[to.Node]; a.Name != b.Name {
		c.Path, c.Via = PathRouted, p.Hop(a, b, v6)
		if p.oneSegment(a, b, v6) {
			c.Path = PathSameSegment
		}
		if p.tunneled(a, b, to.Addr(v6)) {
			c.Via = p.far(b, to.Addr(v6))
		}
		if p.secured(a, b, v6) {
			c.Via = netip.Addr{} // a device that finds the other node by itself
		}
	}
	p.add(c, to.Addr(v6), agentwire.Port)
}

// withHosts has a pod reach every node and be reached from it, and reach the
// outside host, which sees the node instead when the pod's pool is masqueraded. Where a
// tunnel leads from a node to the pod, the pod sees the tunnel's address, and the
// node sees the pod as the outside does.
func (p *planner) withHosts(pod Pod, v6 bool) {
	own := pod.Addr(v6)
	outside := p.outsideAs(own, p.nodes[pod.Node])
	for _, n := range p.Nodes {
		seen, back := n.Addr(v6), own
		if p.tunneled(n, p.nodes[pod.Node], own) {
			seen, back = p.tunnel(n, own), outside
		}
		if p.secured(n, p.nodes[pod.Node], v6) {
			seen, _ = p.Tunnels[n.Name].secured(v6)
			back = outside
		}
		p.add(Check{Path: PathNodeToPod, From: n.Name, To: pod.Agents[0], Want: seen}, own, agentwire.Port)
		p.add(Check{Path: PathPodToNode, From: pod.Agents[0], To: n.Name, Want: back}, n.Addr(v6), agentwire.Port)
	}
	p.add(Check{Path: PathOutside, From: pod.Agents[0], To: p.Outside.Name, Want: outside}, p.Outside.Addr(v6), agentwire.Port)
}
