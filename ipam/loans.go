package ipam

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Loans are where a node borrows addresses: one record for each block that has addresses
// of the node and isn't its own, written in the transactions that begin and end that. So
// a node need not follow all blocks of the cluster to find its addresses in those of
// others. A loan is a hint: whoever reads it looks into the block, and one too many costs
// a look. One is missing only where somebody wrote the block who knows nothing of loans;
// MendLoans makes it.

// Borrowers are the nodes with addresses in a block that isn't theirs, sorted; none are
// in what is no block.
func Borrowers(entry *datastore.Entry) []string {
	if entry == nil {
		return nil
	}
	obj, ok := entry.Object.(*api.IPAMBlock)
	if !ok {
		return nil
	}
	owner, owned := block{spec: &obj.Spec}.owner()
	var nodes []string
	for _, attrs := range obj.Spec.Attributes {
		node := attrs.ActiveOwnerAttrs[api.AttributeNode]
		if node == "" || owned && owner == api.HostAffinity(node) || strings.Contains(node, "/") || slices.Contains(nodes, node) {
			continue
		}
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	return nodes
}

// WithLoans are the operations that write a block, or delete it, with the loans that begin
// and end by that; before is the block as it is, nil if it doesn't exist. Who borrows is on
// record before he holds, and until he no longer does. In one transaction with the block
// they depend on no more than that does.
func WithLoans(before *datastore.Entry, write datastore.Op) []datastore.Op {
	prefix, ok := blockOfKey(write.Key)
	was, is := Borrowers(before), Borrowers(&datastore.Entry{Object: write.Object})
	if !ok || write.Kind == datastore.OpCheck || len(was) == 0 && len(is) == 0 {
		return []datastore.Op{write}
	}
	var ops []datastore.Op
	for _, node := range is {
		if !slices.Contains(was, node) {
			ops = append(ops, datastore.Put(api.LoanKey(node, prefix), api.NewLoan(node, prefix)))
		}
	}
	ops = append(ops, write)
	for _, node := range was {
		if !slices.Contains(is, node) {
			ops = append(ops, datastore.DeleteAny(api.LoanKey(node, prefix)))
		}
	}
	return ops
}

// MendLoans makes the loans of a node say what the blocks say: all blocks, or those that
// are named. It can be repeated, and runs beside whatever else changes blocks: each
// loan is written only if its block is still as it was read.
func MendLoans(ctx context.Context, client datastore.Client, node string, only ...netip.Prefix) error {
	for range maxAttempts {
		changed, err := mendLoans(ctx, client, node, only)
		if err != nil {
			return fmt.Errorf("mend the loans of node %s: %w", node, err)
		}
		if len(changed) == 0 {
			return nil
		}
		only = changed
	}
	return fmt.Errorf("mend the loans of node %s: gave up after %d attempts: %w", node, maxAttempts, datastore.ErrConflict)
}

// EndLoans takes away the loans of a node from blocks that it has nothing in. It looks at
// no other block, and may be called of any node at any time.
func EndLoans(ctx context.Context, client datastore.Client, node string) error {
	recorded, err := loansOf(ctx, client, node)
	if err != nil {
		return fmt.Errorf("end the loans of node %s: %w", node, err)
	}
	if len(recorded) == 0 {
		return nil
	}
	return MendLoans(ctx, client, node, slices.Collect(maps.Keys(recorded))...)
}

// mendLoans is one attempt; changed are blocks that were written meanwhile.
func mendLoans(ctx context.Context, client datastore.Client, node string, only []netip.Prefix) (changed []netip.Prefix, err error) {
	recorded, err := loansOf(ctx, client, node)
	if err != nil {
		return nil, err
	}
	blocks, err := blocksToLookAt(ctx, client, only, recorded)
	if err != nil {
		return nil, err
	}
	for prefix, stored := range blocks {
		op, wrong := loanOp(node, prefix, stored, recorded[prefix])
		if !wrong {
			continue
		}
		_, err := client.Txn(ctx, datastore.Check(api.BlockKey(prefix), revisionOf(stored)), op)
		if isFailure(err) {
			return nil, err
		}
		if err != nil {
			changed = append(changed, prefix)
		}
	}
	return changed, nil
}

// loanOp puts the record of a loan right, if it is wrong.
func loanOp(node string, prefix netip.Prefix, stored *datastore.Entry, recorded bool) (op datastore.Op, wrong bool) {
	switch borrows := slices.Contains(Borrowers(stored), node); {
	case borrows && !recorded:
		return datastore.Put(api.LoanKey(node, prefix), api.NewLoan(node, prefix)), true
	case !borrows && recorded:
		return datastore.DeleteAny(api.LoanKey(node, prefix)), true
	}
	return datastore.Op{}, false
}

// loansOf are the blocks that a node has loans from. A loan that can't be read counts: its
// key says all.
func loansOf(ctx context.Context, client datastore.Client, node string) (map[netip.Prefix]bool, error) {
	snap, err := client.List(ctx, datastore.Range{Kind: api.KindIPAMLoan, NamePrefix: api.LoanPrefix(node)})
	if err != nil {
		return nil, err
	}
	loans := make(map[netip.Prefix]bool)
	add := func(key api.Key) {
		if _, prefix, err := api.ParseLoanName(key.Name); err == nil {
			loans[prefix] = true
		}
	}
	for _, entry := range snap.Entries {
		add(entry.Key)
	}
	for i := range snap.Invalid {
		add(snap.Invalid[i].Key)
	}
	return loans, nil
}

// blocksToLookAt reads the blocks that are named, or else all; nil is one that does not
// exist. Those that can't be read are left out.
func blocksToLookAt(ctx context.Context, client datastore.Client, only []netip.Prefix, recorded map[netip.Prefix]bool) (map[netip.Prefix]*datastore.Entry, error) {
	blocks := make(map[netip.Prefix]*datastore.Entry)
	if len(only) == 0 {
		snap, err := client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
		if err != nil {
			return nil, err
		}
		for prefix := range recorded {
			blocks[prefix] = nil
		}
		for _, entry := range snap.Entries {
			if prefix, ok := blockOfKey(entry.Key); ok {
				blocks[prefix] = &entry
			}
		}
		for i := range snap.Invalid {
			if prefix, ok := blockOfKey(snap.Invalid[i].Key); ok {
				delete(blocks, prefix)
			}
		}
		return blocks, nil
	}
	keys := make([]api.Key, len(only))
	for i, prefix := range only {
		keys[i] = api.BlockKey(prefix)
	}
	found, err := readKeys(ctx, client, keys)
	if err != nil {
		return nil, err
	}
	for i, prefix := range only {
		if found.invalid[keys[i]] == nil {
			blocks[prefix] = found.entry(keys[i])
		}
	}
	return blocks, nil
}
