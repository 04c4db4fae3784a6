// Package check finds what is wrong with the addresses of a cluster: it compares
// blocks, handles, affinities and pools with one another, and with the endpoints,
// nodes and pods that use the addresses. It is pure but for Read, and changes nothing.
package check

import (
	"cmp"
	"net/netip"
	"slices"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/ipam/proof"
)

// Input is what is checked.
type Input struct {
	Blocks, Handles, Affinities, Pools, Nodes, Endpoints, Loans []datastore.Entry
	Invalid                                                     []datastore.Invalid
	// Kubernetes is what the API server says; nil when it was not asked.
	Kubernetes *Kubernetes
}

// Kubernetes is what the API server knows of those who use addresses.
type Kubernetes struct {
	// Pods are by "<namespace>/<name>".
	Pods  map[string]proof.Pod
	Nodes map[string]bool
	// LoadBalancers are the addresses of services, with "<namespace>/<name>".
	LoadBalancers map[netip.Addr]string
}

// Kind is what is wrong.
type Kind string

// Everything that can be wrong.
const (
	Leak               Kind = "leaked addresses"
	NodeGone           Kind = "node that is gone"
	DoubleAddress      Kind = "address with two users"
	NotAllocated       Kind = "endpoint without an allocated address"
	OutsidePools       Kind = "endpoint with an address outside every pool"
	OrphanHandle       Kind = "handle without addresses"
	HandleCount        Kind = "handle that counts wrong"
	MissingHandle      Kind = "addresses whose handle is missing"
	BlockOutsidePools  Kind = "block outside every pool"
	BlockOverlap       Kind = "blocks that overlap"
	BlockLists         Kind = "block that contradicts itself"
	BlockUnclaimed     Kind = "block whose owner has no affinity"
	AffinityNoBlock    Kind = "affinity without a block"
	AffinityOthers     Kind = "affinity of another's block"
	AffinityUnfinished Kind = "affinity that was never finished"
	LoanMissing        Kind = "borrowed addresses without a loan"
	LoanIdle           Kind = "loan without an address"
	Unreadable         Kind = "key that can't be read"
)

// Finding is one thing that is wrong.
type Finding struct {
	Kind Kind
	// Where is the key of the datastore, or the address.
	Where string
	// What is wrong, Why that matters or how it comes about, Do what an operator can do.
	What, Why, Do string
	// Mendable says whether package repair can mend it; if not, Kept says why not.
	Mendable bool
	Kept     string
	// Proof is why leaked addresses are nobody's; empty when that can't be told.
	Proof string

	// What is concerned; which of them are set depends on the Kind.
	Block    netip.Prefix
	Affinity api.Affinity
	Handle   ipam.HandleID
	Addr     netip.Addr
	Node     string
	// Seen are the addresses concerned, as they were assigned.
	Seen []ipam.Allocation
	// Endpoint is the workload endpoint of NotAllocated.
	Endpoint api.Key
	// Stamp tells this finding from one that looks alike but is about something else:
	// two looks at the store saw the same only if it is equal.
	Stamp string
}

// ID is the same for what two looks found alike, and for nothing else.
func (f Finding) ID() string { return string(f.Kind) + "\x00" + f.Where + "\x00" + f.Stamp }

// Address is an address in use according to a block.
type Address struct {
	ipam.Allocation
	// Owner is the block's affinity.
	Owner api.Affinity
	// Node is whose it is: the node of the attributes, else the block's owner.
	Node string
	// Users are those who use it: "Workload(ns1/…)", "Node(node1)", "Service(ns1/web)".
	Users []string
}

// Borrowed reports whether the address is used on another node than its block's owner.
func (a Address) Borrowed() bool { return api.HostAffinity(a.Node) != a.Owner }

// User is somebody who uses an address.
type User struct {
	Addr netip.Addr
	Name string
}

// Result is what a check found.
type Result struct {
	Findings []Finding
	// Addresses are those in use, ascending; one that two blocks have is there twice.
	Addresses []Address
	// Users are all who use an address, ascending.
	Users []User
	// Handles are those that exist, Matched how many of them hold addresses.
	Handles, Matched int
}

// Assigned are the assignments of an address; two when blocks overlap.
func (r Result) Assigned(addr netip.Addr) []Address {
	from, _ := slices.BinarySearchFunc(r.Addresses, addr, func(a Address, addr netip.Addr) int { return a.Addr.Compare(addr) })
	to := from
	for to < len(r.Addresses) && r.Addresses[to].Addr == addr {
		to++
	}
	return r.Addresses[from:to]
}

// Of lists the findings of some kinds.
func (r Result) Of(kinds ...Kind) []Finding {
	var out []Finding
	for _, f := range r.Findings {
		if slices.Contains(kinds, f.Kind) {
			out = append(out, f)
		}
	}
	return out
}

// Check finds what is wrong.
func Check(in Input) Result {
	c := newChecker(in)
	c.invalid()
	c.blocks()
	c.affinities()
	c.handles()
	c.loans()
	c.nodes()
	c.leaks()
	c.users()
	slices.SortStableFunc(c.findings, func(a, b Finding) int {
		return cmp.Or(slices.Index(order(), a.Kind)-slices.Index(order(), b.Kind), cmp.Compare(a.Where, b.Where))
	})
	result := Result{Findings: c.findings, Addresses: c.addresses, Users: c.userList, Handles: len(in.Handles), Matched: c.matched}
	return result
}

// order is the order of the kinds: what may hurt first.
func order() []Kind {
	return []Kind{
		Unreadable, DoubleAddress, NotAllocated, BlockOverlap, BlockLists, Leak, NodeGone, OutsidePools, BlockOutsidePools,
		AffinityOthers, AffinityNoBlock, AffinityUnfinished, BlockUnclaimed, OrphanHandle, HandleCount, MissingHandle,
		LoanMissing, LoanIdle,
	}
}
