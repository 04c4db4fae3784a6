package selector

import (
	"slices"
	"strings"
)

// node is one operation of a selector.
type node interface {
	matches(labels map[string]string) bool
	// write appends the canonical text.
	write(b *strings.Builder)
}

// constant is all() or global(). Both match any labels: global() is about where
// a resource is (in no namespace), which its user decides.
type constant struct{ name string }

// has is has(label).
type has struct{ label string }

// compare is a comparison of a label with a string.
type compare struct {
	label, op, value string
}

// inSet is "label in {…}", or "label not in {…}" when negated. Values are sorted
// and differ from one another.
type inSet struct {
	label   string
	values  []string
	negated bool
}

// not is !operand.
type not struct{ operand node }

// group is operands joined by && or ||, at least two. No operand is a group with
// the same operator.
type group struct {
	op       string
	operands []node
}

// The comparison operators.
const (
	opEqual      = "=="
	opNotEqual   = "!="
	opContains   = "contains"
	opStartsWith = "starts with"
	opEndsWith   = "ends with"
	opAnd        = "&&"
	opOr         = "||"
)

func (n constant) matches(map[string]string) bool { return true }

func (n has) matches(labels map[string]string) bool {
	_, ok := labels[n.label]
	return ok
}

func (n compare) matches(labels map[string]string) bool {
	value, ok := labels[n.label]
	switch n.op {
	case opNotEqual:
		return !ok || value != n.value
	case opContains:
		return ok && strings.Contains(value, n.value)
	case opStartsWith:
		return ok && strings.HasPrefix(value, n.value)
	case opEndsWith:
		return ok && strings.HasSuffix(value, n.value)
	}
	return ok && value == n.value
}

func (n inSet) matches(labels map[string]string) bool {
	value, ok := labels[n.label]
	if ok {
		_, ok = slices.BinarySearch(n.values, value)
	}
	return ok != n.negated
}

func (n not) matches(labels map[string]string) bool { return !n.operand.matches(labels) }

func (n group) matches(labels map[string]string) bool {
	for _, operand := range n.operands {
		if operand.matches(labels) != (n.op == opAnd) {
			return n.op == opOr
		}
	}
	return n.op == opAnd
}

// depth is how deep the parser goes to read the canonical text of n.
func depth(n node) int {
	switch n := n.(type) {
	case not:
		return 1 + depth(n.operand)
	case group:
		deepest := 0
		for _, operand := range n.operands {
			deepest = max(deepest, depth(operand))
		}
		return 1 + deepest
	}
	return 1
}

func usesGlobal(n node) bool {
	switch n := n.(type) {
	case constant:
		return n.name == "global"
	case not:
		return usesGlobal(n.operand)
	case group:
		return slices.ContainsFunc(n.operands, usesGlobal)
	}
	return false
}

func render(n node) string {
	var b strings.Builder
	n.write(&b)
	return b.String()
}

func (n constant) write(b *strings.Builder) { b.WriteString(n.name + "()") }

func (n has) write(b *strings.Builder) { b.WriteString("has(" + n.label + ")") }

func (n compare) write(b *strings.Builder) {
	b.WriteString(n.label + " " + n.op + " " + quote(n.value))
}

func (n inSet) write(b *strings.Builder) {
	b.WriteString(n.label)
	if n.negated {
		b.WriteString(" not")
	}
	b.WriteString(" in {")
	for i, v := range n.values {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quote(v))
	}
	b.WriteByte('}')
}

func (n not) write(b *strings.Builder) {
	b.WriteByte('!')
	n.operand.write(b)
}

func (n group) write(b *strings.Builder) {
	b.WriteByte('(')
	for i, operand := range n.operands {
		if i > 0 {
			b.WriteString(" " + n.op + " ")
		}
		operand.write(b)
	}
	b.WriteByte(')')
}

// quote puts a string in double quotes, or in single ones when it contains a
// double one. No string of a parsed selector contains both.
func quote(s string) string {
	if strings.Contains(s, `"`) {
		return "'" + s + "'"
	}
	return `"` + s + `"`
}
