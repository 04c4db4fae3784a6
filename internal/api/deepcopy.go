package api

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
)

// DeepCopyObject copies the node and all it refers to.
func (n *Node) DeepCopyObject() runtime.Object {
	out := *n
	n.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	if n.Spec.BGP != nil {
		bgp := *n.Spec.BGP
		bgp.ASNumber = copyOf(bgp.ASNumber)
		out.Spec.BGP = &bgp
	}
	out.Spec.OrchRefs = slices.Clone(n.Spec.OrchRefs)
	out.Spec.Wireguard = copyOf(n.Spec.Wireguard)
	out.Spec.Addresses = slices.Clone(n.Spec.Addresses)
	out.Spec.Interfaces = slices.Clone(n.Spec.Interfaces)
	for i := range out.Spec.Interfaces {
		out.Spec.Interfaces[i].Addresses = slices.Clone(out.Spec.Interfaces[i].Addresses)
	}
	out.Status.PodCIDRs = slices.Clone(n.Status.PodCIDRs)
	return &out
}

// DeepCopyObject copies the workload endpoint and all it refers to.
func (w *WorkloadEndpoint) DeepCopyObject() runtime.Object {
	out := *w
	w.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Spec.IPNetworks = slices.Clone(w.Spec.IPNetworks)
	out.Spec.IPNATs = slices.Clone(w.Spec.IPNATs)
	out.Spec.Profiles = slices.Clone(w.Spec.Profiles)
	out.Spec.Ports = slices.Clone(w.Spec.Ports)
	out.Spec.AllowSpoofedSourcePrefixes = slices.Clone(w.Spec.AllowSpoofedSourcePrefixes)
	if w.Spec.QoSControls != nil {
		qos := *w.Spec.QoSControls
		qos.DSCP = copyOf(qos.DSCP)
		out.Spec.QoSControls = &qos
	}
	return &out
}

// DeepCopyObject copies the affinity.
func (a *BlockAffinity) DeepCopyObject() runtime.Object {
	out := *a
	a.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return &out
}

// DeepCopyObject copies the block and all it refers to.
func (b *IPAMBlock) DeepCopyObject() runtime.Object {
	out := *b
	b.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	in := &b.Spec
	out.Spec.Affinity = copyOf(in.Affinity)
	out.Spec.HostAffinity = copyOf(in.HostAffinity)
	out.Spec.AffinityClaimTime = in.AffinityClaimTime.DeepCopy()
	out.Spec.Allocations = slices.Clone(in.Allocations)
	for i, p := range out.Spec.Allocations {
		out.Spec.Allocations[i] = copyOf(p)
	}
	out.Spec.Unallocated = slices.Clone(in.Unallocated)
	out.Spec.Attributes = slices.Clone(in.Attributes)
	for i := range out.Spec.Attributes {
		a := &out.Spec.Attributes[i]
		a.HandleID = copyOf(a.HandleID)
		a.ActiveOwnerAttrs = maps.Clone(a.ActiveOwnerAttrs)
		a.AlternateOwnerAttrs = maps.Clone(a.AlternateOwnerAttrs)
	}
	out.Spec.SequenceNumberForAllocation = maps.Clone(in.SequenceNumberForAllocation)
	return &out
}

// DeepCopyObject copies the handle and all it refers to.
func (h *IPAMHandle) DeepCopyObject() runtime.Object {
	out := *h
	h.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Spec.Block = maps.Clone(h.Spec.Block)
	return &out
}

// DeepCopyObject copies the service and all it refers to.
func (s *AdvertisedService) DeepCopyObject() runtime.Object {
	out := *s
	s.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Spec.ClusterIPs = slices.Clone(s.Spec.ClusterIPs)
	out.Spec.ExternalIPs = slices.Clone(s.Spec.ExternalIPs)
	out.Spec.LoadBalancerIPs = slices.Clone(s.Spec.LoadBalancerIPs)
	for _, e := range []**ServiceEndpoints{&out.Spec.IPv4Endpoints, &out.Spec.IPv6Endpoints} {
		if *e != nil {
			*e = &ServiceEndpoints{Nodes: slices.Clone((*e).Nodes)}
		}
	}
	return &out
}

// DeepCopyObject copies the page and all it refers to.
func (h *IPAMHistory) DeepCopyObject() runtime.Object {
	out := *h
	h.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Spec.Releases = slices.Clone(h.Spec.Releases)
	for i := range out.Spec.Releases {
		out.Spec.Releases[i].Attributes = maps.Clone(out.Spec.Releases[i].Attributes)
	}
	return &out
}

// DeepCopyObject copies the loan.
func (l *IPAMLoan) DeepCopyObject() runtime.Object {
	out := *l
	l.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return &out
}

// DeepCopyObject copies the configuration.
func (c *IPAMConfig) DeepCopyObject() runtime.Object {
	out := *c
	c.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return &out
}

func copyOf[T any](p *T) *T {
	if p == nil {
		return nil
	}
	out := *p
	return &out
}
