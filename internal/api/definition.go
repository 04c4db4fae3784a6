package api

import (
	"encoding/json"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// definition is everything the registry knows of one kind.
type definition struct {
	info Info
	// parts gives what is stored: metadata and spec, and for a few kinds a
	// status (nil otherwise). For bare kinds only spec is used.
	parts func(Object) parts
	// target is what a stored value is decoded into. It points into the object,
	// so that decoding fills the object.
	target func(Object) any
	// readPlain reads a stored value as decoding into target would, if it is in the
	// form that programs write; false leaves the object as it was. nil for kinds
	// that are not read often.
	readPlain func(Object, []byte) bool
	// writePlain gives the stored value that encoding parts would, or false for an
	// object that it does not write. nil for kinds that are not written often.
	writePlain func(Object) ([]byte, bool)
	// bare marks the kinds whose stored value is the bare spec: all but those of
	// upstream's resources.
	bare bool
	// identify completes an object of a bare kind from its key after decoding.
	identify func(Object, Key) error
	// nameOf derives a bare object's name from its spec.
	nameOf func(Object) string
	// policy gives access to the tier for kinds whose name is kept in the
	// projectcalico.org/metadata annotation.
	policy func(Object) *string
	// setDefaults fills in what the user left out; validate reports problems.
	setDefaults func(Object)
	validate    func(*checker, Object)

	schema   *schema // of the stored value
	manifest *schema // of the API form
}

// parts are the stored pieces of an object.
type parts struct {
	meta   *metav1.ObjectMeta
	spec   any
	status any
}

// resource starts the definition of a kind stored as kind, apiVersion, metadata
// and spec.
func resource[T any, P interface {
	*T
	Object
}](kind Kind, plural string, split func(P) parts, aliases ...string) definition {
	newObject := func() Object {
		obj := P(new(T))
		obj.GetObjectKind().SetGroupVersionKind(v3.SchemeGroupVersion.WithKind(string(kind)))
		return obj
	}
	return definition{
		info:   Info{Kind: kind, Plural: plural, Aliases: aliases, New: newObject},
		parts:  func(o Object) parts { return split(o.(P)) },
		target: func(o Object) any { return o },
	}
}

// namespaced marks a kind whose objects live in a namespace.
func (d definition) namespaced() definition {
	d.info.Namespaced = true
	return d
}

// into changes what a stored value is decoded into.
func (d definition) into(target func(Object) any) definition {
	d.target = target
	return d
}

// defaulted adds the defaults of a kind.
func defaulted[P Object](d definition, set func(P)) definition {
	d.setDefaults = func(o Object) { set(o.(P)) }
	return d
}

// checked adds the validation of a kind.
func checked[P Object](d definition, check func(*checker, P)) definition {
	d.validate = func(c *checker, o Object) { check(c, o.(P)) }
	return d
}

// plainlyWritten gives a kind a quick way to its stored value.
func plainlyWritten[P Object](d definition, write func(P) ([]byte, bool)) definition {
	d.writePlain = func(o Object) ([]byte, bool) { return write(o.(P)) }
	return d
}

// tiered marks a policy kind: it has a tier and its name is kept in an annotation.
func tiered[P Object](d definition, tier func(P) *string) definition {
	d.policy = func(o Object) *string { return tier(o.(P)) }
	return d
}

// storedTier gives Tier the status that upstream stores and our version of the
// type doesn't have yet, so that an empty one is not an unknown field.
type storedTier struct {
	*v3.Tier `json:",inline"`
	Status   emptyStatus `json:"status"`
}

// manifestTier accepts any status of a tier in a manifest and ignores it, as that
// of the other kinds: "get" prints it, so that files contain it.
type manifestTier struct {
	*v3.Tier `json:",inline"`
	Status   json.RawMessage `json:"status"`
}

// emptyStatus is stored as "status":{}.
type emptyStatus struct{}

// storedKCCStatus omits the running configuration while there is none, which
// the type itself can't.
type storedKCCStatus struct {
	RunningConfig   *v3.KubeControllersConfigurationSpec `json:"runningConfig,omitempty"`
	EnvironmentVars map[string]string                    `json:"environmentVars,omitempty"`
}

func kccStatus(s *v3.KubeControllersConfigurationStatus) storedKCCStatus {
	out := storedKCCStatus{EnvironmentVars: s.EnvironmentVars}
	if s.RunningConfig != (v3.KubeControllersConfigurationSpec{}) {
		out.RunningConfig = &s.RunningConfig
	}
	return out
}
