// Package rawjson reads JSON down to the members of an object, leaves their values
// as they stand, and writes JSON strings. The CNI plugin uses it: to start
// encoding/json costs more there than the whole call. What is JSON here is what is
// JSON to encoding/json; the fuzz tests compare the two.
package rawjson

import (
	"strconv"
	"unicode/utf8"
)

// Kind is the kind of a value, in JSON's words.
type Kind string

// The kinds of values.
const (
	Object Kind = "object"
	Array  Kind = "array"
	String Kind = "string"
	Number Kind = "number"
	Bool   Kind = "bool"
	Null   Kind = "null"
	Absent Kind = "" // of the zero Value
)

// Value is one JSON value that Parse found valid. The zero Value is none.
type Value struct{ raw []byte }

// Member is one member of an object.
type Member struct {
	Name  string
	Value Value
}

// SyntaxError says where a document stops being JSON.
type SyntaxError struct {
	Offset int
	Reason string
}

// Error names the place.
func (e *SyntaxError) Error() string {
	return e.Reason + " at byte " + strconv.Itoa(e.Offset)
}

// Parse reads one value; nothing but space may stand around it. The value refers
// to doc.
func Parse(doc []byte) (Value, error) {
	s := scanner{data: doc}
	s.space()
	first := s.pos
	if err := s.value(); err != nil {
		return Value{}, err
	}
	last := s.pos
	s.space()
	if s.pos < len(doc) {
		return Value{}, s.unexpected("after the end of the value")
	}
	return Value{doc[first:last]}, nil
}

// Raw is the value as it stands, without space around it.
func (v Value) Raw() []byte { return v.raw }

// Kind tells what the value is.
func (v Value) Kind() Kind {
	if len(v.raw) == 0 {
		return Absent
	}
	switch v.raw[0] {
	case '{':
		return Object
	case '[':
		return Array
	case '"':
		return String
	case 't', 'f':
		return Bool
	case 'n':
		return Null
	}
	return Number
}

// Members lists the members of an object, in their order. A name that stands there
// twice is listed twice; for encoding/json the last one holds.
func (v Value) Members() []Member {
	if v.Kind() != Object {
		return nil
	}
	// The value is valid, so none of these steps fails.
	members := make([]Member, 0, 16)
	s := scanner{data: v.raw, pos: 1}
	for s.space(); s.data[s.pos] != '}'; s.space() {
		if s.data[s.pos] == ',' {
			s.pos++
			s.space()
		}
		name := s.take()
		s.space()
		s.pos++ // the colon
		s.space()
		members = append(members, Member{name.Text(), s.take()})
	}
	return members
}

// take reads the next value of a document known to be valid.
func (s *scanner) take() Value {
	first := s.pos
	_ = s.value()
	return Value{s.data[first:s.pos]}
}

// Text is the content of a string; empty for another kind.
func (v Value) Text() string {
	if v.Kind() != String {
		return ""
	}
	inner := v.raw[1 : len(v.raw)-1]
	if isPlain(inner) {
		return string(inner)
	}
	return unescape(inner)
}

// isPlain reports whether a string's content stands for itself.
func isPlain(inner []byte) bool {
	for _, c := range inner {
		if c == '\\' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// AppendCompact appends a value without the space in it, on one line.
func AppendCompact(dst []byte, v Value) []byte {
	inString := false
	for i := 0; i < len(v.raw); i++ {
		c := v.raw[i]
		switch {
		case inString && c == '\\':
			dst = append(dst, c)
			i++
			c = v.raw[i]
		case c == '"':
			inString = !inString
		case !inString && isSpace(c):
			continue
		}
		dst = append(dst, c)
	}
	return dst
}
