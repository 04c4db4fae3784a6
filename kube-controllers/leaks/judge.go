package leaks

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/noderemoval"
	"tortie/ipam"
	"tortie/kube-controllers/state"
)

// virtualMachine marks addresses that belong to a virtual machine and outlive the
// pods it runs in.
const virtualMachine = "vmi-name"

// owner is the pod that a handle's addresses are for.
type owner struct {
	node, namespace, pod string
}

// ownerOf is the pod of all these addresses; ok is false when they aren't one
// pod's alone: then nothing can be said of them.
func ownerOf(seen []ipam.Allocation) (o owner, ok bool) {
	for i, a := range seen {
		if state.PodOf(a) == "" || a.Handle == "" || len(a.Alternate) > 0 || a.Attrs[virtualMachine] != "" {
			return owner{}, false
		}
		this := owner{a.Attrs[api.AttributeNode], a.Attrs[api.AttributeNamespace], a.Attrs[api.AttributePod]}
		if i > 0 && this != o {
			return owner{}, false
		}
		o = this
	}
	return o, len(seen) > 0
}

// judge says by the caches why addresses seem to be nobody's; empty when they
// don't.
func (c *Collector) judge(seen []ipam.Allocation) (suspicion string) {
	o, ok := ownerOf(seen)
	if !ok || c.inEndpoint(o, seen) {
		return ""
	}
	pod, exists := c.cfg.Pods.Get(o.namespace, o.pod)
	return c.podWithout(pod, exists, o, seen)
}

// inEndpoint reports whether an endpoint has one of the addresses, or can't be
// read.
func (c *Collector) inEndpoint(o owner, seen []ipam.Allocation) bool {
	for _, a := range seen {
		if len(c.cfg.Cache.Find(state.EndpointsByAddress, a.Addr.Unmap().String())) > 0 {
			return true
		}
	}
	name, err := api.WorkloadEndpointName(&api.WorkloadEndpointSpec{
		Orchestrator: v3.OrchestratorKubernetes, Node: o.node, Pod: o.pod, Endpoint: "eth0",
	})
	return err != nil || c.cfg.Cache.Unreadable(api.Key{Kind: api.KindWorkloadEndpoint, Namespace: o.namespace, Name: name})
}

// podWithout says why a pod has no claim to addresses: it doesn't exist, or it is
// another pod of that name, on another node and with other addresses. Empty when
// it may have one.
func (c *Collector) podWithout(pod *corev1.Pod, exists bool, o owner, seen []ipam.Allocation) string {
	switch {
	case !exists:
		return "the pod is gone"
	case pod.Spec.NodeName == "" || o.node == "" || c.cfg.Cache.IsNode(pod.Spec.NodeName, o.node):
		return ""
	}
	for _, ip := range pod.Status.PodIPs {
		addr, ok := state.AddressOf(ip.IP)
		if !ok || slices.ContainsFunc(seen, func(a ipam.Allocation) bool { return a.Addr.Unmap() == addr }) {
			return ""
		}
	}
	return "the pod lives on node " + pod.Spec.NodeName + " now"
}

// confirm asks the API server and the datastore themselves. proof is empty when
// the addresses are in use after all.
func (c *Collector) confirm(ctx context.Context, seen []ipam.Allocation) (proof string, err error) {
	o, _ := ownerOf(seen)
	pod, exists, err := c.cfg.Pods.Live(ctx, o.namespace, o.pod)
	if err != nil {
		return "", err
	}
	proof = c.podWithout(pod, exists, o, seen)
	if proof == "" {
		return "", nil
	}
	prefix, err := api.WorkloadEndpointNamePrefix(&api.WorkloadEndpointSpec{Orchestrator: v3.OrchestratorKubernetes, Node: o.node, Pod: o.pod})
	if err != nil {
		return "", err
	}
	snap, err := c.cfg.Client.List(ctx, datastore.Range{Kind: api.KindWorkloadEndpoint, Namespace: o.namespace, NamePrefix: prefix})
	if err != nil {
		return "", err
	}
	if len(snap.Invalid) > 0 {
		return "", nil
	}
	for _, entry := range snap.Entries {
		if holds(entry.Object, seen) {
			return "", nil
		}
	}
	return proof + ", and no endpoint has them", nil
}

// holds reports whether an endpoint has one of the addresses; one with an address
// that can't be read may.
func holds(obj api.Object, seen []ipam.Allocation) bool {
	wep, ok := obj.(*api.WorkloadEndpoint)
	if !ok {
		return true
	}
	for _, text := range wep.Spec.IPNetworks {
		addr, ok := state.AddressOf(text)
		if !ok || slices.ContainsFunc(seen, func(a ipam.Allocation) bool { return a.Addr.Unmap() == addr }) {
			return true
		}
	}
	return false
}

// nodeKnown reports whether a node exists, here or in Kubernetes.
func (c *Collector) nodeKnown(name string) bool {
	key := api.Key{Kind: api.KindNode, Name: name}
	if _, ok := c.cfg.Cache.Get(key); ok || c.cfg.Cache.Unreadable(key) {
		return true
	}
	_, ok := c.cfg.Nodes.Get("", name)
	return ok
}

// judgeNode says by the caches why what a node has seems to be nobody's; empty when
// it doesn't. Owners that are no nodes, such as upstream's load balancer, have a
// colon in their name.
func (c *Collector) judgeNode(name string) (suspicion string) {
	switch {
	case strings.Contains(name, ":"), c.nodeKnown(name), c.cfg.Nodes.Empty():
		return ""
	case len(c.cfg.Cache.Find(state.BlocksByNode, name)) == 0:
		return ""
	case len(c.cfg.Cache.Find(state.EndpointsByNode, name)) > 0:
		return ""
	}
	return "the node is gone"
}

// confirmNode asks the datastore and the API server themselves whether a node is
// gone and nothing runs there.
func (c *Collector) confirmNode(ctx context.Context, name string) (bool, error) {
	_, err := c.cfg.Client.Get(ctx, api.Key{Kind: api.KindNode, Name: name})
	if !errors.Is(err, datastore.ErrNotFound) {
		return false, ignoreInvalid(err)
	}
	_, exists, err := c.cfg.Nodes.Live(ctx, "", name)
	if err != nil || exists {
		return false, err
	}
	workloads, err := noderemoval.Workloads(ctx, c.cfg.Client, name)
	return len(workloads) == 0, err
}

// ignoreInvalid drops the error of what exists and can't be read.
func ignoreInvalid(err error) error {
	if errors.Is(err, datastore.ErrInvalid) {
		return nil
	}
	return err
}

// assignment tells one assignment of an address from any other.
type assignment struct {
	handle   ipam.HandleID
	addr     netip.Addr
	sequence uint64
}

func assignmentOf(a ipam.Allocation) assignment { return assignment{a.Handle, a.Addr, a.Sequence} }
