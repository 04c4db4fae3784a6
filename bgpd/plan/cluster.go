package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/bgpd/speaker"
	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/overlay"
)

// cluster is what every node has to be.
type cluster struct {
	names  []string // sorted
	nodes  map[string]node
	byAddr map[netip.Addr]string
	// filters: some session has one; byDevice: one of them names a device.
	filters, byDevice bool
	// passwords: some session has one.
	passwords bool
}

// node is what one has to be.
type node struct {
	topology.Output
	segments []netip.Prefix
}

// peer is the session with an address. The sessions of a thousand nodes with one another
// are a million: they are held once, in their order.
func (n node) peer(address netip.Addr) (topology.Peer, bool) {
	i, ok := slices.BinarySearchFunc(n.Peers, address, func(p topology.Peer, a netip.Addr) int { return p.Address.Compare(a) })
	if !ok {
		return topology.Peer{}, false
	}
	return n.Peers[i], true
}

func (n node) problems() []string {
	if n.Missing != "" {
		return append([]string{n.Missing}, n.Problems...)
	}
	return n.Problems
}

func newCluster(in topology.Input) *cluster {
	c := &cluster{nodes: map[string]node{}, byAddr: map[netip.Addr]string{}}
	tunnels := slices.ContainsFunc(in.Pools, func(p *v3.IPPool) bool { return overlay.ModeOf(p.Spec) != overlay.Never }) ||
		slices.ContainsFunc(in.Nodes, func(n *api.Node) bool {
			return n.Status.WireguardPublicKey != "" || n.Status.WireguardPublicKeyV6 != ""
		})
	in.Secrets = standIns(in)
	var first topology.Output
	for _, n := range in.Nodes {
		in.Node = n.Name
		out := node{Output: topology.Compute(in), segments: segments(n)}
		// What all nodes see alike is held once: of a thousand nodes a thousand views are
		// gigabytes.
		if maps.Equal(out.BlockOwners, first.BlockOwners) && maps.Equal(out.Blocks, first.Blocks) {
			out.BlockOwners, out.Blocks = first.BlockOwners, first.Blocks
		} else {
			first = out.Output
		}
		if !tunnels {
			out.Overlay = overlay.View{}
		}
		for _, p := range out.Peers {
			c.noteFilter(p.Filter)
			c.passwords = c.passwords || p.Password != ""
		}
		for _, a := range out.Addresses {
			c.byAddr[a] = n.Name
		}
		c.names = append(c.names, n.Name)
		c.nodes[n.Name] = out
	}
	slices.Sort(c.names)
	return c
}

func (c *cluster) noteFilter(f speaker.Filter) {
	c.filters = c.filters || !f.Empty()
	byDevice := func(r speaker.Rule) bool { return r.Interface != "" }
	c.byDevice = c.byDevice || slices.ContainsFunc(f.Import, byDevice) || slices.ContainsFunc(f.Export, byDevice)
}

func (c *cluster) isNode(a netip.Addr) bool { return c.byAddr[a] != "" }

func (c *cluster) hasOutside() bool {
	for _, n := range c.nodes {
		for _, p := range n.Peers {
			if !c.isNode(p.Address) {
				return true
			}
		}
	}
	return false
}

// local is the address a node has in a session.
func (c *cluster) local(name string, p topology.Peer) netip.Addr {
	if p.LocalAddress.IsValid() {
		return p.LocalAddress
	}
	for _, a := range c.nodes[name].Addresses {
		if a.Is4() == p.Address.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// mutual: the node at the other end has the session, too, and both agree on it.
func (c *cluster) mutual(name string, p topology.Peer) bool {
	other := c.byAddr[p.Address]
	if other == "" {
		return true // a router outside: it is taken to have it
	}
	back, ok := c.nodes[other].peer(c.local(name, p))
	return ok && p.ASN == c.asn(other, back) && back.ASN == c.asn(name, p) && p.Password == back.Password && !(p.Passive && back.Passive)
}

// asn is the AS number that a node has in a session.
func (c *cluster) asn(name string, p topology.Peer) uint32 {
	if p.LocalASN != 0 {
		return p.LocalASN
	}
	return c.nodes[name].Global.ASN
}

// changed names the fields in which two values of one struct differ, and how; the
// struct's own package decides what they are. A password is not shown.
func changed[T speaker.Peer | speaker.Global](a, b T) string {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	var out []string
	for i := range x.NumField() {
		name := x.Type().Field(i).Name
		if !x.Type().Field(i).IsExported() || reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			continue
		}
		switch {
		case name == "Password":
			out = append(out, "password changes")
			continue
		case name == "HoldTime" || name == "KeepaliveTime" || name == "ConnectRetry":
			if !slices.Contains(out, timersChange) {
				out = append(out, timersChange)
			}
			continue
		case name == "Transit" && y.Field(i).Bool():
			return "it becomes a route reflector" // which all else follows from
		case name == "Transit":
			return "it is a route reflector no longer"
		}
		out = append(out, fmt.Sprintf("%s changes from %v to %v", words(name), setting(x.Field(i).Interface()), setting(y.Field(i).Interface())))
	}
	return strings.Join(out, ", ")
}

// setting is a value as an operator writes it: on, not true.
func setting(value any) any {
	switch value {
	case true:
		return "on"
	case false:
		return "off"
	}
	return value
}

const timersChange = "timers change"

// words is a field's name as an operator reads it.
func words(field string) string {
	known := map[string]string{
		"ASN": "AS number", "LocalASN": "local AS number", "LocalAddress": "source address", "RouterID": "router ID", "Port": "port",
		"Listen": "listening addresses", "Segments": "segments", "Passive": "waiting for the peer to connect",
		"Multihop": "multihop", "TTLSecurity": "TTL security", "AllowOwnASN": "allowed own AS numbers", "ReflectorClient": "being a reflector's client",
		"ClusterID": "cluster ID", "RestartTime": "restart time", "NextHop": "next hop",
		"LongLived": "long-lived restart time", "AddPath": "add-path",
	}
	if w := known[field]; w != "" {
		return w
	}
	return field
}
