package etcd

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"tortie/internal/datastore"
	"tortie/internal/datastore/record"
)

// manyCreates is from how many new keys on a transaction brings no reads along.
const manyCreates = 16

// maxRefusals bounds how often a transaction is sent whose conflict is gone by the time
// it is looked for.
const maxRefusals = 10

// Txn implements datastore.Client as one etcd transaction. Its Else branch reads
// every key, so a conflict costs no further round trip. One that creates many keys, of
// which hardly ever one exists, reads them only when it was refused: the branch would be
// a third of what is sent, and of what etcd writes down.
//
// It is never repeated after an unclear outcome: etcd may have applied it.
func (c *Client) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	steps, err := c.codec.Plan(ops)
	if err != nil {
		return 0, err
	}
	req, reads := requestOf(steps)
	for range maxRefusals {
		resp, err := c.send(ctx, req, steps, ops)
		switch {
		case err != nil:
			return 0, err
		case resp.GetSucceeded():
			return datastore.Revision(resp.GetHeader().GetRevision()), nil
		case len(req.GetFailure()) == 0:
			if resp, err = c.send(ctx, &pb.TxnRequest{Success: reads}, steps, ops); err != nil {
				return 0, err
			}
		}
		if conflict := c.codec.Conflict(steps, currentOf(resp)); conflict != nil {
			return 0, conflict
		}
	}
	return 0, fmt.Errorf("%s: etcd refused the transaction although every condition holds", describe(ops))
}

// requestOf is what etcd is sent, and the reads of every key.
func requestOf(steps []record.Step) (req *pb.TxnRequest, reads []*pb.RequestOp) {
	req = &pb.TxnRequest{
		Compare: make([]*pb.Compare, 0, len(steps)),
		Success: make([]*pb.RequestOp, 0, len(steps)),
	}
	reads = make([]*pb.RequestOp, 0, len(steps))
	creates := 0
	for _, s := range steps {
		key := []byte(s.Path)
		if s.Compares() {
			req.Compare = append(req.Compare, &pb.Compare{
				Key: key, Target: pb.Compare_MOD, Result: pb.Compare_EQUAL,
				TargetUnion: &pb.Compare_ModRevision{ModRevision: int64(s.Op.Revision)},
			})
		}
		switch {
		case s.Writes():
			if s.Op.Kind == datastore.OpCreate {
				creates++
			}
			req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: s.Value}}})
		case s.Deletes():
			req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}})
		}
		reads = append(reads, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}})
	}
	if creates < manyCreates {
		req.Failure = reads
	}
	return req, reads
}

// send sends one request of a transaction.
func (c *Client) send(ctx context.Context, req *pb.TxnRequest, steps []record.Step, ops []datastore.Op) (resp *pb.TxnResponse, err error) {
	err = c.do(ctx, func(ctx context.Context) (err error) {
		resp, err = c.txn.Txn(ctx, req, txnOptions()...)
		return clientv3.ContextError(ctx, err)
	})
	switch {
	case errors.Is(err, errTooLarge):
		return nil, fmt.Errorf("%s: %w", describe(ops), explainSize(steps))
	case err != nil:
		return nil, fmt.Errorf("%s: %w", describe(ops), err)
	}
	return resp, nil
}

// currentOf is what the reads of a transaction found.
func currentOf(resp *pb.TxnResponse) map[string]record.Pair {
	current := make(map[string]record.Pair, len(resp.GetResponses()))
	for _, r := range resp.GetResponses() {
		for _, kv := range r.GetResponseRange().GetKvs() {
			current[string(kv.GetKey())] = pairOf(kv)
		}
	}
	return current
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
