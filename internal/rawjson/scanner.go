package rawjson

import (
	"strconv"
	"unicode/utf8"
)

// maxDepth is how deep arrays and objects may be nested, as in encoding/json.
const maxDepth = 10000

// scanner walks over a document. Each of its functions leaves pos behind what it
// read.
type scanner struct {
	data       []byte
	pos, depth int
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// peek is the next byte, 0 at the end; no valid document has a 0 in it.
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

func (s *scanner) space() {
	for s.pos < len(s.data) && isSpace(s.data[s.pos]) {
		s.pos++
	}
}

// unexpected is the error at the present place.
func (s *scanner) unexpected(where string) error {
	if s.pos >= len(s.data) {
		return &SyntaxError{Offset: s.pos, Reason: "unexpected end"}
	}
	r, _ := utf8.DecodeRune(s.data[s.pos:])
	return &SyntaxError{Offset: s.pos, Reason: "unexpected " + strconv.QuoteRune(r) + " " + where}
}

func (s *scanner) value() error {
	switch c := s.peek(); c {
	case '{':
		return s.list('}', s.member)
	case '[':
		return s.list(']', s.value)
	case '"':
		return s.string()
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		if c == '-' || isDigit(c) {
			return s.number()
		}
		return s.unexpected("where a value begins")
	}
}

// list reads an array or object up to the byte that ends it.
func (s *scanner) list(end byte, element func() error) error {
	if s.depth++; s.depth > maxDepth {
		return &SyntaxError{Offset: s.pos, Reason: "nested too deeply"}
	}
	s.pos++
	if s.space(); s.peek() == end {
		s.pos++
		s.depth--
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.pos++
			s.space()
		case end:
			s.pos++
			s.depth--
			return nil
		default:
			return s.unexpected("after an element")
		}
	}
}

// member reads a name, the colon and the value.
func (s *scanner) member() error {
	if s.peek() != '"' {
		return s.unexpected("where the name of a member begins")
	}
	if err := s.string(); err != nil {
		return err
	}
	if s.space(); s.peek() != ':' {
		return s.unexpected("after the name of a member")
	}
	s.pos++
	s.space()
	return s.value()
}

func (s *scanner) string() error {
	for s.pos++; s.pos < len(s.data); s.pos++ {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return nil
		case c < ' ':
			return s.unexpected("in a string")
		case c == '\\':
			if err := s.escape(); err != nil {
				return err
			}
		}
	}
	return s.unexpected("in a string")
}

// escape reads an escape but for its last byte.
func (s *scanner) escape() error {
	s.pos++
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return nil
	case 'u':
		for range 4 {
			s.pos++
			if c := s.peek(); !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
				return s.unexpected("in a \\u escape")
			}
		}
		return nil
	}
	return s.unexpected("in an escape")
}

func (s *scanner) word(word string) error {
	for i := range len(word) {
		if s.peek() != word[i] {
			return s.unexpected("in " + word)
		}
		s.pos++
	}
	return nil
}

func (s *scanner) number() error {
	if s.peek() == '-' {
		s.pos++
	}
	if s.peek() == '0' { // no other digit may follow
		s.pos++
	} else if err := s.digits(); err != nil {
		return err
	}
	if s.peek() == '.' {
		s.pos++
		if err := s.digits(); err != nil {
			return err
		}
	}
	if s.peek()|0x20 != 'e' {
		return nil
	}
	s.pos++
	if c := s.peek(); c == '+' || c == '-' {
		s.pos++
	}
	return s.digits()
}

func (s *scanner) digits() error {
	if !isDigit(s.peek()) {
		return s.unexpected("in a number")
	}
	for isDigit(s.peek()) {
		s.pos++
	}
	return nil
}
