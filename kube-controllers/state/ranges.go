package state

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"tortie/internal/advertise"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/ipam/proof"
)

// The indexes of the program's Cache.
const (
	// EndpointsByPod finds workload endpoints by "<namespace>/<pod>".
	EndpointsByPod = "endpoints-by-pod"
	// EndpointsByAddress finds workload endpoints by an address.
	EndpointsByAddress = "endpoints-by-address"
	// EndpointsByNode finds workload endpoints by their node.
	EndpointsByNode = "endpoints-by-node"
	// BlocksByHandle finds blocks by a handle that holds addresses in them.
	BlocksByHandle = "blocks-by-handle"
	// BlocksByPod finds blocks by "<namespace>/<pod>" of who holds addresses in them.
	BlocksByPod = "blocks-by-pod"
	// BlocksByNode finds blocks by their owner, and by the nodes that hold addresses
	// in them.
	BlocksByNode = "blocks-by-node"
	// BlocksByService finds blocks by "<namespace>/<name>" of the service that holds
	// addresses in them.
	BlocksByService = "blocks-by-service"
	// NodesByKubernetesName finds Nodes by their name in Kubernetes.
	NodesByKubernetesName = "nodes-by-kubernetes-name"
)

// Ranges are the parts of the datastore that controllers want to see. They don't
// depend on which controllers are enabled: all of it is small but the endpoints
// and blocks, and those belong to the controllers that matter most.
func Ranges() []datastore.Range {
	return []datastore.Range{
		{Kind: api.KindProfile, NamePrefix: "kns."},
		{Kind: api.KindProfile, NamePrefix: "ksa."},
		{Kind: api.KindNetworkPolicy},
		{Kind: api.KindWorkloadEndpoint},
		{Kind: api.KindNode},
		{Kind: api.KindIPAMBlock},
		{Kind: api.KindIPPool},
		{Kind: api.KindIPReservation},
		{Kind: api.KindIPAMConfig},
		{Kind: api.KindKubeControllersConfiguration},
		{Kind: api.KindBGPConfiguration, NamePrefix: advertise.ConfigName},
		{Kind: api.KindAdvertisedService},
		{Kind: api.KindBGPPeer},
		{Kind: api.KindBGPFilter},
	}
}

// Indexes are the indexes named above.
func Indexes() map[string]Index {
	wep := func(f func(*api.WorkloadEndpoint) []string) Index {
		return Index{Kind: api.KindWorkloadEndpoint, Values: func(obj api.Object) []string {
			w, ok := obj.(*api.WorkloadEndpoint)
			if !ok {
				return nil
			}
			return f(w)
		}}
	}
	return map[string]Index{
		EndpointsByPod: wep(func(w *api.WorkloadEndpoint) []string {
			if w.Spec.Pod == "" {
				return nil
			}
			return []string{w.Namespace + "/" + w.Spec.Pod}
		}),
		EndpointsByNode: wep(func(w *api.WorkloadEndpoint) []string { return []string{w.Spec.Node} }),
		EndpointsByAddress: wep(func(w *api.WorkloadEndpoint) []string {
			var out []string
			for _, text := range w.Spec.IPNetworks {
				if addr, ok := proof.AddressOf(text); ok {
					out = append(out, addr.String())
				}
			}
			return out
		}),
		BlocksByHandle:  block(func(_ string, a ipam.Allocation) string { return string(a.Handle) }),
		BlocksByPod:     block(func(_ string, a ipam.Allocation) string { return proof.PodOf(a) }),
		BlocksByService: block(func(_ string, a ipam.Allocation) string { return ServiceOf(a) }),
		BlocksByNode:    block(func(owner string, a ipam.Allocation) string { return cmp.Or(a.Attrs[api.AttributeNode], owner) }),
		NodesByKubernetesName: {Kind: api.KindNode, Values: func(obj api.Object) []string {
			if node, ok := obj.(*api.Node); ok && node.KubernetesName() != "" {
				return []string{node.KubernetesName()}
			}
			return nil
		}},
	}
}

// block is an index of blocks by something of each address in use in them, and of
// their owner, which comes with an empty Allocation.
func block(value func(owner string, a ipam.Allocation) string) Index {
	return Index{Kind: api.KindIPAMBlock, Values: func(obj api.Object) []string {
		allocations, owner := Block(obj)
		values := map[string]bool{value(owner, ipam.Allocation{}): true}
		for _, a := range allocations {
			values[value("", a)] = true
		}
		delete(values, "")
		return slices.Collect(maps.Keys(values))
	}}
}

// ServiceOf is the "<namespace>/<name>" of the service that holds an address, empty when
// none does.
func ServiceOf(a ipam.Allocation) string {
	namespace, name := a.Attrs[api.AttributeNamespace], a.Attrs[api.AttributeService]
	if namespace == "" || name == "" {
		return ""
	}
	return namespace + "/" + name
}

// Block is what a block says: the addresses in use, and the node that owns it,
// empty when none does. A block that makes no sense says nothing.
func Block(obj api.Object) (allocations []ipam.Allocation, node string) {
	b, ok := obj.(*api.IPAMBlock)
	if !ok {
		return nil, ""
	}
	prefix, err := netip.ParsePrefix(b.Spec.CIDR)
	if err != nil {
		return nil, ""
	}
	entry := datastore.Entry{Key: api.BlockKey(prefix), Object: obj}
	allocations, err = ipam.AllocationsOf(entry)
	if err != nil {
		return nil, ""
	}
	if owner, ok := ipam.OwnerOf(entry); ok && owner.Type == api.AffinityHost {
		node = owner.Name
	}
	return allocations, node
}

// IsNode reports whether a name of Kubernetes's is that of one of our nodes, which
// may have another name here.
func (c *Cache) IsNode(kubernetesName, node string) bool {
	if e, ok := c.Get(api.Key{Kind: api.KindNode, Name: node}); ok {
		if n, ok := e.Object.(*api.Node); ok && n.KubernetesName() != "" {
			return n.KubernetesName() == kubernetesName
		}
	}
	return kubernetesName == node
}
