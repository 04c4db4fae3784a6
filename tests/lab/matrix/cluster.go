package matrix

import (
	"encoding/json"
	"fmt"
	"net/netip"
)

// Pool is what an IP pool says of how its pods' packets go.
type Pool struct {
	CIDR        netip.Prefix `json:"cidr"`
	NATOutgoing bool         `json:"natOutgoing"`
	VXLANMode   string       `json:"vxlanMode"`
	IPIPMode    string       `json:"ipipMode"`
}

// byIPIP: a pool has one encapsulation at most.
func (p Pool) byIPIP() bool { return p.IPIPMode == "Always" || p.IPIPMode == "CrossSubnet" }

// Tunnel is a node's own addresses on its devices of VXLAN and of IPIP; invalid where it
// has none.
type Tunnel struct {
	V4  netip.Addr `json:"ipv4VXLANTunnelAddr"`
	V6  netip.Addr `json:"ipv6VXLANTunnelAddr"`
	BGP struct {
		IPIP netip.Addr `json:"ipv4IPIPTunnelAddr"`
	} `json:"bgp"`
	WireGuard struct {
		V4 netip.Addr `json:"interfaceIPv4Address"`
		V6 netip.Addr `json:"interfaceIPv6Address"`
	} `json:"wireguard"`
	Keys `json:"-"`
}

// Keys are a node's public ones of WireGuard; empty where it has none.
type Keys struct {
	V4 string `json:"wireguardPublicKey"`
	V6 string `json:"wireguardPublicKeyV6"`
}

// secured is the node's address on its device of WireGuard, if others send to it.
func (t Tunnel) secured(v6 bool) (a netip.Addr, ok bool) {
	if v6 {
		return t.WireGuard.V6, t.Keys.V6 != "" && t.WireGuard.V6.IsValid()
	}
	return t.WireGuard.V4, t.Keys.V4 != "" && t.WireGuard.V4.IsValid()
}

// ReadPools reads pools as `calicoctl get ippools -o json` prints them.
func ReadPools(ippools []byte) ([]Pool, error) {
	items, err := read[Pool]("IP pools", ippools)
	if err != nil {
		return nil, err
	}
	var pools []Pool
	for _, i := range items {
		pools = append(pools, i.Spec)
	}
	return pools, nil
}

// ReadTunnels reads nodes as `calicoctl get nodes -o json` prints them, and tells
// their tunnels by the nodes' names.
func ReadTunnels(nodes []byte) (map[string]Tunnel, error) {
	items, err := read[Tunnel]("nodes", nodes)
	if err != nil {
		return nil, err
	}
	tunnels := map[string]Tunnel{}
	for _, i := range items {
		i.Spec.Keys = i.Status
		tunnels[i.Metadata.Name] = i.Spec
	}
	return tunnels, nil
}

type resource[T any] struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec   T    `json:"spec"`
	Status Keys `json:"status"` // of a node
}

func read[T any](what string, text []byte) ([]resource[T], error) {
	var list struct {
		Items []resource[T] `json:"items"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("read the %s: %w", what, err)
	}
	return list.Items, nil
}

// pool is the pool of a pod's address; the zero one when it is gone.
func (s Setup) pool(a netip.Addr) Pool {
	for _, p := range s.Pools {
		if p.CIDR.Contains(a) {
			return p
		}
	}
	return Pool{}
}

// oneSegment: packets between the two nodes need no router.
func (s Setup) oneSegment(a, b Host, v6 bool) bool { return s.Hop(a, b, v6) == b.Addr(v6) }

// tunneled: packets from one node to the address of a pod on another must go through
// a tunnel.
func (s Setup) tunneled(from, to Host, pod netip.Addr) bool {
	if from.Name == to.Name {
		return false
	}
	mode := s.pool(pod).VXLANMode
	if s.pool(pod).byIPIP() {
		mode = s.pool(pod).IPIPMode
	}
	return mode == "Always" || mode == "CrossSubnet" && !s.oneSegment(from, to, pod.Is6())
}

// secured: packets between the two nodes' pods must be encrypted.
func (s Setup) secured(from, to Host, v6 bool) bool {
	_, here := s.Tunnels[from.Name].secured(v6)
	_, there := s.Tunnels[to.Name].secured(v6)
	return from.Name != to.Name && here && there
}

// tunnel is the address of a node's tunnel to a pod; unspecified, which nothing goes by,
// when it has none: the checks that ask for it must fail.
func (s Setup) tunnel(node Host, pod netip.Addr) netip.Addr {
	t := s.Tunnels[node.Name]
	a := t.V4
	switch {
	case s.pool(pod).byIPIP():
		a = t.BGP.IPIP
	case pod.Is6():
		a = t.V6
	}
	if !a.IsValid() {
		return netip.IPv4Unspecified()
	}
	return a
}

// far is the next hop of a tunnel to a pod on a node: of IPIP the node itself.
func (s Setup) far(node Host, pod netip.Addr) netip.Addr {
	if s.pool(pod).byIPIP() {
		return node.Addr(pod.Is6())
	}
	return s.tunnel(node, pod)
}

// outsideAs is the address that a pod is seen by outside of the cluster.
func (s Setup) outsideAs(pod netip.Addr, node Host) netip.Addr {
	if s.pool(pod).NATOutgoing {
		return node.Addr(pod.Is6())
	}
	return pod
}
