// Package repair mends what package check finds: one transaction for each finding,
// by compare-and-swap, told of before it is made and written down so that it can be
// undone. An address is released only with a proof that nobody has it.
package repair

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/noderemoval"
	"tortie/ipam"
	"tortie/ipam/check"
	"tortie/ipam/proof"
)

// ErrChanged says that something is no longer as it was found: nothing was changed.
var ErrChanged = errors.New("it has changed since it was looked at")

// Kubernetes is asked once more right before anything is released.
type Kubernetes interface {
	// Pod is a pod, nil for none.
	Pod(ctx context.Context, namespace, name string) (*proof.Pod, error)
	// HasNode reports whether there is a node of a name.
	HasNode(ctx context.Context, name string) (bool, error)
}

// Mender mends findings, one at a time.
type Mender struct {
	Client datastore.Client
	// Kubernetes is nil where there is none.
	Kubernetes Kubernetes
}

// Mend mends one finding. ErrChanged when there is nothing like it any more.
func (m *Mender) Mend(ctx context.Context, f check.Finding) error {
	ctx = ipam.WithReason(ctx, "ipam repair: "+f.Proof)
	var err error
	switch f.Kind {
	case check.Leak:
		err = m.releaseHandle(ctx, f)
	case check.NodeGone:
		err = m.releaseNode(ctx, f)
	case check.BlockLists:
		err = m.mendLists(ctx, f)
	case check.BlockOutsidePools, check.BlockOverlap:
		err = m.deleteEmptyBlock(ctx, f.Block)
	case check.BlockUnclaimed, check.AffinityUnfinished:
		err = m.confirm(ctx, f)
	case check.AffinityNoBlock, check.AffinityOthers:
		err = m.deleteAffinity(ctx, f)
	case check.OrphanHandle, check.HandleCount, check.MissingHandle:
		err = m.countHandle(ctx, f)
	case check.NotAllocated:
		err = m.allocate(ctx, f)
	case check.LoanMissing, check.LoanIdle:
		err = m.mendLoan(ctx, f)
	default:
		err = fmt.Errorf("%s can't be mended", f.Kind)
	}
	if errors.Is(err, datastore.ErrConflict) || errors.Is(err, ipam.ErrNotAsSeen) || errors.Is(err, datastore.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrChanged, err)
	}
	return err
}

func (m *Mender) txn(ctx context.Context, ops ...datastore.Op) error {
	_, err := m.Client.Txn(ctx, ops...)
	return err
}

// releaseHandle releases addresses whose pod is gone, all of the handle's or none.
func (m *Mender) releaseHandle(ctx context.Context, f check.Finding) error {
	owner, ok := proof.OwnerOf(f.Seen)
	if !ok || f.Proof == "" || m.Kubernetes == nil {
		return errors.New("there is no proof that nobody has it")
	}
	pod, err := m.Kubernetes.Pod(ctx, owner.Namespace, owner.Pod)
	if err != nil {
		return err
	}
	if proof.Without(pod, owner, f.Seen, m.isNode(ctx)) == "" {
		return fmt.Errorf("%w: the pod exists", ErrChanged)
	}
	weps, err := m.Client.List(ctx, datastore.Range{Kind: api.KindWorkloadEndpoint, Namespace: owner.Namespace})
	if err != nil {
		return err
	}
	inUse := func(e datastore.Entry) bool { return proof.Holds(e.Object, f.Seen) }
	if len(weps.Invalid) > 0 || slices.ContainsFunc(weps.Entries, inUse) {
		return fmt.Errorf("%w: an endpoint may have it", ErrChanged)
	}
	_, err = ipam.ReleaseAsSeen(ctx, m.Client, f.Handle, f.Seen)
	return err
}

// isNode compares names of nodes, as check does.
func (m *Mender) isNode(ctx context.Context) func(kubernetesName, node string) bool {
	return func(kubernetesName, node string) bool {
		entry, err := m.Client.Get(ctx, api.Key{Kind: api.KindNode, Name: node})
		if err != nil {
			// A Node that can't be read, now, may be the one.
			return !errors.Is(err, datastore.ErrNotFound) || kubernetesName == node
		}
		if n, ok := entry.Object.(*api.Node); ok && n.KubernetesName() != "" {
			return n.KubernetesName() == kubernetesName
		}
		return kubernetesName == node
	}
}

func (m *Mender) releaseNode(ctx context.Context, f check.Finding) error {
	_, err := m.Client.Get(ctx, api.Key{Kind: api.KindNode, Name: f.Node})
	if err == nil || errors.Is(err, datastore.ErrInvalid) {
		return fmt.Errorf("%w: the node exists", ErrChanged)
	}
	if !errors.Is(err, datastore.ErrNotFound) {
		return err
	}
	var facts proof.NodeFacts
	if m.Kubernetes != nil {
		if facts.Known, err = m.Kubernetes.HasNode(ctx, f.Node); err != nil {
			return err
		}
	}
	workloads, err := noderemoval.Workloads(ctx, m.Client, f.Node)
	if err != nil {
		return err
	}
	facts.Endpoints = len(workloads)
	if f.Proof == "" || proof.NodeGone(f.Node, facts) == "" {
		return fmt.Errorf("%w: the node exists, or endpoints are on it", ErrChanged)
	}
	_, err = ipam.ReleaseNode(ctx, m.Client, f.Node)
	return err
}

func (m *Mender) mendLists(ctx context.Context, f check.Finding) error {
	entry, err := m.Client.Get(ctx, api.BlockKey(f.Block))
	if err != nil {
		return err
	}
	if in, err := ipam.Inspect(entry); err != nil || len(in.Faults) == 0 {
		return errors.Join(ErrChanged, err)
	}
	mended, err := ipam.Mended(entry)
	if err != nil {
		return err
	}
	return m.txn(ctx, ipam.WithLoans(&entry, datastore.Update(mended))...)
}

// deleteEmptyBlock deletes a block with its owner's affinity.
func (m *Mender) deleteEmptyBlock(ctx context.Context, prefix netip.Prefix) error {
	entry, err := m.Client.Get(ctx, api.BlockKey(prefix))
	if err != nil {
		return err
	}
	in, err := ipam.Inspect(entry)
	if err != nil {
		return err
	}
	if len(in.InUse()) > 0 {
		return fmt.Errorf("%w: the block has addresses in use", ErrChanged)
	}
	ops := ipam.WithLoans(&entry, datastore.Delete(entry.Key, entry.Revision))
	if in.Owned {
		affinity, err := present(ctx, m.Client, api.BlockAffinityKey(in.Owner, prefix))
		if err != nil {
			return err
		}
		if affinity != nil {
			ops = append(ops, datastore.Delete(affinity.Key, affinity.Revision))
		}
	}
	return m.txn(ctx, ops...)
}

// confirm writes the affinity of a block's owner, and the block once more, so that
// whoever was about to take it away fails.
func (m *Mender) confirm(ctx context.Context, f check.Finding) error {
	entry, err := m.Client.Get(ctx, api.BlockKey(f.Block))
	if err != nil {
		return err
	}
	in, err := ipam.Inspect(entry)
	if err != nil || !in.Owned || in.Owner != f.Affinity {
		return errors.Join(ErrChanged, err)
	}
	touched, err := ipam.Touched(entry)
	if err != nil {
		return fmt.Errorf("%w; once the block is mended, run this again", err)
	}
	key := api.BlockAffinityKey(f.Affinity, f.Block)
	affinity, err := present(ctx, m.Client, key)
	if err != nil {
		return err
	}
	confirmed := &api.BlockAffinity{
		TypeMeta: metav1.TypeMeta{Kind: string(key.Kind), APIVersion: api.GroupVersion}, ObjectMeta: metav1.ObjectMeta{Name: key.Name},
		Spec: api.BlockAffinitySpec{State: api.AffinityConfirmed, Type: f.Affinity.Type, Node: f.Affinity.Name, CIDR: f.Block.String()},
	}
	op := datastore.Create(key, confirmed)
	if affinity != nil {
		op = datastore.Update(datastore.Entry{Key: key, Object: confirmed, Unknown: affinity.Unknown, Revision: affinity.Revision})
	}
	return m.txn(ctx, datastore.Update(touched), op)
}

// deleteAffinity deletes the affinity of a block that doesn't exist, or is another's.
func (m *Mender) deleteAffinity(ctx context.Context, f check.Finding) error {
	affinity, err := m.Client.Get(ctx, api.BlockAffinityKey(f.Affinity, f.Block))
	if err != nil {
		return err
	}
	block, err := present(ctx, m.Client, api.BlockKey(f.Block))
	if err != nil {
		return err
	}
	check := datastore.Check(api.BlockKey(f.Block), 0)
	if block != nil {
		in, err := ipam.Inspect(*block)
		if err != nil || in.Owned && in.Owner == f.Affinity {
			return errors.Join(ErrChanged, err)
		}
		check.Revision = block.Revision
	}
	return m.txn(ctx, check, datastore.Delete(affinity.Key, affinity.Revision))
}

// countHandle makes a handle count what the blocks hold. The blocks that it counted
// and has nothing in are written once more, so that an assignment that was on its way
// there fails.
func (m *Mender) countHandle(ctx context.Context, f check.Finding) error {
	key := api.HandleKey(string(f.Handle))
	handle, err := present(ctx, m.Client, key)
	if err != nil {
		return err
	}
	blocks := map[netip.Prefix]bool{}
	for _, a := range f.Seen {
		blocks[a.Block] = true
	}
	if handle != nil {
		for name := range handle.Object.(*api.IPAMHandle).Spec.Block {
			if prefix, err := netip.ParsePrefix(name); err == nil && prefix == prefix.Masked() {
				blocks[prefix] = true
			}
		}
	}
	held := map[string]int{}
	var ops []datastore.Op
	for _, prefix := range slices.SortedFunc(maps.Keys(blocks), netip.Prefix.Compare) {
		op, n, err := m.guard(ctx, prefix, f.Handle)
		if err != nil {
			return err
		}
		if n > 0 {
			held[prefix.String()] = n
		}
		ops = append(ops, op)
	}
	if len(ops) >= datastore.MaxTxnOps {
		return fmt.Errorf("its %d blocks don't fit into one transaction; release it with calicoctl ipam release", len(ops))
	}
	op, ok := countOp(key, handle, held)
	if !ok {
		return ErrChanged
	}
	return m.txn(ctx, append(ops, op)...)
}

// guard makes a transaction depend on a block, and counts what a handle has there.
func (m *Mender) guard(ctx context.Context, prefix netip.Prefix, handle ipam.HandleID) (datastore.Op, int, error) {
	entry, err := present(ctx, m.Client, api.BlockKey(prefix))
	if err != nil {
		return datastore.Op{}, 0, err
	}
	if entry == nil {
		return datastore.Check(api.BlockKey(prefix), 0), 0, nil
	}
	in, err := ipam.Inspect(*entry)
	if err != nil {
		return datastore.Op{}, 0, err
	}
	n := 0
	for _, a := range in.Allocations {
		if a.Handle == handle {
			n++
		}
	}
	if n > 0 {
		return datastore.Check(entry.Key, entry.Revision), n, nil
	}
	touched, err := ipam.Touched(*entry)
	if err != nil { // it can't be written as it is, and nobody else can write it either
		return datastore.Check(entry.Key, entry.Revision), 0, nil //nolint:nilerr // see above
	}
	return datastore.Update(touched), 0, nil
}

// countOp makes a handle count what is held; ok is false when it does already.
func countOp(key api.Key, handle *datastore.Entry, held map[string]int) (op datastore.Op, ok bool) {
	obj := &api.IPAMHandle{
		TypeMeta: metav1.TypeMeta{Kind: string(key.Kind), APIVersion: api.GroupVersion}, ObjectMeta: metav1.ObjectMeta{Name: key.Name},
		Spec: api.IPAMHandleSpec{HandleID: key.Name, Block: held},
	}
	switch {
	case handle == nil && len(held) == 0:
		return datastore.Op{}, false
	case handle == nil:
		return datastore.Create(key, obj), true
	case len(held) == 0:
		return datastore.Delete(key, handle.Revision), true
	}
	before := handle.Object.(*api.IPAMHandle).Spec
	obj.Spec.Deleted = before.Deleted
	return datastore.Update(datastore.Entry{Key: key, Object: obj, Unknown: handle.Unknown, Revision: handle.Revision}), !maps.Equal(before.Block, held)
}

// allocate gives an address out to the endpoint that has it.
func (m *Mender) allocate(ctx context.Context, f check.Finding) error {
	entry, err := m.Client.Get(ctx, f.Endpoint)
	if err != nil {
		return err
	}
	wep, ok := entry.Object.(*api.WorkloadEndpoint)
	if !ok || !proof.Holds(wep, []ipam.Allocation{{Addr: f.Addr}}) {
		return fmt.Errorf("%w: the endpoint has it no more", ErrChanged)
	}
	block, err := m.Client.Get(ctx, api.BlockKey(f.Block))
	if err != nil {
		return err
	}
	id := string(f.Handle)
	attrs := map[string]string{api.AttributeNode: wep.Spec.Node}
	if wep.Spec.Orchestrator == v3.OrchestratorKubernetes {
		attrs[api.AttributeNamespace], attrs[api.AttributePod] = wep.Namespace, wep.Spec.Pod
	}
	with, err := ipam.WithAddress(block, f.Addr, api.BlockAttributes{HandleID: &id, ActiveOwnerAttrs: attrs})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrChanged, err)
	}
	handle, err := present(ctx, m.Client, api.HandleKey(id))
	if err != nil {
		return err
	}
	held := map[string]int{}
	if handle != nil {
		maps.Copy(held, handle.Object.(*api.IPAMHandle).Spec.Block)
	}
	held[f.Block.String()]++
	op, _ := countOp(api.HandleKey(id), handle, held)
	ops := append([]datastore.Op{op}, ipam.WithLoans(&block, datastore.Update(with))...)
	return m.txn(ctx, append(ops, datastore.Check(entry.Key, entry.Revision))...)
}

// mendLoan makes the loan of a node say what its block says.
func (m *Mender) mendLoan(ctx context.Context, f check.Finding) error {
	key := api.LoanKey(f.Node, f.Block)
	loan, err := present(ctx, m.Client, key)
	if err != nil {
		return err
	}
	block, err := present(ctx, m.Client, api.BlockKey(f.Block))
	if err != nil {
		return err
	}
	asSeen := datastore.Check(api.BlockKey(f.Block), 0)
	if block != nil {
		asSeen.Revision = block.Revision
	}
	switch borrows := slices.Contains(ipam.Borrowers(block), f.Node); {
	case borrows && loan == nil:
		return m.txn(ctx, asSeen, datastore.Create(key, api.NewLoan(f.Node, f.Block)))
	case !borrows && loan != nil:
		return m.txn(ctx, asSeen, datastore.Delete(key, loan.Revision))
	}
	return ErrChanged
}
