package cniserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// undoTimeout bounds the undoing of a failed ADD. It runs even when the ADD
// failed because its own time was over.
const undoTimeout = 10 * time.Second

// step is one part of a call. undo takes back what do did, also when do failed
// half-way; nil when there is nothing to take back.
type step struct {
	name string
	do   func(context.Context) error
	undo func(context.Context) error
}

// runSteps runs steps in order. After a failure it undoes in reverse, the failed
// step included, going on past failures of undo, which are returned apart.
func runSteps(ctx context.Context, steps []step) (failed, undoFailed error) {
	for i, s := range steps {
		err := ctx.Err()
		if err == nil {
			err = s.do(ctx)
		}
		if err == nil {
			continue
		}
		return fmt.Errorf("%s: %w", s.name, err), undoSteps(ctx, steps[:i+1])
	}
	return nil, nil
}

func undoSteps(ctx context.Context, done []step) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var failed error
	for _, s := range slices.Backward(done) {
		if s.undo == nil {
			continue
		}
		if err := s.undo(ctx); err != nil {
			failed = errors.Join(failed, fmt.Errorf("undo %s: %w", s.name, err))
		}
	}
	return failed
}
