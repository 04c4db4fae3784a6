package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	kjson "sigs.k8s.io/json"

	"tortie/internal/suggest"
)

// DecodeStrict reads one object from a user's manifest (JSON). Anything that
// would be silently lost or misread is an error that names the field: an unknown
// field or kind, another apiVersion, a value of the wrong type, a field given
// twice. The error is a *ValidationError.
func (r *Registry) DecodeStrict(doc []byte) (Object, error) {
	tree, err := parseManifest(doc)
	if err != nil {
		return nil, err
	}
	return r.decodeManifest(tree, "", "")
}

// DecodeStrictAll is DecodeStrict for a document that may also be a list: of kind
// List, or of a kind such as IPPoolList, whose items need not repeat their kind.
func (r *Registry) DecodeStrictAll(doc []byte) ([]Object, error) {
	tree, err := parseManifest(doc)
	if err != nil {
		return nil, err
	}
	kind, _ := tree.member("kind").text()
	itemKind, isList := r.listKind(kind)
	if !isList {
		obj, err := r.decodeManifest(tree, "", "")
		if err != nil {
			return nil, err
		}
		return []Object{obj}, nil
	}
	if err := checkList(kind, tree); err != nil {
		return nil, err
	}
	var out []Object
	for i, item := range tree.member("items").list() {
		obj, err := r.decodeManifest(item, at("items", i)+".", itemKind)
		if err != nil {
			return nil, err
		}
		out = append(out, obj)
	}
	return out, nil
}

// listKind tells whether kind is that of a list, and of what.
func (r *Registry) listKind(kind string) (Kind, bool) {
	if kind == "List" {
		return "", true
	}
	item, ok := strings.CutSuffix(kind, "List")
	if !ok {
		return "", false
	}
	_, err := r.definition(Kind(item))
	return Kind(item), err == nil
}

func checkList(kind string, tree *jsonValue) error {
	var c checker
	for _, m := range tree.members {
		switch m.name {
		case "kind", "metadata":
		case "apiVersion":
			version, _ := m.value.text()
			if version != GroupVersion && (kind != "List" || version != "v1") {
				c.bad("apiVersion", version, "is not supported, want %s", GroupVersion)
			}
		case "items":
			if m.value.kind != '[' && m.value.kind != 'n' {
				c.missing("items", "want a list, got %s", m.value.describe())
			}
		default:
			c.missing(m.name, "%s%s", unknownField, didYouMean("", m.name, []string{"apiVersion", "kind", "metadata", "items"}))
		}
	}
	return c.err(kind)
}

func parseManifest(doc []byte) (*jsonValue, error) {
	tree, err := parseJSON(doc)
	if err != nil {
		return nil, &ValidationError{Problems: []Problem{{Reason: err.Error()}}}
	}
	return tree, nil
}

// decodeManifest reads an object; path is where it stands in the document and
// kind what it is when it doesn't say.
func (r *Registry) decodeManifest(tree *jsonValue, path string, kind Kind) (Object, error) {
	var c checker
	d := r.manifestDefinition(&c, tree, path, kind)
	if d == nil {
		return nil, c.err("")
	}
	name, _ := tree.member("metadata").member("name").text()
	label := Key{Kind: d.info.Kind, Name: name}.String()
	c.fields(d.manifest, tree, strings.TrimSuffix(path, "."))
	c.instead(d.info.Kind)
	c.zeros(d.info.Kind, tree, path)
	if err := c.err(label); err != nil {
		return nil, err
	}
	obj := d.info.New()
	if err := kjson.UnmarshalCaseSensitivePreserveInts(tree.raw, obj); err != nil {
		c.missing(strings.TrimSuffix(path, "."), "%v", err)
		return nil, c.err(label)
	}
	obj.GetObjectKind().SetGroupVersionKind(d.info.New().GetObjectKind().GroupVersionKind())
	return obj, nil
}

// instead adds to fields that are unknown, and that programs newer than our types have,
// what says the same.
func (c *checker) instead(kind Kind) {
	if kind != KindBGPPeer && kind != KindBGPConfiguration {
		return
	}
	for i, p := range c.problems {
		name := p.Field[strings.LastIndexByte(p.Field, '.')+1:]
		if strings.HasPrefix(p.Reason, unknownField) && timerOf(name) != "" {
			c.problems[i].Reason = fmt.Sprintf("%s; set the annotation %s instead, as in %q", unknownField, AnnotationTimers, timerOf(name))
		}
	}
}

// timerOf is how the annotation about timers says what a field of this name would.
func timerOf(field string) string {
	switch strings.ToLower(strings.TrimPrefix(field, "nodeMesh")) {
	case "keepalivetime", "keepaliveinterval", "keepalive":
		return "keepalive=10s"
	case "holdtime":
		return "hold=30s"
	case "connectretrytime", "connecttime":
		return "connect=5s"
	}
	return ""
}

// zeros refuses what, once decoded, is the same as a field that is left out, and is none of
// its values.
func (c *checker) zeros(kind Kind, tree *jsonValue, path string) {
	port := tree.member("spec").member("listenPort")
	if kind == KindBGPConfiguration && port != nil && string(port.raw) == "0" {
		c.bad(path+"spec.listenPort", 0, "want 1 to 65535, or leave it out for 179")
	}
}

// manifestDefinition reads kind and apiVersion. It reports what is wrong with
// them and then returns nil.
func (r *Registry) manifestDefinition(c *checker, tree *jsonValue, path string, kind Kind) *definition {
	if tree.kind != '{' {
		c.missing(strings.TrimSuffix(path, "."), "want an object with apiVersion, kind, metadata and spec, got %s", tree.describe())
		return nil
	}
	if !c.isText(tree, path, "kind", "the name of a kind such as IPPool") || !c.isText(tree, path, "apiVersion", GroupVersion) {
		return nil
	}
	if text, ok := tree.member("kind").text(); ok && text != "" {
		kind = Kind(text)
	} else if kind == "" {
		c.missing(path+"kind", "is missing, want one of %s", r.kindNames())
		return nil
	} else {
		return &r.defs[r.byName[strings.ToLower(string(kind))]]
	}
	version, ok := tree.member("apiVersion").text()
	switch {
	case !ok || version == "":
		c.missing(path+"apiVersion", "is missing, want %s", GroupVersion)
		return nil
	case version != GroupVersion:
		c.bad(path+"apiVersion", version, "is not supported, want %s", GroupVersion)
		return nil
	}
	d, err := r.definition(kind)
	if err != nil {
		c.bad(path+"kind", string(kind), "unknown kind%s", r.suggestKind(string(kind)))
		return nil
	}
	return d
}

// isText refuses a field that is there and is no text.
func (c *checker) isText(tree *jsonValue, path, field, want string) bool {
	v := tree.member(field)
	if v == nil || v.kind == '"' || v.kind == 'n' {
		return true
	}
	c.missing(path+field, "want a string, %s, got %s", want, v.describe())
	return false
}

func (r *Registry) kindNames() string {
	names := make([]string, len(r.kinds))
	for i, k := range r.kinds {
		names[i] = string(k.Kind)
	}
	return strings.Join(names, ", ")
}

// suggestKind proposes kinds for one that is unknown: that of an alias or plural,
// else those with a near name, else all.
func (r *Registry) suggestKind(name string) string {
	if info, ok := r.Lookup(name); ok {
		return fmt.Sprintf("; did you mean %s?", info.Kind)
	}
	var near []string
	for _, k := range r.kinds {
		if similar(name, string(k.Kind)) {
			near = append(near, string(k.Kind))
		}
	}
	if len(near) == 0 {
		return ", want one of " + r.kindNames()
	}
	return fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
}

// fields compares a document with the schema of its kind.
func (c *checker) fields(s *schema, v *jsonValue, path string) {
	if v.kind == 'n' {
		return
	}
	switch s.shape {
	case shapeScalar:
		c.scalar(s.typ, v, path)
	case shapeObject, shapeDict:
		if v.kind != '{' {
			c.missing(path, "want an object, got %s", v.describe())
			return
		}
		c.members(s, v, path)
	case shapeList:
		if v.kind != '[' {
			c.missing(path, "want a list, got %s", v.describe())
			return
		}
		for i, e := range v.elems {
			c.fields(s.elem, e, at(path, i))
		}
	}
}

func (c *checker) members(s *schema, v *jsonValue, path string) {
	seen := map[string]bool{}
	for _, m := range v.members {
		field := m.name
		if path != "" {
			field = path + "." + m.name
		}
		if seen[m.name] && !c.lenient {
			c.missing(field, "is given twice")
			continue
		}
		seen[m.name] = true
		sub := s.elem
		if s.shape == shapeObject {
			sub = s.fields[m.name]
		}
		switch {
		case sub == nil && c.lenient:
			continue
		case sub == nil:
			c.missing(field, "%s%s", unknownField, didYouMean(path, m.name, s.names))
			continue
		}
		c.fields(sub, m.value, field)
	}
}

// scalar checks that a value can be read as its field's Go type.
func (c *checker) scalar(t reflect.Type, v *jsonValue, path string) {
	if json.Unmarshal(v.raw, reflect.New(t).Interface()) == nil {
		return
	}
	c.missing(path, "want %s, got %s", wanted(t), v.describe())
}

// list gives the elements of a list, none of anything else.
func (v *jsonValue) list() []*jsonValue {
	if v == nil {
		return nil
	}
	return v.elems
}

// describe shows a value in a message.
func (v *jsonValue) describe() string {
	switch v.kind {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		s, _ := v.text()
		return "the string " + strconv.Quote(s)
	}
	return string(v.raw)
}

const unknownField = "unknown field"

// didYouMean names the known field that was probably meant.
func didYouMean(path, name string, known []string) string {
	if path != "" {
		path += "."
	}
	best := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, name) })
	if best < 0 {
		best = slices.IndexFunc(known, func(k string) bool { return similar(name, k) })
	}
	if best < 0 {
		return ""
	}
	return fmt.Sprintf("; did you mean %s%s?", path, known[best])
}

// similar tells whether one name was probably meant for the other: at most a
// third of the letters differ.
func similar(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	return 3*suggest.Distance(a, b) <= max(len(a), len(b))
}
