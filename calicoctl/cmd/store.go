package cmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tortie/calicoctl/resource"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

// openStore connects to the datastore. The caller calls the function returned.
func (a *app) openStore(ctx context.Context) (*resource.Store, func(), error) {
	client, err := a.OpenStore(ctx, a.configPath, a.logger())
	if err != nil {
		return nil, nil, err
	}
	store := &resource.Store{
		Client:   bounded{Client: client, timeout: a.OpTimeout},
		Registry: a.Registry,
		Now:      a.Now,
		Settle:   a.Settle,
		Warn:     a.warn,
		Log:      a.logger(),
	}
	return store, func() { _ = client.Close() }, nil
}

// bounded gives every call to a store its own deadline: an operator waits for
// one step, never for a store that doesn't answer, while a long list of writes
// may take its time.
type bounded struct {
	datastore.Client
	timeout time.Duration
}

func (b bounded) Get(ctx context.Context, key api.Key) (datastore.Entry, error) {
	opCtx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	entry, err := b.Client.Get(opCtx, key)
	return entry, b.explain(ctx, err)
}

func (b bounded) List(ctx context.Context, r datastore.Range) (datastore.Snapshot, error) {
	opCtx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	snap, err := b.Client.List(opCtx, r)
	return snap, b.explain(ctx, err)
}

func (b bounded) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	opCtx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	rev, err := b.Client.Txn(opCtx, ops...)
	return rev, b.explain(ctx, err)
}

// explain makes the deadline set here an ErrUnavailable, and leaves an
// interrupted command what it is.
func (b bounded) explain(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || errors.Is(err, datastore.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: no answer within %v", datastore.ErrUnavailable, b.timeout)
}
