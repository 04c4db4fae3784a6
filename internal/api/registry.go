package api

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/projectcalico/api/pkg/lib/numorstring"
)

// ASN is a 4-byte BGP autonomous system number (RFC 6793).
type ASN = numorstring.ASNumber

// Protocol is an IP protocol by name or number.
type Protocol = numorstring.Protocol

// Info describes one kind.
type Info struct {
	Kind       Kind
	Plural     string   // as in the etcd key and on the command line: "ippools"
	Aliases    []string // further names calicoctl accepts, lower case
	Namespaced bool
	// New makes an empty object with its TypeMeta set.
	New func() Object
}

// Registry knows every kind: how it is named, stored, defaulted and validated.
// It is immutable and safe for concurrent use.
type Registry struct {
	kinds  []Info
	byName map[string]int // lower-case kind, plural and aliases → index
	byKind map[Kind]int
	byType map[reflect.Type]int
	defs   []definition // parallel to kinds
}

// NewRegistry makes the registry of all kinds.
func NewRegistry() *Registry {
	r := &Registry{byName: map[string]int{}, byKind: map[Kind]int{}, byType: map[reflect.Type]int{}}
	schemas := newSchemaBuilder()
	for i, d := range definitions() {
		d.schema = schemas.of(d.target(d.info.New()))
		d.manifest = schemas.of(d.info.New())
		if d.info.Kind == KindTier {
			d.manifest = schemas.of(manifestTier{})
		}
		r.defs = append(r.defs, d)
		r.kinds = append(r.kinds, d.info)
		r.byKind[d.info.Kind] = i
		r.byType[reflect.TypeOf(d.info.New())] = i
		names := append([]string{strings.ToLower(string(d.info.Kind)), d.info.Plural}, d.info.Aliases...)
		for _, name := range names {
			r.byName[name] = i
		}
	}
	return r
}

// Lookup finds a kind by its name, plural or alias in any case.
func (r *Registry) Lookup(name string) (Info, bool) {
	i, ok := r.byName[strings.ToLower(name)]
	if !ok {
		return Info{}, false
	}
	return r.kinds[i], true
}

// Kinds lists every kind: resources first, then the IPAM records, each group
// by name, then what upstream hasn't.
func (r *Registry) Kinds() []Info { return append([]Info(nil), r.kinds...) }

// New makes an empty object of a kind with its TypeMeta set.
func (r *Registry) New(kind Kind) (Object, error) {
	d, err := r.definition(kind)
	if err != nil {
		return nil, err
	}
	return d.info.New(), nil
}

// KeyOf gives the key under which an object is stored, from its type, namespace
// and name. The key of a BlockAffinity comes from its spec and that of an
// IPAMBlock from its CIDR, unless the object is named.
func (r *Registry) KeyOf(obj Object) (Key, error) {
	d, err := r.definitionOf(obj)
	if err != nil {
		return Key{}, fmt.Errorf("key of an object: %w", err)
	}
	key := Key{Kind: d.info.Kind, Name: obj.GetName()}
	if d.info.Namespaced {
		key.Namespace = obj.GetNamespace()
	}
	if key.Name == "" && d.nameOf != nil {
		key.Name = d.nameOf(obj)
	}
	if err := d.checkKey(key); err != nil {
		return Key{}, err
	}
	return key, nil
}

// definition finds the definition of a kind by its exact name.
func (r *Registry) definition(kind Kind) (*definition, error) {
	i, ok := r.byKind[kind]
	if !ok {
		return nil, fmt.Errorf("kind %q is unknown", kind)
	}
	return &r.defs[i], nil
}

// definitionOf finds the definition for an object's Go type, so that an object
// whose TypeMeta was left empty is still known.
func (r *Registry) definitionOf(obj Object) (*definition, error) {
	i, ok := r.byType[reflect.TypeOf(obj)]
	if !ok {
		return nil, fmt.Errorf("type %T is not a resource of %s", obj, GroupVersion)
	}
	return &r.defs[i], nil
}
