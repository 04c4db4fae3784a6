package topology

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"pgregory.net/rapid"

	"tortie/internal/api"
)

func serviceConfig() []*v3.BGPConfiguration {
	return defaultConfig(v3.BGPConfigurationSpec{
		ServiceClusterIPs:      []v3.ServiceClusterIPBlock{{CIDR: "10.96.0.0/12"}},
		ServiceExternalIPs:     []v3.ServiceExternalIPBlock{{CIDR: "192.0.2.0/24"}, {CIDR: "203.0.113.7/32"}},
		ServiceLoadBalancerIPs: []v3.ServiceLoadBalancerIPBlock{{CIDR: "198.51.100.0/24"}, {CIDR: "fd98::/64"}},
	})
}

func service(name string, spec api.AdvertisedServiceSpec) *api.AdvertisedService {
	s := &api.AdvertisedService{ObjectMeta: meta(name), Spec: spec}
	s.Namespace = "default"
	return s
}

// local is a service with the policy Local, endpoints on nodes, and an address.
func local(name, loadBalancer string, nodes ...string) *api.AdvertisedService {
	return service(name, api.AdvertisedServiceSpec{
		LoadBalancerIPs: []string{loadBalancer}, ExternalTrafficPolicy: api.TrafficPolicyLocal,
		IPv4Endpoints: &api.ServiceEndpoints{Nodes: nodes}, IPv6Endpoints: &api.ServiceEndpoints{Nodes: nodes},
	})
}

func exportLines(out Output) []string {
	var got []string
	for _, e := range out.Exports {
		got = append(got, e.Prefix.String()+" "+e.Reason)
	}
	return got
}

func TestServicesAreAnnouncedByTheNodesThatServeThem(t *testing.T) {
	ranges := []string{
		"10.96.0.0/12 range of service cluster addresses",
		"192.0.2.0/24 range of service external addresses",
		"198.51.100.0/24 range of service load balancer addresses",
		"fd98::/64 range of service load balancer addresses",
	}
	services := []*api.AdvertisedService{
		local("web", "198.51.100.7", "node1", "node2"), local("six", "fd98::7", "node1"), local("none", "198.51.100.8"),
		local("zweb", "198.51.100.7", "node1"), // has the same address
		service("any", api.AdvertisedServiceSpec{ExternalIPs: []string{"203.0.113.7", "192.0.2.7"}}),
	}
	for _, tt := range []struct {
		node string
		edit func(*api.Node)
		more []string
	}{
		{"node1", nil, []string{
			"198.51.100.7/32 service default/web, load balancer address", "203.0.113.7/32 service default/any, external address",
			"fd98::7/128 service default/six, load balancer address",
		}},
		{"node2", nil, []string{
			"198.51.100.7/32 service default/web, load balancer address", "203.0.113.7/32 service default/any, external address",
		}},
		{"node3", nil, []string{"203.0.113.7/32 service default/any, external address"}},
		{"node3", func(n *api.Node) { // node3 is Kubernetes's node1
			n.Spec.OrchRefs = []api.OrchRef{{Orchestrator: "k8s", NodeName: "node1"}}
		}, []string{
			"198.51.100.7/32 service default/web, load balancer address", "203.0.113.7/32 service default/any, external address",
			"fd98::7/128 service default/six, load balancer address",
		}},
	} {
		in := Input{Node: tt.node, Nodes: threeNodes(), Configs: serviceConfig(), Services: services}
		if tt.edit != nil {
			tt.edit(in.Nodes[2])
		}
		want := slices.Sorted(slices.Values(slices.Concat(ranges, tt.more)))
		got := exportLines(Compute(in))
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.node, d)
		}
	}
}

// TestExcludedNodeAnnouncesNoServices, but knows what others announce.
func TestExcludedNodeAnnouncesNoServices(t *testing.T) {
	for value, excluded := range map[string]bool{"true": true, "false": false, "": false} {
		nodes := threeNodes()
		nodes[0].Labels[ExcludeLabel] = value
		out := Compute(Input{Node: "node1", Nodes: nodes, Configs: serviceConfig(), Services: []*api.AdvertisedService{local("web", "198.51.100.7", "node1")}})
		if got := len(out.Exports) == 0; got != excluded {
			t.Errorf("label %q: exports %v", value, out.Exports)
		}
		if len(out.ServiceRanges) != 5 || len(out.Services) != 5 {
			t.Errorf("label %q: ranges %v, services %v", value, out.ServiceRanges, out.Services)
		}
	}
}

func TestNoServiceIsAnnouncedWithoutRanges(t *testing.T) {
	out := Compute(Input{Node: "node1", Nodes: threeNodes(), Services: []*api.AdvertisedService{local("web", "198.51.100.7", "node1")}})
	if len(out.Exports)+len(out.ServiceRanges)+len(out.Problems) > 0 {
		t.Errorf("%+v", out)
	}
}

func TestRangeOfAllAddressesIsAProblemAndNoDefaultRoute(t *testing.T) {
	out := Compute(Input{
		Node: "node1", Nodes: threeNodes(), Services: []*api.AdvertisedService{service("web", api.AdvertisedServiceSpec{
			ExternalIPs: []string{"192.0.2.5"}, ExternalTrafficPolicy: api.TrafficPolicyLocal, IPv4Endpoints: &api.ServiceEndpoints{Nodes: []string{"node1"}},
		})},
		Configs: defaultConfig(v3.BGPConfigurationSpec{ServiceExternalIPs: []v3.ServiceExternalIPBlock{{CIDR: "0.0.0.0/0"}}}),
	})
	if got := exportLines(out); !slices.Equal(got, []string{"192.0.2.5/32 service default/web, external address"}) {
		t.Errorf("exports %q", got)
	}
	if len(out.Problems) != 1 || !strings.HasPrefix(out.Problems[0], "BGPConfiguration default: the range 0.0.0.0/0 of service addresses is not announced") {
		t.Errorf("problems %q", out.Problems)
	}
}

// TestExternalAddressOfSomebodyElseIsNotAnnounced: whoever may make a Service may give
// it any address.
func TestExternalAddressOfSomebodyElseIsNotAnnounced(t *testing.T) {
	balancers := aPool("balancers", "10.77.0.0/16")
	balancers.Spec.AllowedUses = []v3.IPPoolAllowedUse{v3.IPPoolAllowedUseLoadBalancer}
	in := Input{
		Node: "node1", Nodes: threeNodes(), Pools: []*v3.IPPool{aPool("pods", "10.65.0.0/16"), balancers},
		Peers:      []*v3.BGPPeer{aPeer("tor", v3.BGPPeerSpec{Node: "node3", PeerIP: "10.1.2.1:1790", ASNumber: 64999})},
		Affinities: []*api.BlockAffinity{affinity("node2", "10.66.1.0/26", api.AffinityPending)},
		Configs:    defaultConfig(v3.BGPConfigurationSpec{ServiceExternalIPs: []v3.ServiceExternalIPBlock{{CIDR: "10.0.0.0/8"}, {CIDR: "10.1.1.11/32"}, {CIDR: "fd01::/64"}}}),
	}
	everywhere := service("everywhere", api.AdvertisedServiceSpec{ExternalIPs: []string{"10.1.1.11"}})
	web := service("web", api.AdvertisedServiceSpec{
		ExternalIPs:           []string{"10.1.1.12", "fd01::12", "10.1.2.1", "10.65.1.5", "10.66.1.5", "10.77.0.5", "10.9.9.9"},
		ExternalTrafficPolicy: api.TrafficPolicyLocal, IPv4Endpoints: &api.ServiceEndpoints{Nodes: []string{"node1"}}, IPv6Endpoints: &api.ServiceEndpoints{Nodes: []string{"node1"}},
	})
	in.Services = []*api.AdvertisedService{web, everywhere}
	out := Compute(in)
	want := []string{
		"10.0.0.0/8 range of service external addresses", "10.9.9.9/32 service default/web, external address",
		"10.77.0.5/32 service default/web, external address", "fd01::/64 range of service external addresses",
	}
	if d := cmp.Diff(want, exportLines(out)); d != "" {
		t.Errorf("exports (-want +got):\n%s", d)
	}
	var problems []string
	for _, line := range []string{
		"everywhere: the external address 10.1.1.11 is that of Node node1", "web: the external address 10.1.1.12 is that of Node node2",
		"web: the external address 10.1.2.1 is that of BGPPeer tor", "web: the external address 10.65.1.5 is in IPPool pods",
		"web: the external address 10.66.1.5 is in the pods' block 10.66.1.0/26", "web: the external address fd01::12 is that of Node node2",
	} {
		problems = append(problems, "Service default/"+line+" and is not announced: take it out of spec.externalIPs")
	}
	if d := cmp.Diff(problems, out.Problems); d != "" {
		t.Errorf("problems (-want +got):\n%s", d)
	}
}

// TestPodsGoBeforeServices: whatever ranges are set, what pods need is announced as
// before, with its own reason.
func TestPodsGoBeforeServices(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		in := genInput(rt)
		before := Compute(in)
		in.Configs = defaultConfig(v3.BGPConfigurationSpec{ServiceExternalIPs: []v3.ServiceExternalIPBlock{
			{CIDR: rapid.SampledFrom([]string{"10.65.0.0/16", "10.65.1.0/26", "10.0.0.0/8"}).Draw(rt, "range")},
		}})
		in.Services = []*api.AdvertisedService{service("x", api.AdvertisedServiceSpec{
			ExternalIPs: []string{"10.65.1.5"}, ExternalTrafficPolicy: api.TrafficPolicyLocal, IPv4Endpoints: &api.ServiceEndpoints{Nodes: []string{"node1", "node3"}},
		})}
		after := exportLines(Compute(in))
		for _, e := range exportLines(before) {
			if !slices.Contains(after, e) {
				rt.Fatalf("%s is no longer among %v", e, after)
			}
		}
	})
}
