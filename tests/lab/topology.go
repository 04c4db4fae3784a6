// Package lab builds a small data centre out of network namespaces on one machine:
// nodes on two segments, a router between them that speaks BGP, an etcd, and a host
// outside; with the project's real programs in every node and pods made the way
// Kubernetes makes them. It serves the tests and the command bin/lab.
package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Addresses of the lab's underlay. They exist only inside the lab's namespaces.
const (
	routerHost  = 254 // last byte of the router's address on each segment
	etcdHost    = 10
	outsideHost = 10
	maxNodes    = 200
	nodeASN     = 64512
	routerASN   = 64999
)

// Spec says what lab to build.
type Spec struct {
	// Name distinguishes labs that run at the same time; it is also the last part
	// of the state directory.
	Name string `json:"name"`
	// Nodes is their number, 1 to 200. Every third is behind the router.
	Nodes int `json:"nodes"`
	// PoolV4 and PoolV6 are the pods' address pools. Without one of them nothing in the lab
	// has an address of that version of IP.
	PoolV4 netip.Prefix `json:"poolV4"`
	PoolV6 netip.Prefix `json:"poolV6"`
	// Etcd is the client URL of an etcd to use instead of one of the lab's own.
	Etcd string `json:"etcd,omitempty"`
	// Env is added to the environment of felix and bgpd.
	Env []string `json:"env,omitempty"`
}

// DefaultSpec is the lab of the README: three nodes, two segments, dual stack.
func DefaultSpec() Spec {
	return Spec{
		Name: "lab", Nodes: 3,
		PoolV4: netip.MustParsePrefix("10.65.0.0/16"),
		PoolV6: netip.MustParsePrefix("fd65::/48"),
	}
}

// Segment is one L2 network: a bridge in the router's namespace.
type Segment struct {
	Name   string       `json:"name"`
	V4     netip.Prefix `json:"v4"`
	V6     netip.Prefix `json:"v6"`
	Router netip.Addr   `json:"router"`
	// RouterV6 is the router's IPv6 address on the segment.
	RouterV6 netip.Addr `json:"routerV6"`
}

// Host is one namespace on a segment: a node, the etcd, the outside.
type Host struct {
	Name    string       `json:"name"`
	Segment string       `json:"segment"`
	V4      netip.Prefix `json:"v4"`
	V6      netip.Prefix `json:"v6"`
}

// Topology is the whole underlay, computed from a Spec.
type Topology struct {
	Segments []Segment `json:"segments"`
	Nodes    []Host    `json:"nodes"`
	Etcd     Host      `json:"etcd"`
	Outside  Host      `json:"outside"`
}

// Plan lays a Spec out: pure, the same answer for the same Spec.
func Plan(spec Spec) (Topology, error) {
	if spec.Nodes < 1 || spec.Nodes > maxNodes {
		return Topology{}, fmt.Errorf("%d nodes: a lab has 1 to %d", spec.Nodes, maxNodes)
	}
	if !spec.PoolV4.IsValid() && !spec.PoolV6.IsValid() {
		return Topology{}, errors.New("no pool of addresses: a lab has IPv4, IPv6, or both")
	}
	a := spec.segment("seg-a", "10.10.1.0/24", "fd10:0:0:1::/64")
	b := spec.segment("seg-b", "10.10.2.0/24", "fd10:0:0:2::/64")
	infra := spec.segment("infra", "10.10.100.0/24", "fd10:0:0:100::/64")
	outside := spec.segment("outside", "198.51.100.0/24", "2001:db8:ff::/64")
	t := Topology{
		Segments: []Segment{a, b, infra, outside},
		Etcd:     host("etcd", infra, etcdHost),
		Outside:  host("outside", outside, outsideHost),
	}
	for i := 1; i <= spec.Nodes; i++ {
		on := a
		if i%3 == 0 {
			on = b
		}
		t.Nodes = append(t.Nodes, host(fmt.Sprintf("node%d", i), on, i))
	}
	return t, nil
}

func (spec Spec) segment(name, v4, v6 string) Segment {
	s := Segment{Name: name}
	if spec.PoolV4.IsValid() {
		s.V4 = netip.MustParsePrefix(v4)
		s.Router = withHost(s.V4, routerHost).Addr()
	}
	if spec.PoolV6.IsValid() {
		s.V6 = netip.MustParsePrefix(v6)
		s.RouterV6 = withHost(s.V6, routerHost).Addr()
	}
	return s
}

func host(name string, s Segment, n int) Host {
	return Host{Name: name, Segment: s.Name, V4: withHost(s.V4, n), V6: withHost(s.V6, n)}
}

// Addresses are those that the host has: of one version of IP, or of both.
func (h Host) Addresses() []netip.Prefix {
	return slices.DeleteFunc([]netip.Prefix{h.V4, h.V6}, func(p netip.Prefix) bool { return !p.IsValid() })
}

// routers are the router's addresses on the segment.
func (s Segment) routers() []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{s.Router, s.RouterV6}, func(a netip.Addr) bool { return !a.IsValid() })
}

// router is the one for hosts with addresses like a.
func (s Segment) router(a netip.Addr) netip.Addr {
	if a.Is6() {
		return s.RouterV6
	}
	return s.Router
}

// withHost replaces the last byte of a subnet's address; there is none where there is no
// subnet.
func withHost(subnet netip.Prefix, n int) netip.Prefix {
	if !subnet.IsValid() {
		return subnet
	}
	b := subnet.Addr().AsSlice()
	b[len(b)-1] = byte(n)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, subnet.Bits())
}

// Segment is the segment of that name.
func (t Topology) Segment(name string) Segment {
	for _, s := range t.Segments {
		if s.Name == name {
			return s
		}
	}
	return Segment{}
}

// Node is the node of that name, or an error that lists the names there are.
func (t Topology) Node(name string) (Host, error) {
	names := make([]string, 0, len(t.Nodes))
	for _, n := range t.Nodes {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	return Host{}, fmt.Errorf("no node %q in this lab; its nodes are %v", name, names)
}
