package journal

import (
	"net/netip"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// ID identifies an attachment: one interface of one container in one network.
type ID struct {
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// String is the form used in messages: "net1/0123abcd/eth0".
func (id ID) String() string { return id.Network + "/" + id.ContainerID + "/" + id.IfName }

// State is how far an attachment has come.
type State string

// The life of an attachment: adding → attached → releasing, then no entry.
// A failed or interrupted ADD goes from adding to releasing.
const (
	// StateAdding: an ADD has begun; an address may be assigned and a device exist.
	StateAdding State = "adding"
	// StateAttached: ADD has been answered with success.
	StateAttached State = "attached"
	// StateReleasing: DEL has been answered, or an ADD undone; the address and the
	// endpoint may still stand in the datastore.
	StateReleasing State = "releasing"
)

// Entry is what this node must remember of one attachment.
type Entry struct {
	ID
	State State `json:"state"`
	// Plugin is "calico", or "calico-ipam" for an address without a device of ours.
	Plugin string `json:"plugin"`
	// Endpoint is the WorkloadEndpoint's namespace and name; empty for calico-ipam.
	Namespace string `json:"namespace,omitempty"`
	Endpoint  string `json:"endpoint,omitempty"`
	// HostIf is the host end of the veth pair; empty for calico-ipam.
	HostIf string       `json:"hostIf,omitempty"`
	Netns  string       `json:"netns,omitempty"`
	MAC    string       `json:"mac,omitempty"`
	MTU    int          `json:"mtu,omitempty"`
	Addrs  []netip.Addr `json:"addrs,omitempty"`
	// BlockBits has the prefix length of each address's block.
	BlockBits []int `json:"blockBits,omitempty"`
	// Given: the pod asked for addresses that nobody assigns.
	Given bool `json:"given,omitempty"`
	// IPAM is the plugin of others that assigned the addresses; nil for felix itself.
	IPAM *IPAM `json:"ipam,omitempty"`
	// HostPorts are the ports of the node that lead to the pod.
	HostPorts []HostPort `json:"hostPorts,omitempty"`
	// Sources and Floating are what the pod asked for: other prefixes to send from, and
	// other addresses to be reached at.
	Sources  []netip.Prefix `json:"sources,omitempty"`
	Floating []netip.Addr   `json:"floatingIPs,omitempty"`
	// Detached says that the route and the device are gone, so that the addresses
	// may be released. Meaningful in StateReleasing.
	Detached bool `json:"detached,omitempty"`
	// Since is when the entry came into its state.
	Since time.Time `json:"since"`
}

// IPAM is what it takes to run an IPAM plugin's DEL without the runtime.
type IPAM struct {
	Type   string `json:"type"`
	Path   string `json:"path"`
	Config string `json:"config"` // JSON
	Args   string `json:"args,omitempty"`
	// DNS is the plugin's part of the result.
	DNS *types.DNS `json:"dns,omitempty"`
	// GivenUp: should the plugin be gone, its DEL is left out.
	GivenUp bool `json:"givenUp,omitempty"`
}

// HostPort is a port of the node that leads to one of the pod.
type HostPort struct {
	Protocol string     `json:"protocol"`
	HostIP   netip.Addr `json:"hostIP,omitzero"` // invalid: all addresses of the node
	HostPort uint16     `json:"hostPort"`
	Port     uint16     `json:"port"`
}

// valid reports whether an entry read from disk can be acted upon.
func (e Entry) valid() bool {
	if e.Network == "" || e.ContainerID == "" || e.Plugin == "" {
		return false
	}
	switch e.State {
	case StateAdding, StateAttached, StateReleasing:
		return true
	}
	return false
}
