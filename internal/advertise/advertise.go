// Package advertise says which addresses of Kubernetes's services are announced by
// BGP: ranges, by every node, and single addresses, by those nodes to which packets
// to them may come. It is pure, and the one place that knows: kube-controllers asks
// it which services to record, bgpd what to announce.
package advertise

import (
	"fmt"
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

// ConfigName is the BGPConfiguration that decides.
const ConfigName = "default"

// Ranges are the service ranges of a BGPConfiguration; none for its zero value.
type Ranges struct {
	Cluster, External, LoadBalancer []netip.Prefix
	// EachLoadBalancer: of LoadBalancer the addresses in use are announced one by one,
	// not the ranges.
	EachLoadBalancer bool
	// Problems are one line each for what makes no sense and is left out.
	Problems []string
}

// RangesOf reads a BGPConfiguration.
func RangesOf(spec *v3.BGPConfigurationSpec) Ranges {
	var r Ranges
	for i, b := range spec.ServiceClusterIPs {
		r.Cluster = r.read(r.Cluster, "serviceClusterIPs", i, b.CIDR)
	}
	for i, b := range spec.ServiceExternalIPs {
		r.External = r.read(r.External, "serviceExternalIPs", i, b.CIDR)
	}
	for i, b := range spec.ServiceLoadBalancerIPs {
		r.LoadBalancer = r.read(r.LoadBalancer, "serviceLoadBalancerIPs", i, b.CIDR)
	}
	a := spec.ServiceLoadBalancerAggregation
	r.EachLoadBalancer = a != nil && *a == v3.ServiceLoadBalancerAggregationDisabled
	return r
}

func (r *Ranges) read(list []netip.Prefix, field string, i int, text string) []netip.Prefix {
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		r.Problems = append(r.Problems, fmt.Sprintf("spec.%s[%d].cidr %q is not a CIDR; it is ignored", field, i, text))
		return list
	}
	return append(list, p.Masked())
}

// All are all ranges.
func (r Ranges) All() []netip.Prefix { return slices.Concat(r.Cluster, r.External, r.LoadBalancer) }

// Range is a range that every node announces as a whole.
type Range struct {
	Prefix netip.Prefix
	What   string // "range of service cluster addresses"
}

// Whole are the ranges to announce as a whole. A single external or load balancer
// address is none of them: it is announced while a service has it. The range of all
// addresses never is: it would be a default route.
func (r Ranges) Whole() []Range {
	var out []Range
	add := func(p netip.Prefix, what string) {
		if p.Bits() > 0 {
			out = append(out, Range{p, "range of service " + what + "es"})
		}
	}
	for _, p := range r.Cluster {
		add(p, clusterAddress)
	}
	for _, p := range r.External {
		if !p.IsSingleIP() {
			add(p, externalAddress)
		}
	}
	for _, p := range r.LoadBalancer {
		if !p.IsSingleIP() && !r.EachLoadBalancer {
			add(p, loadBalancerAddress)
		}
	}
	return out
}

// Address is an address of a service that is announced by itself.
type Address struct {
	Addr netip.Addr
	What string // "external address"
	// Unchecked: whoever may make a Service may give it any such address.
	Unchecked bool
	// Everywhere: by every node; otherwise by Nodes, which are named as in Kubernetes.
	Everywhere bool
	Nodes      []string
}

const (
	clusterAddress      = "cluster address"
	externalAddress     = "external address"
	loadBalancerAddress = "load balancer address"
)

// Addresses are the addresses of a service that are announced by themselves, each
// at most once of a kind. One that makes no sense, or is in no range, is none of them.
func (r Ranges) Addresses(s *api.AdvertisedServiceSpec) []Address {
	var out []Address
	for _, a := range within(s.ClusterIPs, r.Cluster) {
		out = add(out, s, a, clusterAddress, false)
	}
	for _, a := range within(s.ExternalIPs, r.External) {
		out = add(out, s, a, externalAddress, slices.Contains(r.External, single(a)))
	}
	for _, a := range within(s.LoadBalancerIPs, r.LoadBalancer) {
		everywhere := slices.Contains(r.LoadBalancer, single(a))
		// Without the range, the address of a service that nobody serves is withdrawn,
		// so that packets go to another place that has it.
		everywhere = everywhere && !r.EachLoadBalancer || r.EachLoadBalancer && endpoints(s, a) != nil
		out = add(out, s, a, loadBalancerAddress, everywhere)
	}
	return out
}

// add adds an address as its service's policy wants it; everywhere says whether
// every node has to announce it under the policy Cluster.
func add(out []Address, s *api.AdvertisedServiceSpec, a netip.Addr, what string, everywhere bool) []Address {
	unchecked := what == externalAddress
	if s.ExternalTrafficPolicy == api.TrafficPolicyLocal {
		address := Address{Addr: a, What: what, Unchecked: unchecked}
		if e := endpoints(s, a); e != nil {
			address.Nodes = e.Nodes
		}
		return append(out, address)
	}
	if !everywhere {
		return out
	}
	return append(out, Address{Addr: a, What: what, Unchecked: unchecked, Everywhere: true})
}

// endpoints are those that can serve an address: of its family.
func endpoints(s *api.AdvertisedServiceSpec, a netip.Addr) *api.ServiceEndpoints {
	if a.Is4() {
		return s.IPv4Endpoints
	}
	return s.IPv6Endpoints
}

// within are the addresses that lie in one of the ranges.
func within(addresses []string, ranges []netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, text := range addresses {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			continue
		}
		a = a.Unmap()
		if slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) }) {
			out = append(out, a)
		}
	}
	return out
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
