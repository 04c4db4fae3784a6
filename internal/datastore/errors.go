package datastore

import (
	"errors"
	"fmt"

	"tortie/internal/api"
)

// The closed set of error classes. Callers switch on these, never on text.
var (
	ErrNotFound      = errors.New("not found")
	ErrAlreadyExists = errors.New("already exists")
	ErrConflict      = errors.New("changed by someone else")
	ErrCompacted     = errors.New("revision compacted")
	ErrUnavailable   = errors.New("datastore unavailable")
	ErrUnauthorized  = errors.New("datastore refused the credentials")
	ErrInvalid       = errors.New("stored value can't be read")
)

// ConflictError says which operation of a transaction found the store in
// another state than it required. errors.Is matches it with ErrNotFound,
// ErrAlreadyExists or ErrConflict as fits the first failed operation.
type ConflictError struct {
	// Key is that of the first operation whose condition didn't hold.
	Key api.Key
	// Class is ErrNotFound, ErrAlreadyExists or ErrConflict.
	Class error
	// Current has the present state of every key of the transaction; a key that
	// is absent from the store is absent from the map.
	Current map[api.Key]Entry
	// Invalid has the keys of the transaction that exist with a value that can't
	// be read. They are absent from Current, and no retry helps against them.
	Invalid []Invalid
}

// Error names the key and what is wrong with it.
func (e *ConflictError) Error() string {
	for i := range e.Invalid {
		if e.Invalid[i].Key == e.Key {
			return fmt.Sprintf("%s: %v: %v", e.Key, e.Class, &e.Invalid[i])
		}
	}
	return fmt.Sprintf("%s: %v", e.Key, e.Class)
}

// Unwrap makes errors.Is see the class. Every ConflictError is also an
// ErrConflict.
func (e *ConflictError) Unwrap() []error {
	if errors.Is(e.Class, ErrConflict) {
		return []error{ErrConflict}
	}
	return []error{e.Class, ErrConflict}
}
