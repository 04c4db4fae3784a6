package api

// plainJSON reads JSON of the form that encoders of programs write: no space, no
// escapes, nothing but ASCII, integers that are not negative. Whatever else comes
// is refused: from then on nothing is read, what was read counts for nothing, and
// the caller asks a decoder that knows all of JSON.
type plainJSON struct {
	text    []byte
	pos     int
	refused bool
}

// complete reports whether all of the text was read.
func (p *plainJSON) complete() bool { return !p.refused && p.pos == len(p.text) }

func (p *plainJSON) refuse() { p.refused = true }

// take skips a byte, if it comes next.
func (p *plainJSON) take(c byte) bool {
	if p.refused || p.pos >= len(p.text) || p.text[p.pos] != c {
		return false
	}
	p.pos++
	return true
}

func (p *plainJSON) want(c byte) {
	if !p.take(c) {
		p.refuse()
	}
}

// word skips a word, if it comes next.
func (p *plainJSON) word(w string) bool {
	if p.refused || len(p.text)-p.pos < len(w) || string(p.text[p.pos:p.pos+len(w)]) != w {
		return false
	}
	p.pos += len(w)
	return true
}

func (p *plainJSON) null() bool { return p.word("null") }

func (p *plainJSON) boolean() bool {
	if p.word("true") {
		return true
	}
	if !p.word("false") {
		p.refuse()
	}
	return false
}

// str reads a string and gives what is between its quotes.
func (p *plainJSON) str() []byte {
	p.want('"')
	if p.refused {
		return nil
	}
	start := p.pos
	for ; p.pos < len(p.text); p.pos++ {
		switch c := p.text[p.pos]; {
		case c == '"':
			p.pos++
			return p.text[start : p.pos-1]
		case c < ' ' || c == '\\' || c >= 0x80:
			p.refuse()
			return nil
		}
	}
	p.refuse()
	return nil
}

// mostDigits is how many digits fit into a number whatever they are.
const mostDigits = 19

func (p *plainJSON) number() (n uint64) {
	if p.refused {
		return 0
	}
	start := p.pos
	for p.pos < len(p.text) && p.text[p.pos] >= '0' && p.text[p.pos] <= '9' {
		n = 10*n + uint64(p.text[p.pos]-'0')
		p.pos++
	}
	digits := p.pos - start
	if digits == 0 || digits > mostDigits || digits > 1 && p.text[start] == '0' {
		p.refuse()
	}
	return n
}

// ordinal reads a number that fits into an int of any machine.
func (p *plainJSON) ordinal() int {
	n := p.number()
	if n > 1<<31-1 {
		p.refuse()
		return 0
	}
	return int(n)
}

// list calls elem to read each element of a list.
func (p *plainJSON) list(elem func()) {
	p.want('[')
	if p.take(']') {
		return
	}
	for !p.refused {
		elem()
		if p.take(']') {
			return
		}
		p.want(',')
	}
}

// object calls field to read the value of each field of an object.
func (p *plainJSON) object(field func(name []byte)) {
	p.want('{')
	if p.take('}') {
		return
	}
	for !p.refused {
		name := p.str()
		p.want(':')
		if p.refused {
			return
		}
		field(name)
		if p.take('}') {
			return
		}
		p.want(',')
	}
}

// fieldSet is a set of the fields of a struct.
type fieldSet uint32

// once refuses a field that was there before: the decoder puts the second into
// what it made of the first.
func (p *plainJSON) once(seen *fieldSet, field uint) {
	if *seen&(1<<field) != 0 {
		p.refuse()
	}
	*seen |= 1 << field
}
