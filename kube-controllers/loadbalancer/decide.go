package loadbalancer

import (
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"tortie/kube-controllers/convert"
)

// decision is what must become of a service's addresses.
type decision struct {
	// keep and release divide those that it has.
	keep, release []netip.Addr
	// name are those to be assigned that it names, families those of which it lacks any.
	name     []netip.Addr
	families []corev1.IPFamily
}

func (d decision) settled() bool { return len(d.release)+len(d.name)+len(d.families) == 0 }

// decide compares what a service wants with what it has. An address stays for as long as
// it may: only what the service says, or that its pool gives addresses to those alone who
// name it, takes it away.
func decide(want convert.Balancer, has []netip.Addr, pools []*v3.IPPool) decision {
	var d decision
	has = slices.SortedFunc(slices.Values(has), netip.Addr.Compare)
	for _, addr := range has {
		if wants(want, addr, pools) && !slices.ContainsFunc(d.keep, sameFamily(addr)) {
			d.keep = append(d.keep, addr)
		} else {
			d.release = append(d.release, addr)
		}
	}
	for _, addr := range want.Addrs {
		if !slices.Contains(d.keep, addr) {
			d.name = append(d.name, addr)
		}
	}
	if len(want.Addrs) > 0 {
		return d
	}
	for _, f := range want.Families {
		if !slices.ContainsFunc(d.keep, func(a netip.Addr) bool { return familyOf(a) == f }) {
			d.families = append(d.families, f)
		}
	}
	return d
}

// wants reports whether a service that has an address may keep it.
func wants(want convert.Balancer, addr netip.Addr, pools []*v3.IPPool) bool {
	if len(want.Addrs) > 0 {
		return slices.Contains(want.Addrs, addr)
	}
	if !slices.Contains(want.Families, familyOf(addr)) {
		return false
	}
	requested := want.Pools4
	if addr.Is6() {
		requested = want.Pools6
	}
	pool := poolOf(addr, pools)
	switch {
	case len(requested) > 0:
		return pool != nil && slices.ContainsFunc(requested, func(name string) bool { return name == pool.Name || sameRange(name, pool.Spec.CIDR) })
	case pool == nil:
		return true // a pool that is gone takes nothing away
	}
	return pool.Spec.AssignmentMode == nil || *pool.Spec.AssignmentMode != v3.Manual
}

func poolOf(addr netip.Addr, pools []*v3.IPPool) *v3.IPPool {
	for _, pool := range pools {
		if prefix, err := netip.ParsePrefix(pool.Spec.CIDR); err == nil && prefix.Contains(addr) {
			return pool
		}
	}
	return nil
}

func sameRange(a, b string) bool {
	x, err := netip.ParsePrefix(a)
	y, err2 := netip.ParsePrefix(b)
	return err == nil && err2 == nil && x.Masked() == y.Masked()
}

func sameFamily(addr netip.Addr) func(netip.Addr) bool {
	return func(o netip.Addr) bool { return o.Is4() == addr.Is4() }
}

func familyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// ingressOf is the status of a service with these addresses.
func ingressOf(addrs []netip.Addr) []corev1.LoadBalancerIngress {
	var out []corev1.LoadBalancerIngress
	for _, addr := range slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare) {
		out = append(out, corev1.LoadBalancerIngress{IP: addr.String()})
	}
	return out
}

// shows reports whether a service's status has these addresses and no others.
func shows(svc *corev1.Service, addrs []netip.Addr) bool {
	ingress := svc.Status.LoadBalancer.Ingress
	return len(ingress) == len(addrs) && !slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		return !slices.ContainsFunc(ingress, func(i corev1.LoadBalancerIngress) bool { return i.IP == a.String() })
	})
}

// without is a service's status without some addresses.
func without(svc *corev1.Service, addrs []netip.Addr) []corev1.LoadBalancerIngress {
	return slices.DeleteFunc(slices.Clone(svc.Status.LoadBalancer.Ingress), func(i corev1.LoadBalancerIngress) bool {
		return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return i.IP == a.String() })
	})
}
