package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"
)

// AnnotationMetadata holds the name of a policy as its author gave it. It is
// added when a policy is stored and taken away when it is read.
const AnnotationMetadata = "projectcalico.org/metadata"

// DefaultTier is the tier of a policy that names none.
const DefaultTier = "default"

// storedObject is the stored form of a resource.
type storedObject struct {
	Kind       Kind       `json:"kind"`
	APIVersion string     `json:"apiVersion"`
	Metadata   storedMeta `json:"metadata"`
	Spec       any        `json:"spec"`
	Status     any        `json:"status,omitempty"`
}

// storedMeta is metav1.ObjectMeta, field for field, but omits a creation
// timestamp that isn't set, where ObjectMeta writes null.
type storedMeta struct {
	Name                       string                      `json:"name,omitempty"`
	GenerateName               string                      `json:"generateName,omitempty"`
	Namespace                  string                      `json:"namespace,omitempty"`
	SelfLink                   string                      `json:"selfLink,omitempty"`
	UID                        types.UID                   `json:"uid,omitempty"`
	ResourceVersion            string                      `json:"resourceVersion,omitempty"`
	Generation                 int64                       `json:"generation,omitempty"`
	CreationTimestamp          metav1.Time                 `json:"creationTimestamp,omitzero"`
	DeletionTimestamp          *metav1.Time                `json:"deletionTimestamp,omitempty"`
	DeletionGracePeriodSeconds *int64                      `json:"deletionGracePeriodSeconds,omitempty"`
	Labels                     map[string]string           `json:"labels,omitempty"`
	Annotations                map[string]string           `json:"annotations,omitempty"`
	OwnerReferences            []metav1.OwnerReference     `json:"ownerReferences,omitempty"`
	Finalizers                 []string                    `json:"finalizers,omitempty"`
	ManagedFields              []metav1.ManagedFieldsEntry `json:"managedFields,omitempty"`
}

// Encode gives the stored form of an object, with the unknown fields it was read
// with. The resource version is not stored: it is the store's own revision. The
// object is not changed.
func (r *Registry) Encode(obj Object, unknown Unknown) ([]byte, error) {
	d, err := r.definitionOf(obj)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	if d.writePlain != nil && unknown.Empty() {
		if out, ok := d.writePlain(obj); ok {
			return out, nil
		}
	}
	out, err := d.encode(obj, unknown.storedName)
	if err == nil && len(unknown.raw) > 0 {
		out, err = d.merge(unknown.raw, out)
	}
	if err != nil {
		return nil, fmt.Errorf("encode %s(%s): %w", d.info.Kind, obj.GetName(), err)
	}
	return out, nil
}

func (d *definition) encode(obj Object, storedName string) ([]byte, error) {
	p := d.parts(obj)
	if d.bare {
		return json.Marshal(p.spec)
	}
	meta := storedMeta(*p.meta)
	meta.ResourceVersion = ""
	if d.policy != nil {
		annotation, err := json.Marshal(policyMetadata{Name: meta.Name})
		if err != nil {
			return nil, err
		}
		meta.Annotations = maps.Clone(meta.Annotations)
		if meta.Annotations == nil {
			meta.Annotations = map[string]string{}
		}
		meta.Annotations[AnnotationMetadata] = string(annotation)
	}
	if storedName != "" {
		meta.Name = storedName
	}
	return json.Marshal(storedObject{
		Kind: d.info.Kind, APIVersion: GroupVersion, Metadata: meta, Spec: p.spec, Status: p.status,
	})
}

// merge adds the unknown fields of a stored value to a new encoding.
func (d *definition) merge(raw, encoded []byte) ([]byte, error) {
	before := d.info.New()
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, d.target(before)); err != nil {
		return nil, err
	}
	known, err := d.encode(before, "")
	if err != nil {
		return nil, err
	}
	var m merger
	m.out.Grow(len(raw) + len(encoded))
	m.value(d.schema, parseValidJSON(raw), parseValidJSON(known), parseValidJSON(encoded))
	return m.out.Bytes(), nil
}

// Decode reads a stored value. Fields that our types don't know are kept in
// Unknown, to be given to Encode with the changed object. Identity comes from
// the key; the name of a policy, which may differ from its key's in a store that
// an older Calico wrote, from its annotation.
func (r *Registry) Decode(key Key, value []byte) (Object, Unknown, error) {
	d, err := r.definition(key.Kind)
	if err != nil {
		return nil, Unknown{}, fmt.Errorf("decode %s: %w", key, err)
	}
	obj := d.info.New()
	unknown, err := d.decode(obj, key, value)
	if err != nil {
		return nil, Unknown{}, fmt.Errorf("decode %s: %w", key, err)
	}
	return obj, unknown, nil
}

func (d *definition) decode(obj Object, key Key, value []byte) (Unknown, error) {
	unknown, err := d.read(obj, value)
	if err != nil {
		return Unknown{}, err
	}
	if !d.bare {
		unknown.storedName = d.restoreName(obj, key)
		return unknown, d.checkStoredKind(obj)
	}
	obj.SetNamespace(key.Namespace)
	obj.SetName(key.Name)
	if d.identify != nil {
		return unknown, d.identify(obj, key)
	}
	return unknown, nil
}

// read fills an object from a stored value.
func (d *definition) read(obj Object, value []byte) (unknown Unknown, err error) {
	switch {
	case len(value) == 0 && d.info.Kind == KindBlockAffinity:
		return unknown, nil // Calico's first releases wrote affinities without a value
	case d.readPlain != nil && d.readPlain(obj, value):
		return unknown, nil
	}
	strict, err := kjson.UnmarshalStrict(value, d.target(obj), kjson.DisallowUnknownFields)
	if err != nil {
		return unknown, d.misread(value, err)
	}
	if len(strict) > 0 {
		unknown.raw, err = compact(value)
	}
	return unknown, err
}

// misread says which fields of a stored value can't be read, and what belongs
// there; err is what the JSON decoder said.
func (d *definition) misread(value []byte, err error) error {
	tree, syntax := parseJSON(value)
	if syntax != nil {
		return syntax
	}
	c := checker{lenient: true}
	c.fields(d.schema, tree, "")
	if found := c.err(""); found != nil {
		return found
	}
	return fmt.Errorf("not the JSON of a resource: %w", err)
}

// checkStoredKind refuses a value of another kind than its key says and sets the
// TypeMeta of one that doesn't say.
func (d *definition) checkStoredKind(obj Object) error {
	gvk := obj.GetObjectKind().GroupVersionKind()
	if gvk.Kind != "" && gvk.Kind != string(d.info.Kind) {
		return fmt.Errorf("the value is of kind %q", gvk.Kind)
	}
	obj.GetObjectKind().SetGroupVersionKind(d.info.New().GetObjectKind().GroupVersionKind())
	return nil
}

// policyMetadata is the content of AnnotationMetadata.
type policyMetadata struct {
	Name string `json:"name"`
}

// restoreName sets an object's identity from its key and undoes what encode did
// to a policy. It returns the stored name when that is not the object's.
func (d *definition) restoreName(obj Object, key Key) string {
	obj.SetNamespace(key.Namespace)
	obj.SetName(key.Name)
	obj.SetResourceVersion("")
	if d.policy == nil {
		return ""
	}
	name := key.Name
	annotations := obj.GetAnnotations()
	text, annotated := annotations[AnnotationMetadata]
	delete(annotations, AnnotationMetadata)
	if len(annotations) == 0 {
		obj.SetAnnotations(nil)
	}
	var meta policyMetadata
	if annotated && json.Unmarshal([]byte(text), &meta) == nil && meta.Name != "" {
		name = meta.Name
	} else if tier := *d.policy(obj); tier == "" || tier == DefaultTier {
		// Before Calico 3.29 the stored name was "<tier>.<name>".
		if short := strings.TrimPrefix(name, DefaultTier+"."); short != "" {
			name = short
		}
	}
	obj.SetName(name)
	if name == key.Name {
		return ""
	}
	return key.Name
}

func compact(text []byte) ([]byte, error) {
	var out bytes.Buffer
	err := json.Compact(&out, text)
	return out.Bytes(), err
}
