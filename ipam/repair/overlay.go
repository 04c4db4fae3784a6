package repair

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Overlay is a client that keeps what is written to itself: to see what would happen.
type Overlay struct {
	datastore.Client
	written map[api.Key]*datastore.Entry // nil for what is deleted
	// revision is that of the last write. The store's own are lower.
	revision datastore.Revision
}

// NewOverlay makes an Overlay of a client.
func NewOverlay(client datastore.Client) *Overlay {
	const beyond = 1 << 62
	return &Overlay{Client: client, written: map[api.Key]*datastore.Entry{}, revision: beyond}
}

// Get implements datastore.Client.
func (o *Overlay) Get(ctx context.Context, key api.Key) (datastore.Entry, error) {
	entry, ok := o.written[key]
	switch {
	case !ok:
		return o.Client.Get(ctx, key)
	case entry == nil:
		return datastore.Entry{}, datastore.ErrNotFound
	}
	return *entry, nil
}

// List implements datastore.Client.
func (o *Overlay) List(ctx context.Context, r datastore.Range) (datastore.Snapshot, error) {
	snap, err := o.Client.List(ctx, r)
	if err != nil {
		return snap, err
	}
	all := map[api.Key]datastore.Entry{}
	for _, e := range snap.Entries {
		all[e.Key] = e
	}
	for key, e := range o.written {
		inside := key.Kind == r.Kind && (r.Namespace == "" || key.Namespace == r.Namespace) && strings.HasPrefix(key.Name, r.NamePrefix)
		switch {
		case !inside:
		case e == nil:
			delete(all, key)
		default:
			all[key] = *e
		}
	}
	snap.Entries = slices.SortedFunc(maps.Values(all), func(a, b datastore.Entry) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return snap, nil
}

// Txn implements datastore.Client.
func (o *Overlay) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	conflict := &datastore.ConflictError{Current: map[api.Key]datastore.Entry{}}
	for _, op := range ops {
		before, err := present(ctx, o, op.Key)
		if invalid, ok := errors.AsType[*datastore.Invalid](err); ok {
			conflict.Invalid = append(conflict.Invalid, *invalid)
			before = &datastore.Entry{Revision: -1}
		} else if err != nil {
			return 0, err
		} else if before != nil {
			conflict.Current[op.Key] = *before
		}
		if class := refused(op, before); class != nil && conflict.Class == nil {
			conflict.Key, conflict.Class = op.Key, class
		}
	}
	if conflict.Class != nil {
		return 0, conflict
	}
	o.revision++
	for _, op := range ops {
		switch op.Kind {
		case datastore.OpDelete, datastore.OpDeleteAny:
			o.written[op.Key] = nil
		case datastore.OpCreate, datastore.OpUpdate, datastore.OpPut:
			o.written[op.Key] = &datastore.Entry{Key: op.Key, Object: op.Object, Unknown: op.Unknown, Revision: o.revision}
		}
	}
	return o.revision, nil
}

// refused is why an operation can't be carried out on what is there; nil when it can.
func refused(op datastore.Op, before *datastore.Entry) error {
	bound, fits := bind(op, before)
	if bound.Kind == datastore.OpCheck && op.Kind == datastore.OpCheck {
		fits = before == nil && op.Revision == 0 || before != nil && before.Revision == op.Revision
	}
	switch {
	case fits:
		return nil
	case before == nil:
		return datastore.ErrNotFound
	case op.Kind == datastore.OpCreate || op.Revision == 0:
		return datastore.ErrAlreadyExists
	}
	return datastore.ErrConflict
}
