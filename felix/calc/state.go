package calc

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"tortie/internal/api"
	"tortie/internal/overlay"
)

// InterfacePrefix starts the name of every host end of a pod's veth pair. An
// endpoint that names another interface is refused, so that nobody who may write
// an endpoint can steer traffic to the node's own devices.
const InterfacePrefix = "cali"

// State is everything this node's dataplane should look like. The order of its
// slices is fixed, so that equal inputs give equal States.
type State struct {
	// Endpoints are the workloads of this node.
	Endpoints map[EndpointID]Endpoint
	// HoldDevices says that an endpoint of this node is invalid or unreadable, so
	// that a device which seems to belong to nobody may be that endpoint's: none
	// may be removed.
	HoldDevices bool
	// Blocks are the blocks of addresses this node holds a confirmed affinity for,
	// as far as they can be blocks of pods: within an IP pool, and apart from this
	// node's networks and every node's address. What no workload uses of them is
	// blackholed.
	Blocks []netip.Prefix
	// Pools are all IP pools, also disabled ones: their pods live on.
	Pools []netip.Prefix
	// PodPools are those of them whose addresses pods and nodes have, not Services.
	PodPools []netip.Prefix
	// Masquerade are the pools whose pods leave for destinations outside of all
	// Pools and Nodes under the node's address (natOutgoing).
	Masquerade []netip.Prefix
	// Services are the ranges of service addresses that every node announces by BGP.
	Services []netip.Prefix
	// NodeAddrs are this node's own addresses with the length of their subnet,
	// IPv4 first. The device that carries them is the underlay, whose MTU bounds
	// that of the pods.
	NodeAddrs []netip.Prefix
	// Nodes are the addresses of every node of the cluster. What a pod sends to
	// them keeps its own address: nodes and pods see one another without NAT.
	Nodes []netip.Prefix
	// Remote are the routes to pods of other nodes that an IP pool's mode asks for, by
	// destination.
	Remote []Remote
	// Tunnels are this node's ends of VXLAN and the others', IPv4 first.
	Tunnels []overlay.Tunnel
	// IPIP is the address of this node's device of IPIP; invalid for none.
	IPIP netip.Addr
	// VXLANUsed, IPIPUsed: a pool asks for it, or this node has an end of it still.
	VXLANUsed, IPIPUsed bool
	// Overlays are what the pools ask for, with which another node's pods are to be reached
	// encapsulated.
	Overlays []PoolOverlay
	// TunnelPools are the pools that have this node take part in an overlay.
	TunnelPools []TunnelPool
	// TunnelMasquerade is where Masquerade goes for nodes too.
	TunnelMasquerade TunnelMasquerade
	// Secure are this node's ends of WireGuard and the others', IPv4 first; Unsecured says of
	// which nodes packets are not encrypted though this node could, and why.
	Secure    []SecureTunnel
	Unsecured []string
	// SecurePools are the pools from which this node may have its WireGuard address.
	SecurePools []TunnelPool
	// Self is what this node's Node says of its ends, whether it can be used or not.
	Self overlay.Node
	// KeyRequest is how this node's Node asks for new keys; FloatingShown are the floating
	// addresses that it shows.
	KeyRequest, FloatingShown string
	// Peering are the addresses that the node has on its ends of pods that are its BGP
	// peers, by interface.
	Peering map[string][]netip.Addr
	// Problems are the objects that could not be honoured, and why.
	Problems []Problem
}

// TunnelMasquerade says which packets to nodes leave under this node's address: the
// network between the nodes of a tunnel need not know pods' addresses.
type TunnelMasquerade struct {
	// Pools have natOutgoing and an overlay; Nodes are the addresses of those at the other
	// ends.
	Pools, Nodes []netip.Prefix
}

// PoolOverlay is a pool by whose mode packets to some other node are to be encapsulated.
type PoolOverlay struct {
	Prefix netip.Prefix
	By     overlay.Carrier
	// Wrong is what is the matter with the pool's modes; empty for nothing.
	Wrong string
}

// EndpointID identifies a workload endpoint: the key of its WorkloadEndpoint.
type EndpointID struct {
	Namespace string
	Name      string
}

// Key is the endpoint's key in the datastore.
func (id EndpointID) Key() api.Key {
	return api.Key{Kind: api.KindWorkloadEndpoint, Namespace: id.Namespace, Name: id.Name}
}

// String is "namespace/name".
func (id EndpointID) String() string { return id.Namespace + "/" + id.Name }

func (id EndpointID) compare(other EndpointID) int {
	return cmp.Or(cmp.Compare(id.Namespace, other.Namespace), cmp.Compare(id.Name, other.Name))
}

// Endpoint is what the dataplane needs to know of one workload of this node.
type Endpoint struct {
	ID EndpointID
	// ContainerID tells apart two lives of one endpoint: a pod that is made again
	// under its old name has a new one.
	ContainerID string
	// Interface is the host end of the workload's veth pair.
	Interface string
	// Addrs are the workload's addresses, sorted and without duplicates.
	Addrs []netip.Addr
	// Sources are other prefixes that the workload may send from, sorted.
	Sources []netip.Prefix
	// Floating are addresses at which the workload is reached besides, sorted.
	Floating []Floating
	// Limits are those of its traffic, complete; nil for none. They are never changed.
	Limits *api.QoSControls
}

// Floating is an address that leads to one of the workload's own.
type Floating struct{ External, Internal netip.Addr }

// FloatingAddresses are those of the endpoints, of versions of IP that are asked for, as
// a Node shows them.
func (s *State) FloatingAddresses(v4, v6 bool) string {
	var all []netip.Addr
	for _, ep := range s.Endpoints {
		for _, f := range ep.Floating {
			if f.External.Is4() && v4 || f.External.Is6() && v6 {
				all = append(all, f.External)
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	var texts []string
	for _, a := range slices.Compact(all) {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ",")
}

// Equal reports whether two endpoints want the same of the dataplane.
func (e Endpoint) Equal(other Endpoint) bool {
	return e.ID == other.ID && e.ContainerID == other.ContainerID &&
		e.Interface == other.Interface && slices.Equal(e.Addrs, other.Addrs) &&
		slices.Equal(e.Sources, other.Sources) && slices.Equal(e.Floating, other.Floating) && e.Limits.Equal(other.Limits)
}

// Problem is an object that is not, or not fully, honoured.
type Problem struct {
	Key api.Key
	// Reason says what is wrong and what to do about it, in one line.
	Reason string
}

// String is the line a user reads.
func (p Problem) String() string { return fmt.Sprintf("%s: %s", p.Key, p.Reason) }

type problemList []Problem

func (l *problemList) add(key api.Key, format string, args ...any) {
	*l = append(*l, Problem{Key: key, Reason: fmt.Sprintf(format, args...)})
}

func (l *problemList) sorted() []Problem {
	slices.SortFunc(*l, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.Key.Kind, b.Key.Kind),
			cmp.Compare(a.Key.Namespace, b.Key.Namespace),
			cmp.Compare(a.Key.Name, b.Key.Name),
			cmp.Compare(a.Reason, b.Reason),
		)
	})
	return *l
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// sortedPrefixes orders prefixes by address then length, without duplicates;
// nil when there are none.
func sortedPrefixes(in []netip.Prefix) []netip.Prefix {
	slices.SortFunc(in, comparePrefix)
	return slices.Compact(in)
}
