package api

import (
	"github.com/projectcalico/api/pkg/lib/numorstring"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DSCP is a differentiated services code point.
type DSCP = numorstring.DSCP

// WorkloadEndpoint is one pod's (or container's) attachment to the network.
type WorkloadEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              WorkloadEndpointSpec `json:"spec,omitempty"`
}

// WorkloadEndpointSpec describes the attachment.
type WorkloadEndpointSpec struct {
	// Orchestrator is "k8s" for a pod, "cni" for a plain CNI container.
	Orchestrator       string `json:"orchestrator,omitempty"`
	Workload           string `json:"workload,omitempty"`
	Node               string `json:"node,omitempty"`
	ContainerID        string `json:"containerID,omitempty"`
	Pod                string `json:"pod,omitempty"`
	Endpoint           string `json:"endpoint,omitempty"`
	ServiceAccountName string `json:"serviceAccountName,omitempty"`
	// IPNetworks are the addresses, each as a /32 or /128.
	IPNetworks []string `json:"ipNetworks,omitempty"`
	// IPNATs maps external (floating) addresses to the workload's own.
	IPNATs      []IPNAT  `json:"ipNATs,omitempty"`
	IPv4Gateway string   `json:"ipv4Gateway,omitempty"`
	IPv6Gateway string   `json:"ipv6Gateway,omitempty"`
	Profiles    []string `json:"profiles,omitempty"`
	// InterfaceName is the host side of the veth pair.
	InterfaceName string `json:"interfaceName,omitempty"`
	// MAC is the address of the device in the pod.
	MAC   string                 `json:"mac,omitempty"`
	Ports []WorkloadEndpointPort `json:"ports,omitempty"`
	// AllowSpoofedSourcePrefixes are CIDRs the workload may send from besides its own addresses.
	AllowSpoofedSourcePrefixes []string     `json:"allowSpoofedSourcePrefixes,omitempty"`
	QoSControls                *QoSControls `json:"qosControls,omitempty"`
}

// IPNAT is a 1:1 mapping of an external address.
type IPNAT struct {
	InternalIP string `json:"internalIP"`
	ExternalIP string `json:"externalIP"`
}

// WorkloadEndpointPort is a named port of a workload.
type WorkloadEndpointPort struct {
	Name     string   `json:"name,omitempty"`
	Protocol Protocol `json:"protocol,omitempty"`
	Port     uint16   `json:"port"`
	HostPort uint16   `json:"hostPort"`
	HostIP   string   `json:"hostIP"`
}

// QoSControls limits a workload's traffic; ingress is what comes to it. Rates are bits
// and packets a second, bursts bits and packets, Minburst bytes.
type QoSControls struct {
	IngressBandwidth      int64 `json:"ingressBandwidth,omitempty"`
	EgressBandwidth       int64 `json:"egressBandwidth,omitempty"`
	IngressBurst          int64 `json:"ingressBurst,omitempty"`
	EgressBurst           int64 `json:"egressBurst,omitempty"`
	IngressPeakrate       int64 `json:"ingressPeakrate,omitempty"`
	EgressPeakrate        int64 `json:"egressPeakrate,omitempty"`
	IngressMinburst       int64 `json:"ingressMinburst,omitempty"`
	EgressMinburst        int64 `json:"egressMinburst,omitempty"`
	IngressPacketRate     int64 `json:"ingressPacketRate,omitempty"`
	EgressPacketRate      int64 `json:"egressPacketRate,omitempty"`
	IngressPacketBurst    int64 `json:"ingressPacketBurst,omitempty"`
	EgressPacketBurst     int64 `json:"egressPacketBurst,omitempty"`
	IngressMaxConnections int64 `json:"ingressMaxConnections,omitempty"`
	EgressMaxConnections  int64 `json:"egressMaxConnections,omitempty"`
	// DSCP marks what leaves the cluster: 0 to 63, or a name such as "EF".
	DSCP *DSCP `json:"dscp,omitempty"`
}

// Equal reports whether two say the same; nil says nothing.
func (q *QoSControls) Equal(other *QoSControls) bool {
	if q == nil || other == nil {
		return q == other
	}
	a, b := *q, *other
	a.DSCP, b.DSCP = nil, nil
	if a != b || (q.DSCP == nil) != (other.DSCP == nil) {
		return false
	}
	return q.DSCP == nil || q.DSCP.ToUint8() == other.DSCP.ToUint8()
}
