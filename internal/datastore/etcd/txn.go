package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"tortie/internal/datastore"
	"tortie/internal/datastore/record"
)

// Txn implements datastore.Client as one etcd transaction. Its Else branch reads
// every key, so a conflict costs no further round trip.
//
// It is never repeated after an unclear outcome: etcd may have applied it.
func (c *Client) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	steps, err := c.codec.Plan(ops)
	if err != nil {
		return 0, err
	}
	compares := make([]clientv3.Cmp, 0, len(steps))
	writes := make([]clientv3.Op, 0, len(steps))
	reads := make([]clientv3.Op, 0, len(steps))
	for _, s := range steps {
		if s.Compares() {
			compares = append(compares, clientv3.Compare(clientv3.ModRevision(s.Path), "=", int64(s.Op.Revision)))
		}
		switch {
		case s.Writes():
			put := clientv3.OpPut(s.Path, "")
			put.WithValueBytes(s.Value) // OpPut takes a string and copies it
			writes = append(writes, put)
		case s.Deletes():
			writes = append(writes, clientv3.OpDelete(s.Path))
		}
		reads = append(reads, clientv3.OpGet(s.Path))
	}
	var resp *clientv3.TxnResponse
	err = c.do(ctx, func(ctx context.Context) (err error) {
		resp, err = c.kv.Txn(ctx).If(compares...).Then(writes...).Else(reads...).Commit()
		return err
	})
	switch {
	case errors.Is(err, errTooLarge):
		return 0, fmt.Errorf("%s: %w", describe(ops), explainSize(steps))
	case err != nil:
		return 0, fmt.Errorf("%s: %w", describe(ops), err)
	case resp.Succeeded:
		return datastore.Revision(resp.Header.GetRevision()), nil
	}
	current := make(map[string]record.Pair, len(steps))
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().GetKvs() {
			current[string(kv.GetKey())] = pairOf(kv)
		}
	}
	if conflict := c.codec.Conflict(steps, current); conflict != nil {
		return 0, conflict
	}
	return 0, fmt.Errorf("%s: etcd refused the transaction although every condition holds", describe(ops))
}

// describe names a transaction in an error message.
func describe(ops []datastore.Op) string {
	first := fmt.Sprintf("%s %s", ops[0].Kind, ops[0].Key)
	if len(ops) > 1 {
		return fmt.Sprintf("%s and %d more in one transaction", first, len(ops)-1)
	}
	return first
}

func pairOf(kv *mvccpb.KeyValue) record.Pair {
	return record.Pair{
		Path:     string(kv.GetKey()),
		Value:    kv.GetValue(),
		Revision: datastore.Revision(kv.GetModRevision()),
	}
}
