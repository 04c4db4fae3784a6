package advertise

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

// config has a range and a single address of each kind, of both families.
func config(aggregation v3.ServiceLoadBalancerAggregation) *v3.BGPConfigurationSpec {
	return &v3.BGPConfigurationSpec{
		ServiceClusterIPs:  []v3.ServiceClusterIPBlock{{CIDR: "10.96.0.0/12"}, {CIDR: "fd96::/112"}},
		ServiceExternalIPs: []v3.ServiceExternalIPBlock{{CIDR: "192.0.2.0/24"}, {CIDR: "203.0.113.7/32"}},
		ServiceLoadBalancerIPs: []v3.ServiceLoadBalancerIPBlock{
			{CIDR: "198.51.100.0/24"}, {CIDR: "203.0.113.9/32"}, {CIDR: "fd98::/64"}, {CIDR: "fd99::9/128"},
		},
		ServiceLoadBalancerAggregation: &aggregation,
	}
}

func brief(a Address) string {
	where := "on " + strings.Join(a.Nodes, ",")
	if a.Everywhere {
		where = "everywhere"
	}
	return fmt.Sprintf("%s %s %s", a.What, a.Addr, where)
}

func on(nodes ...string) *api.ServiceEndpoints { return &api.ServiceEndpoints{Nodes: nodes} }

func TestAddressesAnnouncedByThemselves(t *testing.T) {
	all := api.AdvertisedServiceSpec{
		ClusterIPs: []string{"10.96.0.10", "fd96::10"}, ExternalIPs: []string{"192.0.2.5", "203.0.113.7", "203.0.113.8"},
		LoadBalancerIPs: []string{"198.51.100.7", "203.0.113.9", "fd98::7", "fd99::9", "junk", "10.96.0.11"},
	}
	with := func(policy api.TrafficPolicy, v4, v6 *api.ServiceEndpoints) api.AdvertisedServiceSpec {
		s := all
		s.ExternalTrafficPolicy, s.IPv4Endpoints, s.IPv6Endpoints = policy, v4, v6
		return s
	}
	for _, tt := range []struct {
		name        string
		service     api.AdvertisedServiceSpec
		aggregation v3.ServiceLoadBalancerAggregation
		want        []string
	}{
		{
			"policy Cluster: the ranges stand for all but single addresses", with(api.TrafficPolicyCluster, on(), on()), v3.ServiceLoadBalancerAggregationEnabled,
			[]string{
				"external address 203.0.113.7 everywhere",
				"load balancer address 203.0.113.9 everywhere", "load balancer address fd99::9 everywhere",
			},
		},
		{
			"policy Cluster, without endpoints: single addresses stay, as upstream has it", with("", nil, nil), v3.ServiceLoadBalancerAggregationEnabled,
			[]string{
				"external address 203.0.113.7 everywhere",
				"load balancer address 203.0.113.9 everywhere", "load balancer address fd99::9 everywhere",
			},
		},
		{
			"policy Local: each address where endpoints of its family are", with(api.TrafficPolicyLocal, on("a", "b"), on("b")), v3.ServiceLoadBalancerAggregationEnabled,
			[]string{
				"cluster address 10.96.0.10 on a,b", "cluster address fd96::10 on b",
				"external address 192.0.2.5 on a,b", "external address 203.0.113.7 on a,b",
				"load balancer address 198.51.100.7 on a,b", "load balancer address 203.0.113.9 on a,b",
				"load balancer address fd98::7 on b", "load balancer address fd99::9 on b",
			},
		},
		{
			"not aggregated: load balancer addresses of families with endpoints", with(api.TrafficPolicyCluster, on(), nil), v3.ServiceLoadBalancerAggregationDisabled,
			[]string{
				"external address 203.0.113.7 everywhere",
				"load balancer address 198.51.100.7 everywhere", "load balancer address 203.0.113.9 everywhere",
			},
		},
		{
			"not aggregated, policy Local: where endpoints are", with(api.TrafficPolicyLocal, nil, on("b")), v3.ServiceLoadBalancerAggregationDisabled,
			[]string{
				"cluster address 10.96.0.10 on ", "cluster address fd96::10 on b",
				"external address 192.0.2.5 on ", "external address 203.0.113.7 on ",
				"load balancer address 198.51.100.7 on ", "load balancer address 203.0.113.9 on ",
				"load balancer address fd98::7 on b", "load balancer address fd99::9 on b",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, a := range RangesOf(config(tt.aggregation)).Addresses(&tt.service) {
				got = append(got, brief(a))
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
	if got := (Ranges{}).Addresses(&all); len(got) > 0 {
		t.Errorf("without any range: %v", got)
	}
}

func TestRangesAnnouncedAsAWhole(t *testing.T) {
	for aggregation, want := range map[v3.ServiceLoadBalancerAggregation][]string{
		v3.ServiceLoadBalancerAggregationEnabled: {
			"10.96.0.0/12 range of service cluster addresses", "fd96::/112 range of service cluster addresses",
			"192.0.2.0/24 range of service external addresses",
			"198.51.100.0/24 range of service load balancer addresses", "fd98::/64 range of service load balancer addresses",
		},
		v3.ServiceLoadBalancerAggregationDisabled: {
			"10.96.0.0/12 range of service cluster addresses", "fd96::/112 range of service cluster addresses",
			"192.0.2.0/24 range of service external addresses",
		},
	} {
		var got []string
		for _, r := range RangesOf(config(aggregation)).Whole() {
			got = append(got, r.Prefix.String()+" "+r.What)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", aggregation, d)
		}
	}
}

func TestRangesThatMakeNoSense(t *testing.T) {
	r := RangesOf(&v3.BGPConfigurationSpec{
		ServiceClusterIPs:  []v3.ServiceClusterIPBlock{{CIDR: "10.96.0.0"}, {CIDR: "10.96.0.1/12"}, {CIDR: "::ffff:10.0.0.0/104"}},
		ServiceExternalIPs: []v3.ServiceExternalIPBlock{{CIDR: "0.0.0.0/0"}},
	})
	want := []string{
		`spec.serviceClusterIPs[0].cidr "10.96.0.0" is not a CIDR; it is ignored`,
		`spec.serviceClusterIPs[2].cidr "::ffff:10.0.0.0/104" is not a CIDR; it is ignored`,
	}
	if !slices.Equal(r.Problems, want) {
		t.Errorf("problems %q, want %q", r.Problems, want)
	}
	if whole := r.Whole(); len(whole) != 1 || whole[0].Prefix.String() != "10.96.0.0/12" {
		t.Errorf("%v: want the readable range, and never a default route", whole)
	}
	local := api.AdvertisedServiceSpec{ExternalIPs: []string{"192.0.2.5"}, ExternalTrafficPolicy: api.TrafficPolicyLocal, IPv4Endpoints: on("a")}
	if got := r.Addresses(&local); len(got) != 1 || brief(got[0]) != "external address 192.0.2.5 on a" {
		t.Errorf("%v: all addresses are a range for those announced by themselves", got)
	}
}
