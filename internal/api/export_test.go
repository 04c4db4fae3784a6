package api

import (
	"encoding/json"
	"reflect"
)

// NoWords is shown for a scalar type that has no words for what it takes.
const NoWords = noWords

// ScalarsOfManifests gives the scalar types of all kinds, and what each wants.
func ScalarsOfManifests() map[string]string {
	schemas := newSchemaBuilder()
	for _, d := range definitions() {
		schemas.of(d.info.New())
	}
	words := map[string]string{}
	for t, s := range schemas.known {
		// What takes anything never refuses.
		if s.shape == shapeScalar && json.Unmarshal([]byte("{}"), reflect.New(t).Interface()) != nil {
			words[t.String()] = wanted(t)
		}
	}
	return words
}

// FelixRuleNames are the fields of a FelixConfiguration that have a rule.
func FelixRuleNames() []string { return sortedKeys(felixRules()) }
