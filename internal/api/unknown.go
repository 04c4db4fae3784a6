package api

import "bytes"

// Unknown holds what a stored value has and our types don't: fields that a newer
// program wrote, and the name under which an older one stored a policy. Its zero
// value holds nothing.
type Unknown struct {
	raw        []byte // the stored JSON, kept only when it has unknown fields
	storedName string // set when it differs from the name of the object
}

// Empty reports whether nothing would be lost without it.
func (u Unknown) Empty() bool { return len(u.raw) == 0 && u.storedName == "" }

// UnknownFields names what a stored value of a kind has in its spec and our types don't
// know: "spec.keepaliveTime".
func (r *Registry) UnknownFields(kind Kind, u Unknown) []string {
	d, err := r.definition(kind)
	if err != nil || len(u.raw) == 0 {
		return nil
	}
	stored := parseValidJSON(u.raw)
	var out []string
	if spec := d.schema.fields["spec"]; spec != nil {
		out = spec.unknown(stored.member("spec"), "spec", out)
	}
	return out
}

// unknown adds the paths of the fields of v that s doesn't have.
func (s *schema) unknown(v *jsonValue, path string, out []string) []string {
	if v == nil {
		return out
	}
	for i, elem := range v.elems {
		if s.shape == shapeList {
			out = s.elem.unknown(elem, at(path, i), out)
		}
	}
	for _, m := range v.members {
		field := path + "." + m.name
		switch {
		case s.shape == shapeDict:
			out = s.elem.unknown(m.value, field, out)
		case s.shape != shapeObject:
		case s.fields[m.name] == nil:
			out = append(out, field)
		default:
			out = s.fields[m.name].unknown(m.value, field, out)
		}
	}
	return out
}

// merger adds unknown fields to a new encoding. Three texts of one schema are
// walked side by side: what was stored, what our types made of it, and the new
// encoding. The last decides what is there; the first gives the unknown fields;
// the second tells which array element is which.
type merger struct {
	out bytes.Buffer
}

// value writes now, with the unknown fields of stored.
func (m *merger) value(s *schema, stored, known, now *jsonValue) {
	switch {
	case stored == nil || known == nil || stored.kind != now.kind:
		m.out.Write(now.raw)
	case s.shape == shapeObject && now.kind == '{':
		m.object(s, stored, known, now)
	case s.shape == shapeDict && now.kind == '{':
		m.dict(s, stored, known, now)
	case s.shape == shapeList && now.kind == '[':
		m.list(s, stored, known, now)
	default:
		m.out.Write(now.raw)
	}
}

func (m *merger) object(s *schema, stored, known, now *jsonValue) {
	m.out.WriteByte('{')
	first := true
	for _, f := range now.members {
		m.name(f.text, &first)
		m.value(s.fields[f.name], stored.member(f.name), known.member(f.name), f.value)
	}
	for _, f := range stored.members {
		if s.fields[f.name] == nil {
			m.name(f.text, &first)
			m.out.Write(f.value.raw)
		}
	}
	m.out.WriteByte('}')
}

func (m *merger) dict(s *schema, stored, known, now *jsonValue) {
	m.out.WriteByte('{')
	first := true
	for _, f := range now.members {
		m.name(f.text, &first)
		m.value(s.elem, stored.member(f.name), known.member(f.name), f.value)
	}
	m.out.WriteByte('}')
}

func (m *merger) list(s *schema, stored, known, now *jsonValue) {
	if len(stored.elems) != len(known.elems) || s.elem.shape == shapeScalar {
		m.out.Write(now.raw)
		return
	}
	origin := matchElements(known.elems, now.elems)
	m.out.WriteByte('[')
	for i, elem := range now.elems {
		if i > 0 {
			m.out.WriteByte(',')
		}
		if j := origin[i]; j >= 0 {
			m.value(s.elem, stored.elems[j], known.elems[j], elem)
		} else {
			m.out.Write(elem.raw)
		}
	}
	m.out.WriteByte(']')
}

func (m *merger) name(text []byte, first *bool) {
	if !*first {
		m.out.WriteByte(',')
	}
	*first = false
	m.out.Write(text)
	m.out.WriteByte(':')
}

// matchElements tells for each element of now which of before it was, or -1. An
// element that did not change is found wherever it moved to, at its own index
// first; one that did change is the one at its index if the lengths are equal.
// No element of before is used twice.
func matchElements(before, now []*jsonValue) []int {
	origin := make([]int, len(now))
	used := make([]bool, len(before))
	places := map[string][]int{}
	for j, b := range before {
		if j < len(now) && bytes.Equal(b.raw, now[j].raw) {
			used[j] = true
			continue
		}
		places[string(b.raw)] = append(places[string(b.raw)], j)
	}
	for i, n := range now {
		origin[i] = -1
		if i < len(before) && used[i] && bytes.Equal(before[i].raw, n.raw) {
			origin[i] = i
		} else if at := places[string(n.raw)]; len(at) > 0 {
			origin[i], places[string(n.raw)] = at[0], at[1:]
		}
	}
	for i := range now {
		if origin[i] >= 0 {
			used[origin[i]] = true
		}
	}
	for i := range now {
		if origin[i] < 0 && len(before) == len(now) && !used[i] {
			origin[i], used[i] = i, true
		}
	}
	return origin
}
