// Package proof judges whether addresses are nobody's, by what the datastore and
// Kubernetes say. It asks nobody: who calls it has looked, and looks again before
// anything is released. Whatever can't be told is in use.
package proof

import (
	"net/netip"
	"slices"
	"strings"

	"tortie/internal/api"
	"tortie/ipam"
)

// virtualMachine marks addresses that belong to a virtual machine and outlive the
// pods it runs in.
const virtualMachine = "vmi-name"

// Owner is the pod that addresses are for.
type Owner struct {
	Node, Namespace, Pod string
}

// PodOf is "<namespace>/<pod>" of the pod that holds an address; empty for a holder
// that is no pod.
func PodOf(a ipam.Allocation) string {
	namespace, pod := a.Attrs[api.AttributeNamespace], a.Attrs[api.AttributePod]
	if namespace == "" || pod == "" || a.Attrs[api.AttributeType] != "" {
		return ""
	}
	return namespace + "/" + pod
}

// OwnerOf is the pod of all these addresses; ok is false when they aren't one
// pod's alone: then nothing can be said of them.
func OwnerOf(seen []ipam.Allocation) (o Owner, ok bool) {
	for i, a := range seen {
		if PodOf(a) == "" || a.Handle == "" || len(a.Alternate) > 0 || a.Attrs[virtualMachine] != "" {
			return Owner{}, false
		}
		this := Owner{a.Attrs[api.AttributeNode], a.Attrs[api.AttributeNamespace], a.Attrs[api.AttributePod]}
		if i > 0 && this != o {
			return Owner{}, false
		}
		o = this
	}
	return o, len(seen) > 0
}

// Pod is what Kubernetes says of a pod.
type Pod struct {
	// Node is where it runs, by Kubernetes's name; empty for nowhere yet.
	Node string
	// IPs are its addresses, as Kubernetes spells them.
	IPs []string
}

// Without says why a pod has no claim to addresses that were given to owner o: it
// doesn't exist (nil), or it is another pod of that name, on another node and with
// other addresses. Empty when it may have one. isNode reports whether a name of
// Kubernetes's is that of one of our nodes.
func Without(pod *Pod, o Owner, seen []ipam.Allocation, isNode func(kubernetesName, node string) bool) string {
	switch {
	case pod == nil:
		return "the pod is gone"
	case pod.Node == "" || o.Node == "" || isNode(pod.Node, o.Node):
		return ""
	case anyOf(pod.IPs, seen):
		return ""
	}
	return "the pod lives on node " + pod.Node + " now"
}

// Holds reports whether an endpoint has one of the addresses; one with an address
// that can't be read may.
func Holds(obj api.Object, seen []ipam.Allocation) bool {
	wep, ok := obj.(*api.WorkloadEndpoint)
	return !ok || anyOf(wep.Spec.IPNetworks, seen)
}

// anyOf reports whether one of the addresses is among texts, or a text can't be read.
func anyOf(texts []string, seen []ipam.Allocation) bool {
	for _, text := range texts {
		addr, ok := AddressOf(text)
		if !ok || slices.ContainsFunc(seen, func(a ipam.Allocation) bool { return a.Addr.Unmap() == addr }) {
			return true
		}
	}
	return false
}

// AddressOf reads an address as endpoints have it, with or without a prefix
// length, in whatever spelling.
func AddressOf(text string) (netip.Addr, bool) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix.Addr().Unmap(), true
	}
	addr, err := netip.ParseAddr(text)
	return addr.Unmap(), err == nil
}

// NodeFacts is what is known of a node that may be gone.
type NodeFacts struct {
	// Known: it exists in the datastore or in Kubernetes, or one of them can't tell.
	Known bool
	// NobodyKnown: Kubernetes has no node at all, or none of this cluster's, which is not
	// believed.
	NobodyKnown bool
	// Endpoints counts the workload endpoints on it, those that can't be read too.
	Endpoints int
}

// NodeGone says why what a node has is nobody's; empty when it isn't. Owners that
// are no nodes, such as upstream's load balancer, have a colon in their name.
func NodeGone(name string, f NodeFacts) string {
	if name == "" || strings.Contains(name, ":") || f.Known || f.NobodyKnown || f.Endpoints > 0 {
		return ""
	}
	return "the node is gone"
}
