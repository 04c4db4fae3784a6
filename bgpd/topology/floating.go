package topology

import (
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

// floating are the floating addresses of this node's pods, each a single address: felix,
// which leads them to the pods, takes them from IP pools alone. Those in a block of the
// node are announced with it.
func (c *computation) floating(pools []pool) map[netip.Prefix]string {
	if !c.floatingEnabled() {
		return nil
	}
	c.out.WantsWorkloads = true
	reasons, floating := map[netip.Prefix]string{}, map[netip.Prefix]string{}
	c.out.Floating = floating
	for _, w := range c.in.Workloads {
		if w.Spec.Node != c.in.Node {
			continue
		}
		for _, nat := range w.Spec.IPNATs {
			a, err := netip.ParseAddr(nat.ExternalIP)
			if err != nil || !slices.ContainsFunc(pools, func(p pool) bool { return p.cidr.Contains(a) }) {
				continue // what is wrong with the endpoint is felix's to say
			}
			if slices.ContainsFunc(c.out.OwnBlocks, func(block netip.Prefix) bool { return block.Contains(a) }) {
				continue
			}
			p := netip.PrefixFrom(a, a.BitLen())
			pod := w.Namespace + "/" + podName(w)
			if reason, ok := exported(pools, p, "floating address of "+pod); ok {
				reasons[p], floating[p] = reason, pod
			}
		}
	}
	return reasons
}

// floatingEnabled is felix's setting, as far as it stands in the datastore.
func (c *computation) floatingEnabled() bool {
	enabled := false
	for _, name := range []string{"default", "node." + c.in.Node} {
		for _, f := range c.in.Felix {
			if f.Name == name && f.Spec.FloatingIPs != nil {
				enabled = *f.Spec.FloatingIPs == v3.FloatingIPsEnabled
			}
		}
	}
	return enabled
}
