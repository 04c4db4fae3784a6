package datastore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"tortie/internal/api"
)

// Resources writes objects as every writer of resources must: with defaults,
// validated, with a UID and a creation time that last as long as the object, and
// with the fields that only a newer program knows. Reading, deleting and
// transactions over several objects are the Client's.
type Resources struct {
	client Client
	reg    *api.Registry
	now    func() time.Time
}

// NewResources makes the writer. now gives creation times; nil means time.Now.
func NewResources(client Client, reg *api.Registry, now func() time.Time) *Resources {
	if now == nil {
		now = time.Now
	}
	return &Resources{client: client, reg: reg, now: now}
}

// Create writes an object that must not exist: ErrAlreadyExists when it does,
// *api.ValidationError when it is faulty. obj is completed in place. Checks are part of
// the transaction.
func (r *Resources) Create(ctx context.Context, obj api.Object, checks ...Op) (Entry, error) {
	r.reg.Default(obj)
	r.reg.Prepare(obj, r.now(), newUID)
	return r.write(ctx, obj, func(key api.Key) Op { return Create(key, obj) }, checks...)
}

// CreateAll creates objects that must not exist in one transaction with further
// operations: all of it or nothing.
func (r *Resources) CreateAll(ctx context.Context, objects []api.Object, with ...Op) error {
	ops := with
	for _, obj := range objects {
		r.reg.Default(obj)
		r.reg.Prepare(obj, r.now(), newUID)
		if err := r.reg.Validate(obj); err != nil {
			return err
		}
		key, err := r.reg.KeyOf(obj)
		if err != nil {
			return err
		}
		ops = append(ops, Create(key, obj))
	}
	_, err := r.client.Txn(ctx, ops...)
	return err
}

// Update writes back an entry that was read and whose Object was changed or
// replaced: ErrConflict when somebody else was faster, ErrNotFound when it is
// gone. Checks are part of the transaction.
func (r *Resources) Update(ctx context.Context, e Entry, checks ...Op) (Entry, error) {
	r.reg.Default(e.Object)
	updated, err := r.write(ctx, e.Object, func(api.Key) Op { return Update(e) }, checks...)
	updated.Unknown = e.Unknown
	return updated, err
}

// Overwrite puts obj in the place of a value that can't be read: ErrConflict when there is
// another by now. What obj doesn't have of UID and creation time it gets anew.
func (r *Resources) Overwrite(ctx context.Context, unread *Invalid, obj api.Object) (Entry, error) {
	r.reg.Default(obj)
	r.reg.Prepare(obj, r.now(), newUID)
	return r.write(ctx, obj, func(api.Key) Op {
		return Update(Entry{Key: unread.Key, Object: obj, Revision: unread.Revision})
	})
}

// Replace puts obj in the place of the object of that name: ErrNotFound when
// there is none. If obj carries a resource version, the stored object must still
// be at it, else ErrConflict; without one, whatever is stored now is replaced.
func (r *Resources) Replace(ctx context.Context, obj api.Object) (Entry, error) {
	return r.retry(ctx, obj, func() (Entry, error) { return r.replaceOnce(ctx, obj) })
}

// Apply creates obj or replaces what is there, and reports which.
func (r *Resources) Apply(ctx context.Context, obj api.Object) (e Entry, created bool, err error) {
	e, err = r.retry(ctx, obj, func() (Entry, error) {
		e, err := r.replaceOnce(ctx, obj)
		if created = errors.Is(err, ErrNotFound) && obj.GetResourceVersion() == ""; created {
			e, err = r.Create(ctx, obj)
		}
		return e, err
	})
	return e, created && err == nil, err
}

// maxRaces is how many times in a row somebody else may be faster before Replace
// and Apply give up.
const maxRaces = 10

// retry repeats a change that lost a race, unless obj pins the version it
// belongs to.
func (r *Resources) retry(ctx context.Context, obj api.Object, change func() (Entry, error)) (Entry, error) {
	pinned := obj.GetResourceVersion() != ""
	for race := 1; ; race++ {
		e, err := change()
		if !errors.Is(err, ErrConflict) || pinned || race == maxRaces || ctx.Err() != nil {
			return e, err
		}
	}
}

func (r *Resources) replaceOnce(ctx context.Context, obj api.Object) (Entry, error) {
	key, err := r.reg.KeyOf(obj)
	if err != nil {
		return Entry{}, err
	}
	e, err := r.client.Get(ctx, key)
	if err != nil {
		return Entry{}, err
	}
	if want := obj.GetResourceVersion(); want != "" && want != strconv.FormatInt(int64(e.Revision), 10) {
		return Entry{}, &ConflictError{Key: key, Class: ErrConflict, Current: map[api.Key]Entry{key: e}}
	}
	obj.SetUID(e.Object.GetUID())
	obj.SetCreationTimestamp(e.Object.GetCreationTimestamp())
	e.Object = obj
	return r.Update(ctx, e)
}

// write validates, writes and gives the object the revision it has now.
func (r *Resources) write(ctx context.Context, obj api.Object, op func(api.Key) Op, checks ...Op) (Entry, error) {
	if err := r.reg.Validate(obj); err != nil {
		return Entry{}, err
	}
	key, err := r.reg.KeyOf(obj)
	if err != nil {
		return Entry{}, err
	}
	o := op(key)
	rev, err := r.client.Txn(ctx, append(slices.Clone(checks), o)...)
	var conflict *ConflictError
	switch {
	case errors.As(err, &conflict):
		return Entry{}, fmt.Errorf("%s %w", o.Kind, conflict)
	case err != nil:
		return Entry{}, err
	}
	obj.SetResourceVersion(strconv.FormatInt(int64(rev), 10))
	return Entry{Key: o.Key, Object: obj, Revision: rev}, nil
}
