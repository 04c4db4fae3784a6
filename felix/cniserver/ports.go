package cniserver

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"tortie/felix/calc"
	"tortie/felix/delegate"
	"tortie/felix/hostports"
	"tortie/felix/podnet"
	"tortie/ipam"
)

// Addresses is the allocator of this node; *ipam.Allocator is one.
type Addresses interface {
	// AutoAssign assigns all that is asked for or nothing. When the datastore did
	// not answer, the addresses may be assigned all the same.
	AutoAssign(ctx context.Context, req ipam.Request) ([]ipam.Assignment, error)
	// ReleaseByHandle frees all addresses of a handle; none is a success.
	ReleaseByHandle(ctx context.Context, handle ipam.HandleID) ([]netip.Addr, error)
	// ByHandle lists the addresses of a handle.
	ByHandle(ctx context.Context, handle ipam.HandleID) ([]netip.Addr, error)
}

// Pod is what Kubernetes has told of a pod that the runtime knows by that UID. It
// answers at once.
type Pod func(namespace, name, uid string) (*corev1.Pod, bool)

// Pods wires pods; *podnet.Net is one.
type Pods interface {
	// Add is idempotent, and takes the name of the node's end from an earlier
	// sandbox of the same pod.
	Add(ctx context.Context, a podnet.Attachment) (podnet.Attached, error)
	// Remove of what is absent succeeds.
	Remove(ctx context.Context, hostIf string) error
	// Check names what differs from the attachment, and in the pod from what the runtime
	// was told; nil for nothing.
	Check(ctx context.Context, a podnet.Attachment, told *podnet.Told) error
}

// Routes is this node's apply loop; *dataplane.Loop is one.
type Routes interface {
	// Upsert returns when the endpoint's routes are in the kernel. link is the index of
	// its interface, which the caller has just switched on.
	Upsert(ctx context.Context, ep calc.Endpoint, link int) error
	// Mend is Upsert that also puts back what somebody took away since an earlier one.
	Mend(ctx context.Context, ep calc.Endpoint, link int) error
	// Settle returns when the packet rules stand that the endpoint in the store asks for.
	Settle(ctx context.Context, id calc.EndpointID, container string) error
	// Remove returns when the routes of that container's endpoint are gone from
	// the kernel. An endpoint that belongs to another container by now is left
	// alone.
	Remove(ctx context.Context, id calc.EndpointID, container string) error
	// Check names the routes of the endpoint that are not in the kernel as they
	// should be.
	Check(ctx context.Context, ep calc.Endpoint) (differences []string, err error)
}

// IPAMPlugins runs IPAM plugins of others; delegate.Runner does.
type IPAMPlugins interface {
	// Add has addresses assigned; after an error they may be all the same.
	Add(ctx context.Context, c delegate.Call) (delegate.Result, error)
	// Do runs DEL, CHECK, GC or STATUS.
	Do(ctx context.Context, command string, c delegate.Call) error
}

// HostPorts leads ports of the node to pods; *hostports.Ports is one.
type HostPorts interface {
	// Set replaces what an owner had.
	Set(owner string, mappings []hostports.Mapping)
	Remove(owner string)
	// Takes names another owner that has a port of the mapping.
	Takes(owner string, m hostports.Mapping) (other string, taken bool)
	// InSync says that all that run have been declared; before, Apply does nothing.
	InSync()
	// Apply returns when the kernel has what was declared.
	Apply(ctx context.Context) error
	// Check names what in the kernel is not as declared.
	Check(ctx context.Context) (differences []string, err error)
}
