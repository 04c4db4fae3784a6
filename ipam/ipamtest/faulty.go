package ipamtest

import (
	"context"
	"fmt"
	"sync"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Fault is what happens to one operation of a Faulty client.
type Fault int

// The faults.
const (
	// Pass carries the operation out.
	Pass Fault = iota
	// Refuse answers datastore.ErrUnavailable and carries nothing out.
	Refuse
	// LoseReply carries the operation out and answers datastore.ErrUnavailable.
	LoseReply
)

// Faulty is a client that fails as told, operation by operation.
type Faulty struct {
	datastore.Client
	// Decide is asked before every Get, List and Txn, counted from 0. It may use
	// the client underneath, for example to change a key first, and is called by
	// one goroutine at a time. nil passes everything.
	Decide func(n int, ops []datastore.Op) Fault

	mu sync.Mutex
	n  int
}

// Operations is how many operations were asked for.
func (f *Faulty) Operations() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

func (f *Faulty) decide(ops []datastore.Op) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.n
	f.n++
	if f.Decide == nil {
		return Pass
	}
	return f.Decide(n, ops)
}

func refused(what string) error {
	return fmt.Errorf("%s: injected: %w", what, datastore.ErrUnavailable)
}

// Get implements datastore.Client.
func (f *Faulty) Get(ctx context.Context, key api.Key) (datastore.Entry, error) {
	if f.decide(nil) != Pass {
		return datastore.Entry{}, refused("get")
	}
	return f.Client.Get(ctx, key)
}

// List implements datastore.Client.
func (f *Faulty) List(ctx context.Context, r datastore.Range) (datastore.Snapshot, error) {
	if f.decide(nil) != Pass {
		return datastore.Snapshot{}, refused("list")
	}
	return f.Client.List(ctx, r)
}

// Txn implements datastore.Client.
func (f *Faulty) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	switch f.decide(ops) {
	case Pass:
		return f.Client.Txn(ctx, ops...)
	case LoseReply:
		_, _ = f.Client.Txn(ctx, ops...)
	case Refuse:
	}
	return 0, refused("transaction")
}
