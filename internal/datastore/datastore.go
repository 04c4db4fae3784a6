// Package datastore is how every program reads and writes the cluster's state:
// objects under keys, each with a revision, changed by compare-and-swap
// transactions and followed by watches.
//
// The interface is also the seam for a backend on the Kubernetes API, which has
// no multi-key transaction: such a backend carries out the operations of a
// transaction in the order given and stops at the first conflict. Callers
// therefore order operations so that every prefix of the list leaves a state
// that readers accept (a handle before the block that uses it).
package datastore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"tortie/internal/api"
)

// Revision orders all writes to a store. 0 means "no such key".
type Revision int64

// Entry is one object as read from the store. To change it, change Object and
// pass the Entry to Update: the Entry also carries the fields that our types
// don't know, so that what a newer program wrote survives.
type Entry struct {
	Key      api.Key
	Object   api.Object
	Revision Revision
	Unknown  api.Unknown
	// Digest is a hash of the stored value. Two entries of one key with the same
	// Revision but another Digest come from two histories of the store: it was
	// restored from a backup in between. 0 when the backend doesn't give one.
	Digest uint64
}

// Invalid is a key of the store whose path or value can't be read as what it
// should be.
type Invalid struct { //nolint:errname // a record of a Snapshot first, an error second
	// Path is the raw key in the store.
	Path string
	// Key is the parsed key; its zero value when the path itself can't be parsed.
	Key api.Key
	Err error
	// Value is what is stored, for who can do with a part of it; nil when only the path
	// is wrong.
	Value []byte
	// Revision is that of the stored value; 0 when only the path is wrong.
	Revision Revision
}

// Cause is what is wrong with the value, without the key.
func (i *Invalid) Cause() string {
	return strings.TrimPrefix(i.Err.Error(), "decode "+i.Key.String()+": ")
}

// Remedy is what to do about it.
func (i *Invalid) Remedy() string {
	switch i.Key.Kind {
	case "":
		return "look at it with etcdctl get " + i.Path + ", and delete it there"
	case api.KindBlockAffinity, api.KindIPAMBlock, api.KindIPAMHandle, api.KindIPAMLoan, api.KindIPAMConfig, api.KindAdvertisedService:
		return "calicoctl ipam check says what hangs on it; put it right, or delete it, with etcdctl: " + i.Path
	}
	return "write it anew with calicoctl apply, or delete it with calicoctl delete"
}

// Error names the raw key and what is wrong with it.
func (i *Invalid) Error() string { return fmt.Sprintf("%s: %v: %v", i.Path, ErrInvalid, i.Err) }

// Unwrap gives ErrInvalid and the cause.
func (i *Invalid) Unwrap() []error { return []error{ErrInvalid, i.Err} }

// Range selects the objects of one kind, optionally of one namespace, optionally
// whose name starts with NamePrefix. With a NamePrefix in all namespaces the store sends
// the whole kind; what isn't wanted is dropped unread.
type Range struct {
	Kind       api.Kind
	Namespace  string
	NamePrefix string
	// Coalesce lets a watch leave out versions of a key that follow one another
	// within this time: the first after a quiet time is told at once, of those after
	// it only the last, when the time is over. For readers whom every version costs
	// more than it tells. 0: every version is told.
	Coalesce time.Duration
	// Delay lets a watch wait for this long after a change, and then tell all that has
	// changed by then together, of each key the last version. For readers who lose
	// nothing by hearing later. It stands instead of Coalesce. 0: at once.
	Delay time.Duration
}

// String is the form used in messages: "IPPool", "WorkloadEndpoint(ns1/node1-*)".
func (r Range) String() string {
	switch {
	case r.NamePrefix != "":
		return api.Key{Kind: r.Kind, Namespace: r.Namespace, Name: r.NamePrefix + "*"}.String()
	case r.Namespace != "":
		return api.Key{Kind: r.Kind, Namespace: r.Namespace, Name: "*"}.String()
	default:
		return string(r.Kind)
	}
}

// Snapshot is the answer to a List: everything in a Range at one Revision.
type Snapshot struct {
	Entries  []Entry
	Invalid  []Invalid
	Revision Revision
}

// Event is one change seen by a Watch. Exactly one of Entry, Deleted and Invalid
// is meaningful.
type Event struct {
	Key api.Key
	// Path is the raw key in the store of what has no Key, because its path can't
	// be parsed; empty for everything else.
	Path    string
	Entry   *Entry   // the object was created or changed
	Deleted bool     // the object is gone
	Invalid *Invalid // the object was written with a value that can't be read
	// Revision is the revision of the change.
	Revision Revision
}

// Watch is a running watch. Events arrive in batches in the order of their
// revisions; one batch never splits a transaction. Where the range has Coalesce,
// only the events of one key are in order. The channel is closed when
// the watch ends; Err then says why (ErrCompacted, a connection error, or nil
// after Stop).
type Watch interface {
	Events() <-chan []Event
	Err() error
	Stop()
}

// Client reads and writes one store. All methods are safe for concurrent use.
//
// Errors: ErrNotFound, ErrAlreadyExists and ErrConflict say what the store
// holds; ErrUnavailable (possibly wrapped with its cause) that it did not
// answer, and the outcome of a write is then unknown; ErrUnauthorized that it
// refused the credentials; ErrInvalid that the stored value can't be read. All
// are tested with errors.Is. A request whose own context ended also matches
// context.Canceled or context.DeadlineExceeded.
type Client interface {
	// Get reads one object: ErrNotFound when there is none. Every object read has
	// the decimal revision as its metadata.resourceVersion.
	Get(ctx context.Context, key api.Key) (Entry, error)
	// List reads a range at one revision, sorted by key.
	List(ctx context.Context, r Range) (Snapshot, error)
	// Txn applies all operations, at most MaxTxnOps on as many different keys, or
	// none, and returns the revision written.
	// On a conflict the error is a *ConflictError with the present state of every
	// key named by the operations, so that a retry needs no read.
	Txn(ctx context.Context, ops ...Op) (Revision, error)
	// Watch follows a range from just after a revision, usually that of a
	// Snapshot. ErrCompacted (from Watch.Err) when that revision is gone, or when
	// the store has never reached it: its history is another one than the
	// caller's. A lost connection ends the watch with ErrUnavailable; the caller
	// then lists again, since the store may come back with another history.
	Watch(ctx context.Context, r Range, after Revision) (Watch, error)
	// Close releases the connection.
	Close() error
}
