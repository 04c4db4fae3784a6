package api

import (
	"fmt"
	"slices"
	"strings"
)

// ValidationError says everything that is wrong with one object.
type ValidationError struct {
	// Object names it: "IPPool(pool-v4)".
	Object   string
	Problems []Problem
}

// Problem is one thing wrong with one field.
type Problem struct {
	Field  string // its path: "spec.cidr", "spec.ingress[2].protocol"
	Value  string // its value, empty when the field is missing or unknown
	Reason string // what is wrong, with the allowed values
}

// String is `spec.blockSize: 33: want 20 to 32`.
func (p Problem) String() string {
	var parts []string
	if p.Field != "" {
		parts = append(parts, p.Field)
	}
	if p.Value != "" {
		parts = append(parts, p.Value)
	}
	return strings.Join(append(parts, p.Reason), ": ")
}

// Error lists all problems in one line.
func (e *ValidationError) Error() string {
	texts := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		texts[i] = p.String()
	}
	text := strings.Join(texts, "; ")
	if e.Object == "" {
		return text
	}
	return e.Object + ": " + text
}

// checker collects the problems of one object. Its methods take the path of a
// field and report at most one problem of it.
type checker struct {
	problems []Problem
	// lenient passes over fields that are unknown or given twice.
	lenient bool
}

// bad reports a problem; a string value is shown in quotes.
func (c *checker) bad(field string, value any, format string, args ...any) {
	text := fmt.Sprint(value)
	if _, isText := value.(string); isText {
		text = fmt.Sprintf("%q", value)
	}
	c.problems = append(c.problems, Problem{Field: field, Value: text, Reason: fmt.Sprintf(format, args...)})
}

// missing reports a field that must be set.
func (c *checker) missing(field, format string, args ...any) {
	c.problems = append(c.problems, Problem{Field: field, Reason: fmt.Sprintf(format, args...)})
}

// sort puts the problems in the order of their fields, where a check walks a map.
func (c *checker) sort() {
	slices.SortStableFunc(c.problems, func(a, b Problem) int { return strings.Compare(a.Field, b.Field) })
}

// err is nil when no problem was found.
func (c *checker) err(object string) error {
	if len(c.problems) == 0 {
		return nil
	}
	return &ValidationError{Object: object, Problems: c.problems}
}

// at is the path of an element of a list.
func at(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }
