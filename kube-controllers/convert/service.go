package convert

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"tortie/internal/api"
)

// Service is what BGP has to know of a Service, from its endpoint slices as well.
// ok is false for one without addresses of its own: headless, or a name only.
func Service(svc *corev1.Service, endpoints []*discoveryv1.EndpointSlice) (out *api.AdvertisedService, ok bool) {
	switch svc.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
	default:
		return nil, false
	}
	if svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil, false
	}
	out = &api.AdvertisedService{}
	out.Namespace, out.Name = svc.Namespace, svc.Name
	out.Spec.ExternalTrafficPolicy = api.TrafficPolicyCluster
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		out.Spec.ExternalTrafficPolicy = api.TrafficPolicyLocal
	}
	out.Spec.ClusterIPs = addresses(append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...))
	out.Spec.ExternalIPs = addresses(svc.Spec.ExternalIPs)
	var balanced []string
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		balanced = append(balanced, ingress.IP) // empty beside a host name
	}
	out.Spec.LoadBalancerIPs = addresses(balanced)
	local := out.Spec.ExternalTrafficPolicy == api.TrafficPolicyLocal
	out.Spec.IPv4Endpoints = readyEndpoints(endpoints, discoveryv1.AddressTypeIPv4, local)
	out.Spec.IPv6Endpoints = readyEndpoints(endpoints, discoveryv1.AddressTypeIPv6, local)
	return out, true
}

// addresses are those of a list that make sense, each once, in one spelling.
func addresses(texts []string) []string {
	var out []string
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
			out = append(out, a.Unmap().String())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// readyEndpoints are those of a family; nil when there are none. The nodes are left
// out where they don't matter.
func readyEndpoints(all []*discoveryv1.EndpointSlice, family discoveryv1.AddressType, withNodes bool) *api.ServiceEndpoints {
	var out *api.ServiceEndpoints
	for _, s := range all {
		for _, e := range s.Endpoints {
			if s.AddressType != family || !Ready(e) {
				continue
			}
			if out == nil {
				out = &api.ServiceEndpoints{}
			}
			if withNodes && e.NodeName != nil && *e.NodeName != "" {
				out.Nodes = append(out.Nodes, *e.NodeName)
			}
		}
	}
	if out != nil {
		slices.Sort(out.Nodes)
		out.Nodes = slices.Compact(out.Nodes)
	}
	return out
}

// Ready reports whether an endpoint draws packets from outside. One that terminates
// doesn't, though kube-proxy still brings it those that come until all routers have
// heard.
func Ready(e discoveryv1.Endpoint) bool {
	return e.Conditions.Ready == nil || *e.Conditions.Ready
}
