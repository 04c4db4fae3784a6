package state

import (
	"net/netip"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/kube-controllers/convert"
)

// The indexes of the program's Cache.
const (
	// EndpointsByPod finds workload endpoints by "<namespace>/<pod>".
	EndpointsByPod = "endpoints-by-pod"
	// EndpointsByAddress finds workload endpoints by an address.
	EndpointsByAddress = "endpoints-by-address"
	// EndpointsByNode finds workload endpoints by their node.
	EndpointsByNode = "endpoints-by-node"
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
		{Kind: api.KindKubeControllersConfiguration},
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
				if addr, ok := AddressOf(text); ok {
					out = append(out, addr.String())
				}
			}
			return out
		}),
		NodesByKubernetesName: {Kind: api.KindNode, Values: func(obj api.Object) []string {
			if node, ok := obj.(*api.Node); ok && convert.KubernetesName(node) != "" {
				return []string{convert.KubernetesName(node)}
			}
			return nil
		}},
	}
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
