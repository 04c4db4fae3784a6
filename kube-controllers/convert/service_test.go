package convert

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

func aService(edit func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: "web"}}
	s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ServiceTypeLoadBalancer, "10.96.0.10", []string{"10.96.0.10", "fd96::000a"}
	s.Spec.ExternalIPs = []string{"192.0.2.7", "192.0.2.5", "192.0.2.7", "junk"}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.7"}, {Hostname: "lb.example.org"}}
	if edit != nil {
		edit(s)
	}
	return s
}

// anEndpoint is one on a node; ready is "yes", "no" or "" for unknown.
func anEndpoint(node, ready string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{"10.65.0.1"}}
	if node != "" {
		e.NodeName = &node
	}
	if is := ready == "yes"; ready != "" {
		e.Conditions.Ready = &is
	}
	return e
}

func aSlice(family discoveryv1.AddressType, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{AddressType: family, Endpoints: endpoints}
}

func TestServiceRecord(t *testing.T) {
	serving := true
	terminating := anEndpoint("node9", "no")
	terminating.Conditions.Serving, terminating.Conditions.Terminating = &serving, &serving
	slices := []*discoveryv1.EndpointSlice{
		aSlice(discoveryv1.AddressTypeIPv4, anEndpoint("node2", "yes"), anEndpoint("node1", ""), anEndpoint("node3", "no"), terminating),
		aSlice(discoveryv1.AddressTypeIPv4, anEndpoint("node2", "yes"), anEndpoint("", "yes")),
		aSlice(discoveryv1.AddressTypeIPv6, anEndpoint("node2", "no")),
		aSlice(discoveryv1.AddressTypeFQDN, anEndpoint("node4", "yes")),
	}
	for name, tt := range map[string]struct {
		edit func(*corev1.Service)
		want string // "" for none
	}{
		"policy Cluster has no nodes": {nil, `{"clusterIPs":["10.96.0.10","fd96::a"],"externalIPs":["192.0.2.5","192.0.2.7"],` +
			`"loadBalancerIPs":["198.51.100.7"],"externalTrafficPolicy":"Cluster","ipv4Endpoints":{}}`},
		"policy Local has the nodes with ready endpoints": {
			func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal },
			`{"clusterIPs":["10.96.0.10","fd96::a"],"externalIPs":["192.0.2.5","192.0.2.7"],` +
				`"loadBalancerIPs":["198.51.100.7"],"externalTrafficPolicy":"Local","ipv4Endpoints":{"nodes":["node1","node2"]}}`,
		},
		"headless":               {func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }, ""},
		"without cluster IP yet": {func(s *corev1.Service) { s.Spec.ClusterIP = "" }, ""},
		"a name only":            {func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := Service(aService(tt.edit), slices)
			if !ok {
				if tt.want != "" {
					t.Error("no record")
				}
				return
			}
			value, err := api.NewRegistry().Encode(got, api.Unknown{})
			if err != nil || string(value) != tt.want || got.Namespace != "ns1" || got.Name != "web" {
				t.Errorf("%s/%s %s, %v; want %s", got.Namespace, got.Name, value, err, tt.want)
			}
			if err := api.NewRegistry().Validate(got); err != nil {
				t.Error(err)
			}
		})
	}
}
