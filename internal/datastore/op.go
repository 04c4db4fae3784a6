package datastore

import (
	"fmt"

	"tortie/internal/api"
)

// MaxTxnOps is how many operations one transaction may have: etcd's default
// limit (--max-txn-ops).
const MaxTxnOps = 128

// OpKind says what an Op does.
type OpKind int

// The operations of a transaction.
const (
	// OpCreate writes an object that must not exist.
	OpCreate OpKind = iota + 1
	// OpUpdate writes an object that must be at the entry's revision.
	OpUpdate
	// OpPut writes an object whatever was there before.
	OpPut
	// OpDelete removes an object that must be at the given revision.
	OpDelete
	// OpDeleteAny removes an object, or succeeds when there is none.
	OpDeleteAny
	// OpCheck changes nothing: the object must be at the given revision, or
	// absent when that is 0.
	OpCheck
)

// String is the operation as a verb, for messages.
func (k OpKind) String() string {
	switch k {
	case OpCreate:
		return "create"
	case OpUpdate:
		return "update"
	case OpPut:
		return "put"
	case OpDelete, OpDeleteAny:
		return "delete"
	case OpCheck:
		return "check"
	default:
		return fmt.Sprintf("operation %d", int(k))
	}
}

// Op is one operation of a transaction. Make it with Create, Update, Put,
// Delete, DeleteAny or Check.
type Op struct {
	Kind     OpKind
	Key      api.Key
	Object   api.Object
	Unknown  api.Unknown
	Revision Revision
}

// Create writes obj under its key, which must be absent.
func Create(key api.Key, obj api.Object) Op {
	return Op{Kind: OpCreate, Key: key, Object: obj}
}

// Update writes back an entry that was read and changed; the stored object must
// still be at the revision that was read.
func Update(e Entry) Op {
	return Op{Kind: OpUpdate, Key: e.Key, Object: e.Object, Unknown: e.Unknown, Revision: e.Revision}
}

// Put writes obj whatever the key held before. It loses fields that our types
// don't know: use it only for objects this system alone writes.
func Put(key api.Key, obj api.Object) Op {
	return Op{Kind: OpPut, Key: key, Object: obj}
}

// Delete removes the object, which must still be at rev.
func Delete(key api.Key, rev Revision) Op {
	return Op{Kind: OpDelete, Key: key, Revision: rev}
}

// DeleteAny removes the object at whatever revision, and succeeds when absent.
func DeleteAny(key api.Key) Op { return Op{Kind: OpDeleteAny, Key: key} }

// Check makes the transaction depend on a key it doesn't write: it must be at
// rev, or absent when rev is 0.
func Check(key api.Key, rev Revision) Op {
	return Op{Kind: OpCheck, Key: key, Revision: rev}
}
