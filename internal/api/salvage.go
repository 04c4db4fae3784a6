package api

import (
	"encoding/json"

	kjson "sigs.k8s.io/json"
)

// Salvage reads of a stored value that can't be read as a whole each field of metadata, spec
// and status that can be. ok is false when it is no JSON object at all.
func (r *Registry) Salvage(key Key, value []byte) (obj Object, ok bool) {
	d, err := r.definition(key.Kind)
	if err != nil || d.bare {
		return nil, false
	}
	var parts map[string]json.RawMessage
	if json.Unmarshal(value, &parts) != nil || parts == nil {
		return nil, false
	}
	obj = d.info.New()
	for _, part := range []string{"metadata", "spec", "status"} {
		var fields map[string]json.RawMessage
		if json.Unmarshal(parts[part], &fields) != nil {
			continue
		}
		for name, raw := range fields {
			if with, ok := d.salvageField(obj, part, name, raw); ok {
				obj = with
			}
		}
	}
	d.restoreName(obj, key)
	return obj, true
}

// salvageField is obj with one more field, if that can be read. One that can't leaves nothing
// behind.
func (d *definition) salvageField(obj Object, part, name string, raw json.RawMessage) (Object, bool) {
	text, err := json.Marshal(map[string]map[string]json.RawMessage{part: {name: raw}})
	if err != nil {
		return nil, false
	}
	with := obj.DeepCopyObject().(Object)
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, d.target(with)); err != nil {
		return nil, false
	}
	return with, true
}
