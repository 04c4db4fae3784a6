package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// jsonValue is a parsed JSON text that keeps the order of its fields and the
// exact text of its scalars.
type jsonValue struct {
	raw     []byte // the text of the whole value
	kind    byte   // '{', '[', '"', 't', 'f', 'n', or '0' for a number
	members []jsonMember
	elems   []*jsonValue
}

type jsonMember struct {
	name  string
	text  []byte // the name as written, with quotes
	value *jsonValue
}

// member finds a field; the last one wins, as for encoding/json.
func (v *jsonValue) member(name string) *jsonValue {
	if v == nil {
		return nil
	}
	for i := len(v.members) - 1; i >= 0; i-- {
		if v.members[i].name == name {
			return v.members[i].value
		}
	}
	return nil
}

// text gives the content of a string value.
func (v *jsonValue) text() (string, bool) {
	if v == nil || v.kind != '"' {
		return "", false
	}
	var s string
	if err := json.Unmarshal(v.raw, &s); err != nil {
		return "", false
	}
	return s, true
}

// parseJSON parses one JSON value.
func parseJSON(text []byte) (*jsonValue, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, errors.New("broken JSON: nothing in it")
	}
	if !json.Valid(text) {
		var discard any
		err := json.Unmarshal(text, &discard)
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("broken JSON at byte %d: %w", syntax.Offset, err)
		}
		return nil, fmt.Errorf("broken JSON: %w", err)
	}
	return parseValidJSON(text), nil
}

// parseValidJSON parses one JSON value that is known to be valid.
func parseValidJSON(text []byte) *jsonValue {
	p := jsonParser{text: text}
	return p.value()
}

// jsonParser walks a valid text: it need not check, and the depth is bounded.
type jsonParser struct {
	text []byte
	pos  int
}

func (p *jsonParser) skip() byte {
	for {
		switch c := p.text[p.pos]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
			p.pos++
		default:
			return c
		}
	}
}

func (p *jsonParser) value() *jsonValue {
	c := p.skip()
	start := p.pos
	v := &jsonValue{kind: c}
	switch c {
	case '{':
		p.pos++
		for p.skip() != '}' {
			text := p.str()
			v.members = append(v.members, jsonMember{name: memberName(text), text: text, value: p.value()})
		}
		p.pos++
	case '[':
		p.pos++
		for p.skip() != ']' {
			v.elems = append(v.elems, p.value())
		}
		p.pos++
	case '"':
		p.str()
	default:
		if c == '-' || c >= '0' && c <= '9' {
			v.kind = '0'
		}
		for p.pos < len(p.text) && strings.IndexByte(" \t\r\n,]}", p.text[p.pos]) < 0 {
			p.pos++
		}
	}
	v.raw = p.text[start:p.pos]
	return v
}

// memberName is the content of a valid JSON string.
func memberName(text []byte) string {
	if bytes.IndexByte(text, '\\') < 0 && utf8.Valid(text) {
		return string(text[1 : len(text)-1])
	}
	var name string
	_ = json.Unmarshal(text, &name) // valid: checked by json.Valid
	return name
}

// str reads a string with its quotes.
func (p *jsonParser) str() []byte {
	start := p.pos
	for p.pos++; p.text[p.pos] != '"'; p.pos++ {
		if p.text[p.pos] == '\\' {
			p.pos++
		}
	}
	p.pos++
	return p.text[start:p.pos]
}
