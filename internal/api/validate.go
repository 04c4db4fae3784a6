package api

import (
	"fmt"
	"net/netip"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

// Validate reports everything that is wrong with an object as a
// *ValidationError. It expects an object that Default has completed.
func (r *Registry) Validate(obj Object) error {
	var c checker
	d, err := r.definitionOf(obj)
	if err != nil {
		c.missing("kind", "%v", err)
		return c.err("")
	}
	c.metadata(d, obj)
	d.validate(&c, obj)
	key := Key{Kind: d.info.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName()}
	return c.err(key.String())
}

// metadata checks what all kinds have in common. The names of bare records are
// checked with their content.
func (c *checker) metadata(d *definition, obj Object) {
	if d.bare {
		return
	}
	switch {
	case d.info.Kind == KindWorkloadEndpoint:
		c.workloadEndpointName("metadata.name", obj.GetName())
	default:
		c.name("metadata.name", obj.GetName())
	}
	switch namespace := obj.GetNamespace(); {
	case d.info.Namespaced:
		c.name("metadata.namespace", namespace)
	case namespace != "":
		c.bad("metadata.namespace", namespace, "%s has no namespace", d.info.Kind)
	}
	c.labels("metadata.labels", obj.GetLabels())
}

// CheckPools refuses a pool that overlaps one of the existing pools: an address
// must belong to one pool. The pool itself, by name, doesn't count.
func CheckPools(pool *v3.IPPool, existing []*v3.IPPool) error {
	cidr, err := netip.ParsePrefix(pool.Spec.CIDR)
	if err != nil {
		return nil //nolint:nilerr // Validate says so
	}
	var c checker
	for _, other := range existing {
		otherCIDR, err := netip.ParsePrefix(other.Spec.CIDR)
		if err == nil && other.Name != pool.Name && cidr.Overlaps(otherCIDR) {
			c.bad("spec.cidr", pool.Spec.CIDR, "overlaps %s of IP pool %s; choose another CIDR or delete that pool first",
				other.Spec.CIDR, other.Name)
		}
	}
	return c.err(Key{Kind: KindIPPool, Name: pool.Name}.String())
}

func checkIPPool(c *checker, p *v3.IPPool) {
	s := &p.Spec
	cidr, ok := c.cidr("spec.cidr", s.CIDR, 0)
	oneOf(c, "spec.ipipMode", s.IPIPMode, v3.IPIPModeNever, v3.IPIPModeAlways, v3.IPIPModeCrossSubnet)
	oneOf(c, "spec.vxlanMode", s.VXLANMode, v3.VXLANModeNever, v3.VXLANModeAlways, v3.VXLANModeCrossSubnet)
	ipip := s.IPIPMode != "" && s.IPIPMode != v3.IPIPModeNever
	vxlan := s.VXLANMode != "" && s.VXLANMode != v3.VXLANModeNever
	if ipip && vxlan {
		c.bad("spec.ipipMode", string(s.IPIPMode), "a pool has one encapsulation, and vxlanMode is %s; set one of the two to Never", s.VXLANMode)
	}
	if ok {
		c.poolCIDR(cidr, s.BlockSize)
		if ipip && cidr.Addr().Is6() {
			c.bad("spec.ipipMode", string(s.IPIPMode), "IPIP carries only IPv4; an IPv6 pool wants Never")
		}
	}
	c.selector("spec.nodeSelector", s.NodeSelector)
	c.selector("spec.namespaceSelector", s.NamespaceSelector)
	c.allowedUses(s, ipip || vxlan)
	oneOfPtr(c, "spec.assignmentMode", s.AssignmentMode, v3.Automatic, v3.Manual)
	if s.IPIP != nil {
		c.missing("spec.ipip", "is not supported any more; use spec.ipipMode")
	}
	if s.NATOutgoingV1 {
		c.missing("spec.nat-outgoing", "is not supported any more; use spec.natOutgoing")
	}
}

func (c *checker) poolCIDR(cidr netip.Prefix, blockSize int) {
	least, most := 20, 32
	if cidr.Addr().Is6() {
		least, most = 116, 128
	}
	switch {
	case blockSize == 0:
	case blockSize < least || blockSize > most:
		c.bad("spec.blockSize", blockSize, "want %d to %d", least, most)
	case blockSize < cidr.Bits():
		c.bad("spec.blockSize", blockSize, "a block would be larger than the pool %s; want %d to %d", cidr, max(least, cidr.Bits()), most)
	}
	for _, reserved := range []string{"169.254.0.0/16", "fe80::/10", "224.0.0.0/4", "ff00::/8", "127.0.0.0/8", "::1/128"} {
		if prefix := netip.MustParsePrefix(reserved); cidr.Overlaps(prefix) && cidr.Bits() > 0 {
			c.bad("spec.cidr", cidr.String(), "overlaps %s, which can't be routed", reserved)
		}
	}
	if cidr.Bits() == 0 {
		c.bad("spec.cidr", cidr.String(), "takes in all addresses")
	}
}

func (c *checker) allowedUses(s *v3.IPPoolSpec, encapsulated bool) {
	balancer := false
	for i, use := range s.AllowedUses {
		oneOf(c, at("spec.allowedUses", i), use, v3.IPPoolAllowedUseWorkload, v3.IPPoolAllowedUseTunnel, v3.IPPoolAllowedUseLoadBalancer)
		balancer = balancer || use == v3.IPPoolAllowedUseLoadBalancer
	}
	unique(c, "spec.allowedUses", s.AllowedUses)
	if !balancer {
		return
	}
	if len(s.AllowedUses) > 1 {
		c.bad("spec.allowedUses", fmt.Sprint(s.AllowedUses), "LoadBalancer can't be combined with other uses")
	}
	if encapsulated {
		c.missing("spec.allowedUses", "a pool for LoadBalancer has no encapsulation; set ipipMode and vxlanMode to Never")
	}
	if s.NodeSelector != "" && s.NodeSelector != "all()" {
		c.bad("spec.nodeSelector", s.NodeSelector, "a pool for LoadBalancer belongs to no node; want all()")
	}
}

func checkIPReservation(c *checker, r *v3.IPReservation) {
	c.networks("spec.reservedCIDRs", r.Spec.ReservedCIDRs)
}

func checkClusterInformation(c *checker, i *v3.ClusterInformation) {
	if i.Name != "default" {
		c.bad("metadata.name", i.Name, "there is only one ClusterInformation, want default")
	}
}

func checkCalicoNodeStatus(c *checker, s *v3.CalicoNodeStatus) {
	c.name("spec.node", s.Spec.Node)
	if len(s.Spec.Classes) == 0 {
		c.missing("spec.classes", "is missing, want any of Agent, BGP, Routes")
	}
	for i, class := range s.Spec.Classes {
		oneOf(c, at("spec.classes", i), class, v3.NodeStatusClassTypeAgent, v3.NodeStatusClassTypeBGP, v3.NodeStatusClassTypeRoutes)
	}
	unique(c, "spec.classes", s.Spec.Classes)
	if s.Spec.UpdatePeriodSeconds == nil {
		c.missing("spec.updatePeriodSeconds", "is missing, want 0 to 86400 seconds")
	}
	between(c, "spec.updatePeriodSeconds", s.Spec.UpdatePeriodSeconds, 0, 86400)
}

// checkTier keeps the tiers that every cluster relies on as they are.
func checkTier(c *checker, t *v3.Tier) {
	oneOfPtr(c, "spec.defaultAction", t.Spec.DefaultAction, v3.Deny, v3.Pass)
	if strings.Contains(t.Name, ".") {
		c.bad("metadata.name", t.Name, "the name of a tier must not contain a dot")
	}
	fixed := v3.Tier{}
	fixed.Name = t.Name
	defaultTier(&fixed)
	if fixed.Spec.Order == nil {
		return
	}
	if t.Spec.Order != nil && *t.Spec.Order != *fixed.Spec.Order {
		c.missing("spec.order", "tier %s always has order %.0f, not %v", t.Name, *fixed.Spec.Order, *t.Spec.Order)
	}
	if a := t.Spec.DefaultAction; a != nil && *a != *fixed.Spec.DefaultAction {
		c.bad("spec.defaultAction", string(*a), "tier %s always has %s", t.Name, *fixed.Spec.DefaultAction)
	}
}
