package daemon_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
)

// advertising is what a cluster says of services: ranges, and two services as
// kube-controllers records them.
type advertising struct {
	config   *v3.BGPConfiguration
	web, any *api.AdvertisedService
}

func newAdvertising() advertising {
	a := advertising{config: v3.NewBGPConfiguration(), web: &api.AdvertisedService{}, any: &api.AdvertisedService{}}
	a.config.Name = "default"
	a.config.Spec = v3.BGPConfigurationSpec{
		ServiceClusterIPs:      []v3.ServiceClusterIPBlock{{CIDR: "10.96.0.0/12"}},
		ServiceExternalIPs:     []v3.ServiceExternalIPBlock{{CIDR: "203.0.113.7/32"}},
		ServiceLoadBalancerIPs: []v3.ServiceLoadBalancerIPBlock{{CIDR: "198.51.100.0/24"}, {CIDR: "fd98::/64"}},
	}
	a.web.ObjectMeta = metav1.ObjectMeta{Namespace: "default", Name: "web"}
	a.web.Spec = api.AdvertisedServiceSpec{
		ClusterIPs: []string{"10.96.0.10"}, LoadBalancerIPs: []string{"198.51.100.7", "fd98::7"}, ExternalTrafficPolicy: api.TrafficPolicyLocal,
	}
	a.on("node1")
	a.any.ObjectMeta = metav1.ObjectMeta{Namespace: "default", Name: "any"}
	a.any.Spec = api.AdvertisedServiceSpec{ExternalIPs: []string{"203.0.113.7"}}
	return a
}

// on moves the endpoints of web.
func (a advertising) on(nodes ...string) {
	a.web.Spec.IPv4Endpoints, a.web.Spec.IPv6Endpoints = nil, nil
	if len(nodes) > 0 {
		a.web.Spec.IPv4Endpoints, a.web.Spec.IPv6Endpoints = &api.ServiceEndpoints{Nodes: nodes}, &api.ServiceEndpoints{Nodes: nodes}
	}
}

// birdHears waits until BIRD has just these prefixes, and the node's blocks, from a
// node.
func (l *lab) birdHears(step, node string, want ...string) {
	l.t.Helper()
	for _, n := range nodes {
		if n.name == node {
			want = append(want, n.block4, n.block6)
		}
	}
	slices.Sort(want)
	l.until(fmt.Sprintf("%s: what BIRD hears from %s", step, node), func() (bool, string) {
		var got []string
		for _, family := range []string{"v4", "v6"} {
			for line := range strings.Lines(l.birdc("show", "route", "protocol", node+family)) {
				if prefix, _, ok := strings.Cut(line, " "); ok && strings.Contains(prefix, "/") {
					got = append(got, prefix)
				}
			}
		}
		slices.Sort(got)
		return slices.Equal(got, want), fmt.Sprintf("%v, want %v", got, want)
	})
}

// TestBIRDHearsOfServicesFromTheNodesThatServeThem follows endpoints, policy,
// aggregation, a node's exclusion, and deletion.
func TestBIRDHearsOfServicesFromTheNodesThatServeThem(t *testing.T) {
	a := newAdvertising()
	l, _ := upBIRD(t, a.config, a.web, a.any)
	change := func(objects ...api.Object) {
		t.Helper()
		content := stored(t, objects)
		for _, name := range []string{"node1", "node3"} {
			l.store(name, content)
		}
	}
	all := func() []api.Object { return append(resources(), a.config, a.web, a.any) }
	cluster, single := []string{"10.96.0.0/12", "203.0.113.7/32"}, []string{"10.96.0.10/32", "198.51.100.7/32", "fd98::7/128"}
	ranges := append([]string{"198.51.100.0/24", "fd98::/64"}, cluster...)
	served := slices.Concat(ranges, single)
	hears := func(step string, node1, node3 []string) {
		t.Helper()
		l.birdHears(step, "node1", slices.Clone(node1)...)
		l.birdHears(step, "node3", slices.Clone(node3)...)
	}
	hears("endpoints on node1", served, ranges)
	a.on("node3")
	change(all()...)
	hears("endpoints moved to node3", ranges, served)
	a.on("node1", "node3")
	change(all()...)
	hears("endpoints on both", served, served)

	a.web.Spec.ExternalTrafficPolicy = api.TrafficPolicyCluster
	change(all()...)
	hears("policy Cluster", ranges, ranges)
	disabled := v3.ServiceLoadBalancerAggregationDisabled
	a.config.Spec.ServiceLoadBalancerAggregation = &disabled
	change(all()...)
	each := append([]string{"198.51.100.7/32", "fd98::7/128"}, cluster...)
	hears("policy Cluster, not aggregated", each, each)
	a.on()
	change(all()...)
	hears("not aggregated, without endpoints", cluster, cluster)

	change(append(resources(), a.config, a.web)...)
	hears("the service with the single address deleted", cluster[:1], cluster[:1])
	excluded := all()
	for _, o := range excluded {
		if n, ok := o.(*api.Node); ok && n.Name == "node1" {
			n.Labels = map[string]string{"node.kubernetes.io/exclude-from-external-load-balancers": "true"}
		}
	}
	change(excluded...)
	hears("node1 excluded", nil, cluster)
	change(resources()...)
	hears("nothing advertised any more", nil, nil)
}

// TestServicesOfOtherNodesAreNotInstalled: kube-proxy handles them on every node.
func TestServicesOfOtherNodesAreNotInstalled(t *testing.T) {
	a := newAdvertising()
	l, _ := upBIRD(t, a.config, a.web, a.any)
	l.birdHears("at first", "node1", "10.96.0.0/12", "203.0.113.7/32", "198.51.100.0/24", "fd98::/64", "10.96.0.10/32", "198.51.100.7/32", "fd98::7/128")
	const want = "service default/web, load balancer address, node-to-node mesh, not installed: " +
		"inside 198.51.100.0/24, a range of service addresses: kube-proxy handles them on every node"
	l.reason("node3", "198.51.100.7/32", want)
	l.reason("node1", "198.51.100.7/32", "service default/web, load balancer address")
	out := l.run("node3", "ip", "route", "show", "proto", "81") + l.run("node3", "ip", "-6", "route", "show", "proto", "81")
	for _, service := range []string{"10.96.", "198.51.100.", "203.0.113.", "fd98:"} {
		if strings.Contains(out, service) {
			t.Errorf("a route to services is installed:\n%s", out)
		}
	}
}

// reason waits until a node's best path to a prefix has a reason.
func (l *lab) reason(node, prefix, want string) {
	l.t.Helper()
	client := l.status(node)
	l.until(node+"'s reason for "+prefix, func() (bool, string) {
		resp, err := client.Routes(l.t.Context(), &nodestatus.RoutesRequest{Prefix: prefix})
		if err != nil {
			return false, err.Error()
		}
		for _, r := range resp.Routes {
			if r.Best && r.Reason == want {
				return true, ""
			}
		}
		return false, fmt.Sprintf("%v, want %q", resp.Routes, want)
	})
}
