package api

import (
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Node is what the network knows of one machine.
type Node struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              NodeSpec   `json:"spec,omitempty"`
	Status            NodeStatus `json:"status,omitempty"`
}

// NodeSpec holds a node's addresses and BGP settings.
type NodeSpec struct {
	BGP *NodeBGPSpec `json:"bgp,omitempty"`
	// IPv4VXLANTunnelAddr and the three below are the node's VXLAN tunnel end point.
	IPv4VXLANTunnelAddr  string `json:"ipv4VXLANTunnelAddr,omitempty"`
	VXLANTunnelMACAddr   string `json:"vxlanTunnelMACAddr,omitempty"`
	IPv6VXLANTunnelAddr  string `json:"ipv6VXLANTunnelAddr,omitempty"`
	VXLANTunnelMACAddrV6 string `json:"vxlanTunnelMACAddrV6,omitempty"`
	// OrchRefs ties the node to its name in an orchestrator.
	OrchRefs   []OrchRef          `json:"orchRefs,omitempty"`
	Wireguard  *NodeWireguardSpec `json:"wireguard,omitempty"`
	Addresses  []NodeAddress      `json:"addresses,omitempty"`
	Interfaces []NodeInterface    `json:"interfaces,omitempty"`
}

// NodeBGPSpec is the node as a BGP speaker.
type NodeBGPSpec struct {
	// ASNumber overrides the cluster's AS number for this node.
	ASNumber *ASN `json:"asNumber,omitempty"`
	// IPv4Address is the node's address with the prefix length of its subnet.
	IPv4Address string `json:"ipv4Address,omitempty"`
	// IPv6Address is the same for IPv6.
	IPv6Address string `json:"ipv6Address,omitempty"`
	// IPv4IPIPTunnelAddr is the address of the node's IPIP device.
	IPv4IPIPTunnelAddr string `json:"ipv4IPIPTunnelAddr,omitempty"`
	// RouteReflectorClusterID makes the node a route reflector (RFC 4456).
	RouteReflectorClusterID string `json:"routeReflectorClusterID,omitempty"`
}

// LabelGracefulShutdown with the value "true" on a Node has it ask its BGP peers to prefer
// other ways (RFC 8326). A node that is cordoned in Kubernetes gets it.
const LabelGracefulShutdown = "tortie/graceful-shutdown"

// AnnotationFloatingAddresses on a Node are the floating addresses of its pods, sorted and
// with commas between, while WireGuard is on there: other nodes take nothing else from it.
const AnnotationFloatingAddresses = "tortie/floating-addresses"

// The annotations by which felix says on its Node where the node's addresses come from.
const (
	AnnotationIPv4From = "tortie/ipv4-address-from"
	AnnotationIPv6From = "tortie/ipv6-address-from"
)

// AnnotationNewWireguardKeys on a Node has it change its WireGuard keys, once for every
// value that it comes to have.
const AnnotationNewWireguardKeys = "tortie/new-wireguard-keys"

// OrchRef is a node's name in an orchestrator such as "k8s".
type OrchRef struct {
	NodeName     string `json:"nodeName,omitempty"`
	Orchestrator string `json:"orchestrator"`
}

// NodeWireguardSpec holds the addresses of a node's WireGuard devices.
type NodeWireguardSpec struct {
	InterfaceIPv4Address string `json:"interfaceIPv4Address,omitempty"`
	InterfaceIPv6Address string `json:"interfaceIPv6Address,omitempty"`
}

// NodeAddress is an address of a node and where it comes from.
type NodeAddress struct {
	Address string `json:"address"`
	Type    string `json:"type,omitempty"`
}

// NodeInterface is a network device of a node with its addresses.
type NodeInterface struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses,omitempty"`
}

// NodeStatus is what the node reports of itself.
type NodeStatus struct {
	WireguardPublicKey   string   `json:"wireguardPublicKey,omitempty"`
	WireguardPublicKeyV6 string   `json:"wireguardPublicKeyV6,omitempty"`
	PodCIDRs             []string `json:"podCIDRs,omitempty"`
}

// KubernetesName is the node's name in Kubernetes; empty for a node that isn't one
// of Kubernetes's.
func (n *Node) KubernetesName() string {
	for _, ref := range n.Spec.OrchRefs {
		if ref.Orchestrator == v3.OrchestratorKubernetes {
			return ref.NodeName
		}
	}
	return ""
}
