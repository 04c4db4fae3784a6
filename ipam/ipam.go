// Package ipam gives addresses to the workloads of one node, from blocks that
// the node owns, so that no address ever has two owners.
//
// Every write is a compare-and-swap of the block and of the handle in one
// transaction. DESIGN.md states the contract, the order of keys and what a crash
// leaves behind at every point.
package ipam

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// HandleID names the holder of addresses. All addresses of a handle are released
// together; the CNI path uses "<network name>.<container ID>".
type HandleID string

// DefaultMaxBlocksPerHost is how many blocks of one IP version a node may own
// when IPAMConfig doesn't say.
const DefaultMaxBlocksPerHost = 20

// Config is what an Allocator needs. Client, Node and View are required.
type Config struct {
	Client datastore.Client
	// Node is the name of the node whose blocks the Allocator manages.
	Node string
	// Virtual says that Node isn't a node but names an owner of blocks that is none, such
	// as v3.VirtualLoadBalancer: nodes have nothing of its blocks, their limit is not its
	// own, and no node is said to use its addresses.
	Virtual bool
	// View is the cluster's configuration; only its owner changes it.
	View View
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// Recorder writes the history of addresses; nil for none.
	Recorder *Recorder
	// Log receives what an operator should know of repairs; discarded when nil.
	Log *slog.Logger
}

// Request asks for addresses. Either all of them are assigned or none.
type Request struct {
	// Handle is required: it is how the addresses are released.
	Handle HandleID
	// Num4 and Num6 count the addresses wanted of each IP version.
	Num4, Num6 int
	// Addrs are addresses wanted themselves, beside Num4 and Num6 of the other IP
	// version. They may be reserved; the pool they lie in must be for the use, and
	// selectors don't matter.
	Addrs []netip.Addr
	// Pools4 and Pools6 restrict the pools, by name or CIDR; empty means every
	// eligible pool.
	Pools4, Pools6 []string
	// Avoid are the ranges of pools that are not to serve, and why; Addrs don't come of them
	// either.
	Avoid map[netip.Prefix]string
	// Namespace is the workload's namespace: it becomes an attribute and is what
	// a pool's namespaceSelector is matched against.
	Namespace string
	// Attrs describe the owner (api.AttributePod …). node, namespace and
	// timestamp are filled in when absent.
	Attrs map[string]string
	// Use is what the addresses are for; Workload when empty.
	Use v3.IPPoolAllowedUse
	// Reserve holds addresses back in every block that is claimed for this request.
	Reserve *BlockReserve
	// With is written in the same transaction as the addresses; nil for nothing.
	With *Companion
	// Sent is a hint that the transaction is on its way, as datastore.WithSent gives
	// it; nil for nobody. It must return at once and may be called more than once.
	Sent func()
}

// Companion is an object that comes into being together with the addresses it
// names, in one transaction. It never stands in their way: when its key is taken,
// the addresses are assigned without it.
type Companion struct {
	// Make builds the object from what is assigned. It may be called several times,
	// from another goroutine, but not after AutoAssign has returned without error.
	Make func([]Assignment) (api.Key, api.Object)
	// Created tells, when AutoAssign has returned without error, whether the object
	// was created. After an error it may have been.
	Created bool
}

// BlockReserve is how many addresses at either end of a new block nobody gets. Some
// hosts need them for themselves (Windows: 3 and 1).
type BlockReserve struct {
	First, Last int
	// Note says why, in the attributes of these addresses.
	Note string
}

// Assignment is one assigned address.
type Assignment struct {
	Addr  netip.Addr
	Block netip.Prefix
	// Pool is the name of the IPPool the block belongs to.
	Pool string
}

// New returns the allocator of a node and starts its writer; Close stops it.
// There is one Allocator per node and process: it is the only writer of the
// node's blocks in normal operation, and tolerates others.
func New(cfg Config) *Allocator {
	if cfg.Now == nil {
		cfg.Now = time.Now // the edge: the clock when none is given
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := &Allocator{
		queue:  newQueue(),
		cancel: cancel,
		done:   make(chan struct{}),
		client: cfg.Client,

		now: cfg.Now,

		recorder: cfg.Recorder,
		counters: newCounters(),
	}
	a.writer, a.ctx = newWriter(cfg, a.queue, a.counters), ctx
	go func() {
		defer close(a.done)
		a.writer.run(ctx)
	}()
	return a
}
