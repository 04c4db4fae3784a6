// Package selector is the language in which resources choose others by their
// labels:
//
//	role == "db" && env in {"prod", "stage"} && !has(canary)
//
// The operators are ==, !=, in, not in, contains, starts with, ends with, has(),
// all(), global(), !, && and ||; && binds tighter than ||, ! tightest. The empty
// selector is all(). Strings stand in single or double quotes and know no escapes.
package selector

import (
	"crypto/sha256"
	"encoding/base64"
)

// Selector is a parsed selector. It is immutable and safe for concurrent use.
type Selector struct {
	root node
	text string // canonical
}

// Parse reads a selector. The error is a *ParseError.
func Parse(text string) (*Selector, error) {
	p := parser{text: text}
	root, err := p.parse()
	if err != nil {
		return nil, err
	}
	return &Selector{root: root, text: render(root)}, nil
}

// Matches tells whether a resource with these labels is chosen. A label that is
// absent differs from every value: != and "not in" match, the other comparisons
// don't.
func (s *Selector) Matches(labels map[string]string) bool { return s.root.matches(labels) }

// String is the canonical text: selectors that differ only in spaces, quotes,
// superfluous parentheses or the order within a set have the same. It parses to
// an equal selector.
func (s *Selector) String() string { return s.text }

// UsesGlobal tells whether global() stands anywhere in the selector.
func (s *Selector) UsesGlobal() bool { return usesGlobal(s.root) }

// ID names the selector by a hash of its canonical text: equal texts have equal
// IDs, in every program and version. It is short and safe in file names and keys.
func (s *Selector) ID() string {
	sum := sha256.Sum256([]byte(s.text))
	return "s:" + base64.RawURLEncoding.EncodeToString(sum[:18])
}
