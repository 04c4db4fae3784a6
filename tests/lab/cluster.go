package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
)

// cluster is what the resources say of how packets go.
type cluster struct {
	topology Topology
	pools    []ipPool
	tunnels  map[string]tunnels // by node
}

type ipPool struct {
	CIDR        netip.Prefix `json:"cidr"`
	NATOutgoing bool         `json:"natOutgoing"`
	VXLANMode   string       `json:"vxlanMode"`
}

type tunnels struct {
	V4 netip.Addr `json:"ipv4VXLANTunnelAddr"`
	V6 netip.Addr `json:"ipv6VXLANTunnelAddr"`
}

// cluster asks calicoctl.
func (l *Lab) cluster() (cluster, error) {
	c := cluster{topology: l.st.Topology, tunnels: map[string]tunnels{}}
	pools, err := get[ipPool](l, "ippools")
	if err != nil {
		return c, err
	}
	for _, p := range pools {
		c.pools = append(c.pools, p.Spec)
	}
	nodes, err := get[tunnels](l, "nodes")
	if err != nil {
		return c, err
	}
	for _, n := range nodes {
		c.tunnels[n.Metadata.Name] = n.Spec
	}
	return c, nil
}

type object[T any] struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec T `json:"spec"`
}

func get[T any](l *Lab, kind string) ([]object[T], error) {
	var out, errs bytes.Buffer
	err := l.onNode(l.st.Topology.Nodes[0].Name, []string{"calicoctl", "get", kind, "-o", "json"}, Stdio{Out: &out, Err: &errs})
	if err != nil {
		return nil, fmt.Errorf("read the %s: %w: %s", kind, err, bytes.TrimSpace(errs.Bytes()))
	}
	var list struct {
		Items []object[T] `json:"items"`
	}
	if err := json.Unmarshal(out.Bytes(), &list); err != nil {
		return nil, fmt.Errorf("read the %s: %w", kind, err)
	}
	return list.Items, nil
}

// poolOf is the pool of a pod's address; the zero one when it is gone.
func (c cluster) poolOf(a netip.Addr) ipPool {
	for _, p := range c.pools {
		if p.CIDR.Contains(a) {
			return p
		}
	}
	return ipPool{}
}

// tunneled reports whether packets from one node to the address of a pod on another
// must go through a tunnel.
func (c cluster) tunneled(from, to string, pod netip.Addr) bool {
	a, errA := c.topology.Node(from)
	b, errB := c.topology.Node(to)
	if errA != nil || errB != nil || from == to {
		return false
	}
	mode := c.poolOf(pod).VXLANMode
	return mode == "Always" || mode == "CrossSubnet" && a.Segment != b.Segment
}

// tunnel is a node's tunnel address; unspecified, which nothing goes by, when it has
// none.
func (c cluster) tunnel(node string, v6 bool) netip.Addr {
	a := c.tunnels[node].V4
	if v6 {
		a = c.tunnels[node].V6
	}
	if !a.IsValid() {
		return netip.IPv4Unspecified()
	}
	return a
}
