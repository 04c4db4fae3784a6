package api

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AdvertisedService is what BGP has to know of a Service of Kubernetes whose
// addresses are announced one by one. kube-controllers writes it, bgpd reads it. It
// has the Service's namespace and name.
type AdvertisedService struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              AdvertisedServiceSpec `json:"spec"`
}

// TrafficPolicy is the externalTrafficPolicy of a Service.
type TrafficPolicy string

// The policies.
const (
	// TrafficPolicyCluster: every node brings packets to any endpoint.
	TrafficPolicyCluster TrafficPolicy = "Cluster"
	// TrafficPolicyLocal: a node brings packets to its own endpoints only.
	TrafficPolicyLocal TrafficPolicy = "Local"
)

// AdvertisedServiceSpec is the stored value. Lists are sorted.
type AdvertisedServiceSpec struct {
	ClusterIPs            []string      `json:"clusterIPs,omitempty"`
	ExternalIPs           []string      `json:"externalIPs,omitempty"`
	LoadBalancerIPs       []string      `json:"loadBalancerIPs,omitempty"`
	ExternalTrafficPolicy TrafficPolicy `json:"externalTrafficPolicy,omitempty"` // Cluster when empty
	// IPv4Endpoints and IPv6Endpoints are nil while no endpoint of the family is ready.
	IPv4Endpoints *ServiceEndpoints `json:"ipv4Endpoints,omitempty"`
	IPv6Endpoints *ServiceEndpoints `json:"ipv6Endpoints,omitempty"`
}

// ServiceEndpoints says where the ready endpoints of a family are.
type ServiceEndpoints struct {
	// Nodes are those with a ready endpoint, by their names in Kubernetes. Only for
	// the policy Local: for no other does it matter, and so they cause no writes.
	Nodes []string `json:"nodes,omitempty"`
}

// AdvertisedServiceKey is the key of the record of a Service.
func AdvertisedServiceKey(namespace, name string) Key {
	return Key{Kind: KindAdvertisedService, Namespace: namespace, Name: name}
}

func serviceDefinition() definition {
	d := checked(resource(KindAdvertisedService, "advertisedservices", func(o *AdvertisedService) parts {
		return parts{spec: &o.Spec}
	}), checkAdvertisedService).namespaced()
	d.target = func(o Object) any { return &o.(*AdvertisedService).Spec }
	d.bare = true
	return d
}

func checkAdvertisedService(c *checker, s *AdvertisedService) {
	c.name("metadata.name", s.Name)
	c.name("metadata.namespace", s.Namespace)
	for _, list := range []struct {
		field     string
		addresses []string
	}{
		{"spec.clusterIPs", s.Spec.ClusterIPs}, {"spec.externalIPs", s.Spec.ExternalIPs}, {"spec.loadBalancerIPs", s.Spec.LoadBalancerIPs},
	} {
		for i, a := range list.addresses {
			c.addr(at(list.field, i), a, 0)
		}
	}
	oneOf(c, "spec.externalTrafficPolicy", s.Spec.ExternalTrafficPolicy, TrafficPolicyCluster, TrafficPolicyLocal)
	for field, e := range map[string]*ServiceEndpoints{"spec.ipv4Endpoints.nodes": s.Spec.IPv4Endpoints, "spec.ipv6Endpoints.nodes": s.Spec.IPv6Endpoints} {
		if e != nil {
			c.names(field, e.Nodes)
		}
	}
	c.sort()
}
