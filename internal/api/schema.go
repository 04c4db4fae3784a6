package api

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

// schema is the shape that a Go type has in JSON, as encoding/json sees it.
type schema struct {
	shape  shape
	fields map[string]*schema // of an object, by JSON name
	names  []string           // the fields in their order
	elem   *schema            // of a list or dictionary
	typ    reflect.Type       // of a scalar
}

type shape int

const (
	shapeScalar shape = iota // also what has its own UnmarshalJSON
	shapeObject              // a struct: a fixed set of fields
	shapeDict                // a map: any field
	shapeList
)

// schemaBuilder derives schemas and shares those of equal types.
type schemaBuilder struct {
	known           map[reflect.Type]*schema
	unmarshaler     reflect.Type
	textUnmarshaler reflect.Type
}

func newSchemaBuilder() *schemaBuilder {
	return &schemaBuilder{
		known:           map[reflect.Type]*schema{},
		unmarshaler:     reflect.TypeFor[json.Unmarshaler](),
		textUnmarshaler: reflect.TypeFor[encoding.TextUnmarshaler](),
	}
}

// of gives the schema of a value's type.
func (b *schemaBuilder) of(v any) *schema { return b.ofType(reflect.TypeOf(v)) }

func (b *schemaBuilder) ofType(t reflect.Type) *schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s, ok := b.known[t]; ok {
		return s
	}
	s := &schema{typ: t}
	b.known[t] = s
	ptr := reflect.PointerTo(t)
	if ptr.Implements(b.unmarshaler) || ptr.Implements(b.textUnmarshaler) {
		return s
	}
	switch t.Kind() {
	case reflect.Struct:
		s.shape, s.fields = shapeObject, map[string]*schema{}
		b.addFields(s, t)
	case reflect.Map:
		s.shape, s.elem = shapeDict, b.ofType(t.Elem())
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() != reflect.Uint8 {
			s.shape, s.elem = shapeList, b.ofType(t.Elem())
		}
	}
	return s
}

// addFields adds the JSON fields of a struct; an embedded struct without a JSON
// name gives its fields to the outer one, which wins on a clash.
func (b *schemaBuilder) addFields(s *schema, t reflect.Type) {
	var embedded []reflect.Type
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case f.Anonymous && name == "":
			embedded = append(embedded, f.Type)
		case f.IsExported():
			if name == "" {
				name = f.Name
			}
			s.add(name, b.ofType(f.Type))
		}
	}
	for _, e := range embedded {
		if e.Kind() == reflect.Pointer {
			e = e.Elem()
		}
		if e.Kind() == reflect.Struct {
			b.addFields(s, e)
		}
	}
}

func (s *schema) add(name string, field *schema) {
	if _, ok := s.fields[name]; !ok {
		s.fields[name] = field
		s.names = append(s.names, name)
	}
}
