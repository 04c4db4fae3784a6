// Package topology computes what a node's speaker has to be from the cluster's
// resources: its AS number, its peers and its exports, each with the reason.
//
// It is pure: the output depends on the present input only, not on its order
// and never on history. A resource that makes no sense disables only itself and
// says so in Problems.
package topology

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/bgpd/speaker"
	"tortie/internal/api"
	"tortie/internal/overlay"
)

// Defaults of upstream.
const (
	DefaultASN         = 64512
	DefaultPort        = 179
	DefaultRestartTime = 120 * time.Second
)

// Input is the cluster as far as BGP goes; the order of nothing in it matters.
type Input struct {
	Node       string // this node
	Nodes      []*api.Node
	Configs    []*v3.BGPConfiguration
	Peers      []*v3.BGPPeer
	Filters    []*api.BGPFilter
	Affinities []*api.BlockAffinity
	Blocks     []*api.IPAMBlock
	Pools      []*v3.IPPool
	Services   []*api.AdvertisedService
	// Workloads are those of this node, once Output.WantsWorkloads has asked for them.
	Workloads []*api.WorkloadEndpoint
	// Felix says whether pods have floating addresses.
	Felix []*v3.FelixConfiguration
	// Secrets are those known by name, among them the ones of Output.Secrets.
	Secrets map[string]Secret
}

// PeerType is what a peer is called in status output.
type PeerType string

// The types of peers.
const (
	Mesh         PeerType = "node-to-node mesh"
	NodeSpecific PeerType = "node specific"
	GlobalPeer   PeerType = "global"
)

// Peer is a session and where it comes from.
type Peer struct {
	speaker.Peer
	// Name is the node that the peer is; of a router outside, the BGPPeer resource.
	Name string
	Type PeerType
	// Resource is the BGPPeer; empty in the mesh.
	Resource string
	// Node is the cluster node the peer is; empty for an outside router.
	Node string
	// Workload is the pod of this node that the peer is, namespace/name; empty for none.
	Workload string
	// Reason says in words why there is such a session.
	Reason string
	// BFD is what is asked of BFD with the peer, if it is on a segment of the node.
	BFD api.BFD
	// Filter is what may be learned from it and announced to it.
	Filter speaker.Filter
	// Gateway is by which address it is to be reached; invalid for none said.
	Gateway netip.Addr
}

// Refused is a BGPPeer that is not configured.
type Refused struct {
	Name string
	// Address is what the resource calls the peer: an address, or a selector.
	Address string
	ASN     uint32
	Type    PeerType
	Problem string
}

// Export is a prefix this node advertises and why.
type Export struct {
	Prefix      netip.Prefix
	Reason      string
	Communities []speaker.Community
}

// Output is what the node has to be.
type Output struct {
	// Missing says what has to be created before the node can speak BGP; empty
	// when it can. Everything else but Problems is then zero.
	Missing string
	// NoNode: there is no Node resource at all of this node.
	NoNode bool
	Global speaker.Global
	Peers  []Peer // by address
	// Refused are the BGPPeers meant for this node that a problem keeps from being
	// sessions, by name; each problem is in Problems, too.
	Refused []Refused
	Exports []Export // by prefix
	// Floating says of which pod an export is a floating address.
	Floating map[netip.Prefix]string
	// Mesh: the node-to-node mesh is on.
	Mesh bool
	// ClusterID is that of a route reflector; invalid for a node that is none.
	ClusterID netip.Addr
	// Addresses are the node's own.
	Addresses []netip.Addr
	// Pools are all pools, OwnBlocks the confirmed blocks of this node.
	Pools, OwnBlocks []netip.Prefix
	// Blocks are those that any node has an affinity to, in whatever state.
	Blocks map[netip.Prefix]bool
	// BlockOwners names the node of every confirmed block.
	BlockOwners map[netip.Prefix]string
	// Overlay says which of the others' blocks are felix's to route.
	Overlay overlay.View
	// ServiceRanges are the ranges of service addresses, which kube-proxy handles on
	// every node.
	ServiceRanges []netip.Prefix
	// Services says what the ranges are, and the addresses in them that any node
	// announces by themselves: "service default/web, external address".
	Services map[netip.Prefix]string
	// Shutdown: the node asks its peers to prefer other ways.
	Shutdown bool
	// IgnoredInterfaces are the devices, "*" for any characters, whose subnets count for
	// nothing.
	IgnoredInterfaces []string
	// WantsWorkloads: some BGPPeer makes pods of this node its peers, or they may have
	// floating addresses.
	WantsWorkloads bool
	// Secrets names those that the passwords of this node's peers are in.
	Secrets  []string
	Problems []string
}

// Desired is the part a speaker is told.
func (o Output) Desired() speaker.Desired {
	d := speaker.Desired{Global: o.Global, Shutdown: o.Shutdown}
	for _, p := range o.Peers {
		d.Peers = append(d.Peers, p.Peer)
		if !p.Filter.Empty() {
			if d.Filters == nil {
				d.Filters = map[netip.Addr]speaker.Filter{}
			}
			d.Filters[p.Address] = p.Filter
		}
	}
	for _, e := range o.Exports {
		d.Exports = append(d.Exports, speaker.Export{Prefix: e.Prefix, Communities: e.Communities})
	}
	return d
}

// Gateways are by which address some peers are to be reached.
func (o Output) Gateways() map[netip.Addr]netip.Addr {
	out := map[netip.Addr]netip.Addr{}
	for _, p := range o.Peers {
		if p.Gateway.IsValid() {
			out[p.Address] = p.Gateway
		}
	}
	return out
}

// Export finds the export of a prefix: there may be as many as there are services.
func (o Output) Export(p netip.Prefix) (Export, bool) {
	i, found := slices.BinarySearchFunc(o.Exports, p, func(e Export, p netip.Prefix) int { return comparePrefix(e.Prefix, p) })
	if !found {
		return Export{}, false
	}
	return o.Exports[i], true
}

// Compute makes the output of an input.
func Compute(in Input) Output {
	c := newComputation(in)
	if c.self == nil {
		c.out.Missing = c.missing()
		return c.finish()
	}
	c.global()
	c.exports()
	c.overlay()
	c.meshPassword()
	c.explicitPeers()
	c.mesh()
	return c.finish()
}

// computation is one run of Compute.
type computation struct {
	in       Input
	settings settings
	nodes    []*node // by name, those that can be read
	byAddr   map[netip.Addr]*node
	self     *node
	peers    map[netip.Addr]Peer
	withheld map[netip.Addr]bool // addresses that get no session, as it would have no filter
	out      Output
}

func newComputation(in Input) *computation {
	c := &computation{in: in, byAddr: map[netip.Addr]*node{}, peers: map[netip.Addr]Peer{}, withheld: map[netip.Addr]bool{}}
	c.out.BlockOwners, c.out.Blocks = map[netip.Prefix]string{}, map[netip.Prefix]bool{}
	c.out.Services = map[netip.Prefix]string{}
	c.readSettings()
	for _, n := range in.Nodes {
		parsed := c.readNode(n)
		if parsed == nil {
			continue
		}
		c.nodes = append(c.nodes, parsed)
		if n.Name == in.Node {
			c.self = parsed
		}
	}
	slices.SortFunc(c.nodes, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	c.readAddresses()
	c.readPeering()
	return c
}

// readPeering takes the addresses at which pods find the node, unless somebody else has them.
func (c *computation) readPeering() {
	nodes := map[netip.Addr]string{}
	var networks, pools []netip.Prefix
	for _, n := range c.nodes {
		for _, a := range n.addresses() {
			nodes[a] = n.name
		}
		networks = append(networks, n.segments...)
	}
	for _, pool := range c.in.Pools {
		if p, err := netip.ParsePrefix(pool.Spec.CIDR); err == nil {
			pools = append(pools, p)
		}
	}
	usable, problems := c.settings.peering.Without(nodes, networks, pools)
	c.settings.peering = usable
	for _, p := range problems {
		c.problem("BGPConfiguration default: %s; it has no effect", p)
	}
}

// readAddresses settles which node an address means: this one if it has it, so
// that there is never a session with ourselves, else the first by name, which all
// other nodes find too. Of one that this node has felix says it here.
func (c *computation) readAddresses() {
	if c.self != nil {
		for _, a := range c.self.addresses() {
			c.byAddr[a] = c.self
		}
	}
	for _, n := range c.nodes {
		shared := map[*node][]string{}
		for _, a := range n.addresses() {
			other, taken := c.byAddr[a]
			if !taken {
				c.byAddr[a] = n
			} else if other != n && other != c.self {
				shared[other] = append(shared[other], a.String())
			}
		}
		for _, other := range c.nodes {
			addrs, is := strings.Join(shared[other], " and "), "is"
			if len(shared[other]) > 1 {
				is = "are"
			}
			if addrs != "" {
				c.problem("Node %s and Node %s have the same address %s: correct spec.bgp of one of them; until then %s %s taken for %s",
					min(n.name, other.name), max(n.name, other.name), addrs, addrs, is, other.name)
			}
		}
	}
}

func (c *computation) problem(format string, args ...any) {
	c.out.Problems = append(c.out.Problems, fmt.Sprintf(format, args...))
}

// missing says why there is no self.
func (c *computation) missing() string {
	for _, n := range c.in.Nodes {
		if n.Name == c.in.Node {
			return fmt.Sprintf("Node %s has no usable BGP address: set spec.bgp.ipv4Address or spec.bgp.ipv6Address "+
				"to the node's address with its prefix length, for example 10.0.0.1/24", c.in.Node)
		}
	}
	c.out.NoNode = true
	return fmt.Sprintf("there is no Node %s: create it with its BGP address, "+
		"or set NODENAME to the name of an existing Node", c.in.Node)
}

func (c *computation) finish() Output {
	for _, p := range c.peers {
		c.out.Peers = append(c.out.Peers, p)
	}
	slices.SortFunc(c.out.Peers, func(a, b Peer) int { return a.Address.Compare(b.Address) })
	slices.SortFunc(c.out.Refused, func(a, b Refused) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Problem, b.Problem))
	})
	slices.SortFunc(c.out.Exports, func(a, b Export) int { return comparePrefix(a.Prefix, b.Prefix) })
	slices.SortFunc(c.out.Pools, comparePrefix)
	slices.SortFunc(c.out.OwnBlocks, comparePrefix)
	slices.SortFunc(c.out.ServiceRanges, comparePrefix)
	slices.Sort(c.out.Secrets)
	slices.Sort(c.out.Problems)
	c.out.Problems = slices.Compact(c.out.Problems)
	return c.out
}

func comparePrefix(a, b netip.Prefix) int {
	if d := a.Addr().Compare(b.Addr()); d != 0 {
		return d
	}
	return a.Bits() - b.Bits()
}

func (c *computation) global() {
	g := speaker.Global{
		ASN: c.self.asn, RouterID: routerID(c.self), Port: c.self.port,
		// A reflector passes on what it learns; a node only what it has.
		Transit: c.self.cluster.IsValid(),
	}
	if g.Transit {
		g.Segments = c.self.segments
	}
	c.out.Addresses, c.out.ClusterID = c.self.addresses(), c.self.cluster
	c.out.Shutdown = c.self.labels[api.LabelGracefulShutdown] == "true"
	for _, a := range c.out.Addresses {
		switch {
		case c.settings.bindNodeIP:
			g.Listen = append(g.Listen, a)
		case a.Is4():
			g.Listen = append(g.Listen, netip.IPv4Unspecified())
		default:
			g.Listen = append(g.Listen, netip.IPv6Unspecified())
		}
	}
	c.out.Global = g
}

// routerID is the IPv4 address, or for a node without one a hash of its name.
func routerID(n *node) netip.Addr {
	if n.ipv4.IsValid() {
		return n.ipv4
	}
	sum := sha256.Sum256([]byte(n.name))
	// Class A to C and not a network's first address: some speakers refuse others.
	return netip.AddrFrom4([4]byte{1 + sum[0]%222, sum[1], sum[2], 1 + sum[3]%254})
}
