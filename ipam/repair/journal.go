package repair

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Journal is a client that tells of each change before it is made, so that it can be
// shown, written down and undone. Everything else goes through it unchanged.
type Journal struct {
	datastore.Client
	// Before is told what a transaction is about to change, all of it together; its
	// error keeps the transaction from being carried out.
	Before func(changes []Change) error
	// Failed is told that the transaction last told of was not carried out. One whose
	// outcome is unknown may have been.
	Failed func()
}

// recorded are the kinds that repairs are about. What else a release writes, such as
// the history of an address, stays when the release is undone.
func recorded(kind api.Kind) bool {
	return kind == api.KindIPAMBlock || kind == api.KindIPAMHandle || kind == api.KindBlockAffinity || kind == api.KindIPAMLoan
}

// Txn implements datastore.Client.
func (j *Journal) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	changes, ops, err := j.changes(ctx, ops)
	if err != nil || len(changes) == 0 {
		if err != nil {
			return 0, err
		}
		return j.Client.Txn(ctx, ops...)
	}
	if err := j.Before(changes); err != nil {
		return 0, err
	}
	rev, err := j.Client.Txn(ctx, ops...)
	if err != nil && !errors.Is(err, datastore.ErrUnavailable) {
		j.Failed()
	}
	return rev, err
}

// changes are what operations would change, and the operations bound to what the
// store holds now. None when one of them can't be carried out: the store says so.
func (j *Journal) changes(ctx context.Context, ops []datastore.Op) ([]Change, []datastore.Op, error) {
	var changes []Change
	bound := make([]datastore.Op, len(ops))
	// Loans that are written with a block follow from it, also when that is undone.
	follow := slices.ContainsFunc(ops, func(op datastore.Op) bool { return op.Kind != datastore.OpCheck && op.Key.Kind == api.KindIPAMBlock })
	for i, op := range ops {
		bound[i] = op
		if op.Kind == datastore.OpCheck || !recorded(op.Key.Kind) || follow && op.Key.Kind == api.KindIPAMLoan {
			continue
		}
		before, err := j.present(ctx, op.Key)
		if err != nil {
			return nil, nil, err
		}
		c := Change{Key: op.Key, Before: before}
		if op.Kind != datastore.OpDelete && op.Kind != datastore.OpDeleteAny {
			c.After = &datastore.Entry{Key: op.Key, Object: op.Object, Unknown: op.Unknown}
		}
		if c.After == nil && before != nil && op.Key.Kind == api.KindIPAMBlock {
			if c.Beside, err = overlapping(ctx, j.Client, op.Key); err != nil {
				return nil, nil, err
			}
		}
		var fits bool
		if bound[i], fits = bind(op, before); !fits {
			return nil, ops, nil
		}
		changes = append(changes, c)
	}
	return changes, bound, nil
}

func (j *Journal) present(ctx context.Context, key api.Key) (*datastore.Entry, error) {
	return present(ctx, j.Client, key)
}

// present is what the store holds under a key, nil for nothing.
func present(ctx context.Context, client datastore.Client, key api.Key) (*datastore.Entry, error) {
	entry, err := client.Get(ctx, key)
	switch {
	case errors.Is(err, datastore.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return &entry, nil
}

// bind makes an operation depend on what is there; fits is false when it depends on
// something else.
func bind(op datastore.Op, before *datastore.Entry) (bound datastore.Op, fits bool) {
	var revision datastore.Revision
	if before != nil {
		revision = before.Revision
	}
	switch op.Kind {
	case datastore.OpCreate:
		return op, revision == 0
	case datastore.OpUpdate, datastore.OpDelete:
		return op, revision == op.Revision
	case datastore.OpPut:
		if revision == 0 {
			op.Kind = datastore.OpCreate
		} else {
			op.Kind, op.Revision = datastore.OpUpdate, revision
		}
	case datastore.OpDeleteAny:
		if revision == 0 {
			op.Kind = datastore.OpCheck
		} else {
			op.Kind, op.Revision = datastore.OpDelete, revision
		}
	}
	return op, true
}
