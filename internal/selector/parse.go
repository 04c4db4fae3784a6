package selector

import (
	"fmt"
	"slices"
	"strings"
)

// maxDepth bounds how deep parentheses and negations nest, and so the stack.
const maxDepth = 200

// maxLabel is the longest name of a label.
const maxLabel = 512

// ParseError says where a selector stops making sense.
type ParseError struct {
	Text   string // the whole selector
	Column int    // in bytes, from 1
	Reason string
}

// Error is `selector "a = 'b'": column 3: want ==, …`.
func (e *ParseError) Error() string { return fmt.Sprintf("selector %q: %s", e.Text, e.Where()) }

// Where is the error without the text of the selector, for messages that show it.
func (e *ParseError) Where() string { return fmt.Sprintf("column %d: %s", e.Column, e.Reason) }

// parser reads a selector by recursive descent; each method consumes one rule of
// the grammar and the space after it.
type parser struct {
	text  string
	pos   int
	depth int
}

func (p *parser) fail(pos int, format string, args ...any) error {
	return &ParseError{Text: p.text, Column: pos + 1, Reason: fmt.Sprintf(format, args...)}
}

func (p *parser) parse() (node, error) {
	p.space()
	if p.pos == len(p.text) {
		return constant{"all"}, nil
	}
	n, err := p.group(opOr)
	if err != nil {
		return nil, err
	}
	if p.pos < len(p.text) {
		return nil, p.fail(p.pos, "want &&, || or the end, got %s", p.next())
	}
	if depth(n) > maxDepth { // the canonical text must parse, too
		return nil, p.fail(0, "operators are nested deeper than %d", maxDepth)
	}
	return n, nil
}

// group reads operands joined by op; those of || are groups of &&.
func (p *parser) group(op string) (node, error) {
	operand := p.operand
	if op == opOr {
		operand = func() (node, error) { return p.group(opAnd) }
	}
	var all []node
	for {
		n, err := operand()
		if err != nil {
			return nil, err
		}
		if g, ok := n.(group); ok && g.op == op {
			all = append(all, g.operands...)
		} else {
			all = append(all, n)
		}
		if !p.accept(op) {
			break
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return group{op: op, operands: all}, nil
}

// operand reads a negation, a parenthesis, a function or a comparison.
func (p *parser) operand() (node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail(p.pos, "parentheses and negations are nested deeper than %d", maxDepth)
	}
	defer func() { p.depth-- }()
	switch {
	case p.accept("!"):
		n, err := p.operand()
		if err != nil {
			return nil, err
		}
		return not{n}, nil
	case p.accept("("):
		n, err := p.group(opOr)
		if err != nil {
			return nil, err
		}
		return n, p.expect(")")
	}
	start := p.pos
	name := p.word()
	if name == "" {
		return nil, p.fail(start, "want a label, has(…), all(), ! or (, got %s", p.next())
	}
	if p.accept("(") {
		return p.function(start, name)
	}
	if err := p.checkLabel(start, name); err != nil {
		return nil, err
	}
	return p.comparison(name)
}

func (p *parser) function(start int, name string) (node, error) {
	switch name {
	case "all", "global":
		return constant{name}, p.expect(")")
	case "has":
		at := p.pos
		label := p.word()
		if err := p.checkLabel(at, label); err != nil {
			return nil, err
		}
		return has{label}, p.expect(")")
	}
	return nil, p.fail(start, "unknown function %q, want all, global or has", name)
}

// comparison reads what follows a label.
func (p *parser) comparison(label string) (node, error) {
	start := p.pos
	for _, op := range []string{opEqual, opNotEqual} {
		if p.accept(op) {
			return p.compare(label, op)
		}
	}
	switch word := p.word(); word {
	case "in":
		return p.set(label, false)
	case "contains":
		return p.compare(label, opContains)
	case "not":
		if p.word() == "in" {
			return p.set(label, true)
		}
	case "starts", "ends":
		if p.word() == "with" {
			return p.compare(label, word+" with")
		}
	}
	p.pos = start
	return nil, p.fail(start, "want ==, !=, in, not in, contains, starts with or ends with, got %s", p.next())
}

func (p *parser) compare(label, op string) (node, error) {
	value, err := p.str()
	if err != nil {
		return nil, err
	}
	return compare{label: label, op: op, value: value}, nil
}

func (p *parser) set(label string, negated bool) (node, error) {
	if err := p.expect("{"); err != nil {
		return nil, err
	}
	n := inSet{label: label, negated: negated}
	for !p.accept("}") {
		if len(n.values) > 0 {
			if !p.accept(",") {
				return nil, p.fail(p.pos, "want , or }, got %s", p.next())
			}
		}
		value, err := p.str()
		if err != nil {
			return nil, err
		}
		n.values = append(n.values, value)
	}
	slices.Sort(n.values)
	n.values = slices.Compact(n.values)
	return n, nil
}

// str reads a string in quotes.
func (p *parser) str() (string, error) {
	if p.pos == len(p.text) || (p.text[p.pos] != '"' && p.text[p.pos] != '\'') {
		return "", p.fail(p.pos, "want a string in quotes, got %s", p.next())
	}
	rest := p.text[p.pos+1:]
	end := strings.IndexByte(rest, p.text[p.pos])
	if end < 0 {
		return "", p.fail(p.pos, "the string has no closing %c", p.text[p.pos])
	}
	p.pos += end + 2
	p.space()
	return rest[:end], nil
}

// word reads a run of the characters that labels consist of.
func (p *parser) word() string {
	start := p.pos
	for p.pos < len(p.text) && isLabelByte(p.text[p.pos]) {
		p.pos++
	}
	word := p.text[start:p.pos]
	p.space()
	return word
}

func (p *parser) checkLabel(at int, label string) error {
	switch {
	case label == "":
		return p.fail(at, "want a label, got %s", p.next())
	case len(label) > maxLabel:
		return p.fail(at, "the label is longer than %d characters", maxLabel)
	}
	return nil
}

func isLabelByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_./-", c) >= 0
}

func (p *parser) accept(token string) bool {
	if !strings.HasPrefix(p.text[p.pos:], token) {
		return false
	}
	p.pos += len(token)
	p.space()
	return true
}

func (p *parser) expect(token string) error {
	if !p.accept(token) {
		return p.fail(p.pos, "want %s, got %s", token, p.next())
	}
	return nil
}

func (p *parser) space() {
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.pos]) >= 0 {
		p.pos++
	}
}

// next shows what stands at the position, for messages.
func (p *parser) next() string {
	rest := p.text[p.pos:]
	if rest == "" {
		return "the end"
	}
	if end := strings.IndexAny(rest, " \t\r\n"); end > 0 {
		rest = rest[:end]
	}
	const most = 20
	if runes := []rune(rest); len(runes) > most {
		rest = string(runes[:most]) + "…"
	}
	return fmt.Sprintf("%q", rest)
}
