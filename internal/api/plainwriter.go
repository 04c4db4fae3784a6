package api

import (
	"encoding/binary"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// plainWriter writes JSON of the form that plainJSON reads, byte for byte as the
// JSON encoder does. What it does not write is refused: from then on what is
// written counts for nothing, and the caller asks the encoder.
type plainWriter struct {
	out     []byte
	refused bool
}

// newPlainWriter makes a writer for a text of about that many bytes.
func newPlainWriter(size int) plainWriter { return plainWriter{out: make([]byte, 0, size)} }

// text is what was written; false if something was refused.
func (w *plainWriter) text() ([]byte, bool) { return w.out, !w.refused }

func (w *plainWriter) refuse() { w.refused = true }

func (w *plainWriter) raw(s string) { w.out = append(w.out, s...) }

// next separates what follows from what stands before it in a list or an object.
func (w *plainWriter) next() {
	if last := w.out[len(w.out)-1]; last != '{' && last != '[' {
		w.out = append(w.out, ',')
	}
}

// field begins a field of an object. The name needs no escapes.
func (w *plainWriter) field(name string) {
	w.next()
	w.out = append(append(append(w.out, '"'), name...), '"', ':')
}

func (w *plainWriter) null() { w.raw("null") }

func (w *plainWriter) boolean(b bool) { w.out = strconv.AppendBool(w.out, b) }

func (w *plainWriter) integer(n int) { w.out = strconv.AppendInt(w.out, int64(n), 10) }

func (w *plainWriter) number(n uint64) { w.out = strconv.AppendUint(w.out, n, 10) }

// str writes a string, and refuses one that the encoder escapes anything in, or
// that is not ASCII.
func (w *plainWriter) str(s string) {
	first := len(w.out) + 1
	w.out = append(append(append(w.out, '"'), s...), '"')
	if !plainText(w.out[first : first+len(s)]) {
		w.refuse()
	}
}

// plainText reports whether the encoder writes a text as it stands.
func plainText(text []byte) bool {
	if len(text) < 8 {
		word := each * 'x'
		for _, c := range text {
			word = word<<8 | uint64(c)
		}
		return plainBytes(word)
	}
	for i := 0; i < len(text)-8; i += 8 {
		if !plainBytes(binary.LittleEndian.Uint64(text[i:])) {
			return false
		}
	}
	return plainBytes(binary.LittleEndian.Uint64(text[len(text)-8:]))
}

// each has a 1 in each of its eight bytes.
const each uint64 = 0x0101010101010101

// plainBytes looks at eight bytes at once: the topmost bit of one of them is set
// in the end if that is one of those sought.
func plainBytes(b uint64) bool {
	quote, backslash, less, greater, and := b^each*'"', b^each*'\\', b^each*'<', b^each*'>', b^each*'&'
	found := b | (b-each*' ')&^b | (quote-each)&^quote | (backslash-each)&^backslash |
		(less-each)&^less | (greater-each)&^greater | (and-each)&^and
	return found&(each<<7) == 0
}

func (w *plainWriter) optionalStr(s *string) {
	if s == nil {
		w.null()
		return
	}
	w.str(*s)
}

// time writes a time as it writes itself.
func (w *plainWriter) time(t metav1.Time) {
	if t.IsZero() {
		w.null()
		return
	}
	w.out = append(w.out, '"')
	w.out = append(t.UTC().AppendFormat(w.out, time.RFC3339), '"')
}

// writeList writes a list with write for each element.
func writeList[T any](w *plainWriter, list []T, write func(T)) {
	if list == nil {
		w.null()
		return
	}
	w.out = append(w.out, '[')
	for _, elem := range list {
		w.next()
		write(elem)
	}
	w.out = append(w.out, ']')
}

// writeMap writes a map in the order of its names, with write for each value.
func writeMap[T any](w *plainWriter, m map[string]T, write func(T)) {
	if m == nil {
		w.null()
		return
	}
	var few [8]string
	names := few[:0]
	if len(m) > len(few) {
		names = make([]string, 0, len(m))
	}
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	w.out = append(w.out, '{')
	for _, name := range names {
		w.next()
		w.str(name)
		w.out = append(w.out, ':')
		write(m[name])
	}
	w.out = append(w.out, '}')
}

// strField, listField and mapField write a field unless it is empty.
func (w *plainWriter) strField(name, s string) {
	if s != "" {
		w.field(name)
		w.str(s)
	}
}

func (w *plainWriter) listField(name string, list []string) {
	if len(list) > 0 {
		w.field(name)
		writeList(w, list, w.str)
	}
}

func (w *plainWriter) mapField(name string, m map[string]string) {
	if len(m) > 0 {
		w.field(name)
		writeMap(w, m, w.str)
	}
}
