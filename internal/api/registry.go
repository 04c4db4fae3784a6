package api

import (
	"github.com/projectcalico/api/pkg/lib/numorstring"
)

// ASN is a 4-byte BGP autonomous system number (RFC 6793).
type ASN = numorstring.ASNumber

// Protocol is an IP protocol by name or number.
type Protocol = numorstring.Protocol

// Unknown holds the fields of a stored value that our types don't have. Its zero
// value holds none.
type Unknown struct {
	raw []byte // the stored JSON, kept only when it has such fields
}

// Empty reports whether there are no unknown fields.
func (u Unknown) Empty() bool { return len(u.raw) == 0 }

// Info describes one kind.
type Info struct {
	Kind       Kind
	Plural     string   // as in the etcd key and on the command line: "ippools"
	Aliases    []string // further names calicoctl accepts, lower case
	Namespaced bool
	// New makes an empty object with its TypeMeta set.
	New func() Object
}

// Registry knows every kind: how it is named, stored, defaulted and validated.
// It is immutable and safe for concurrent use.
type Registry struct {
	kinds  []Info
	byName map[string]int // lower-case kind, plural and aliases → index
}
