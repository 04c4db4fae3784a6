package leaks

import (
	"context"
	"errors"
	"net/netip"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/noderemoval"
	"tortie/ipam"
	"tortie/ipam/proof"
	"tortie/kube-controllers/state"
)

// podOf is "<namespace>/<pod>" of the pod that holds an address, empty for none.
func podOf(a ipam.Allocation) string { return proof.PodOf(a) }

// judge says by the caches why addresses seem to be nobody's; empty when they
// don't.
func (c *Collector) judge(seen []ipam.Allocation) (suspicion string) {
	o, ok := proof.OwnerOf(seen)
	if !ok || c.inEndpoint(o, seen) {
		return ""
	}
	pod, exists := c.cfg.Pods.Get(o.Namespace, o.Pod)
	return c.podWithout(pod, exists, o, seen)
}

// inEndpoint reports whether an endpoint has one of the addresses, or can't be
// read.
func (c *Collector) inEndpoint(o proof.Owner, seen []ipam.Allocation) bool {
	for _, a := range seen {
		if len(c.cfg.Cache.Find(state.EndpointsByAddress, a.Addr.Unmap().String())) > 0 {
			return true
		}
	}
	name, err := api.WorkloadEndpointName(&api.WorkloadEndpointSpec{
		Orchestrator: v3.OrchestratorKubernetes, Node: o.Node, Pod: o.Pod, Endpoint: "eth0",
	})
	return err != nil || c.cfg.Cache.Unreadable(api.Key{Kind: api.KindWorkloadEndpoint, Namespace: o.Namespace, Name: name})
}

// podWithout says why a pod of Kubernetes has no claim to addresses.
func (c *Collector) podWithout(pod *corev1.Pod, exists bool, o proof.Owner, seen []ipam.Allocation) string {
	var facts *proof.Pod
	if exists {
		facts = &proof.Pod{Node: pod.Spec.NodeName}
		for _, ip := range pod.Status.PodIPs {
			facts.IPs = append(facts.IPs, ip.IP)
		}
	}
	return proof.Without(facts, o, seen, c.cfg.Cache.IsNode)
}

// confirm asks the API server and the datastore themselves. because is empty when
// the addresses are in use after all.
func (c *Collector) confirm(ctx context.Context, seen []ipam.Allocation) (because string, err error) {
	o, _ := proof.OwnerOf(seen)
	pod, exists, err := c.cfg.Pods.Live(ctx, o.Namespace, o.Pod)
	if err != nil {
		return "", err
	}
	because = c.podWithout(pod, exists, o, seen)
	if because == "" {
		return "", nil
	}
	prefix, err := api.WorkloadEndpointNamePrefix(&api.WorkloadEndpointSpec{Orchestrator: v3.OrchestratorKubernetes, Node: o.Node, Pod: o.Pod})
	if err != nil {
		return "", err
	}
	snap, err := c.cfg.Client.List(ctx, datastore.Range{Kind: api.KindWorkloadEndpoint, Namespace: o.Namespace, NamePrefix: prefix})
	if err != nil {
		return "", err
	}
	if len(snap.Invalid) > 0 {
		return "", nil
	}
	for _, entry := range snap.Entries {
		if proof.Holds(entry.Object, seen) {
			return "", nil
		}
	}
	return because + ", and no endpoint has them", nil
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
// it doesn't, or there is nothing.
func (c *Collector) judgeNode(name string) (suspicion string) {
	if len(c.cfg.Cache.Find(state.BlocksByNode, name)) == 0 {
		return ""
	}
	return proof.NodeGone(name, proof.NodeFacts{
		Known: c.nodeKnown(name), NobodyKnown: c.cfg.Nodes.Empty(), Endpoints: len(c.cfg.Cache.Find(state.EndpointsByNode, name)),
	})
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
	return err == nil && proof.NodeGone(name, proof.NodeFacts{Endpoints: len(workloads)}) != "", err
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
