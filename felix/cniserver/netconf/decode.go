package netconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// flag is a boolean that upstream writes as a string.
type flag bool

// UnmarshalJSON takes true, false, "true" and "false".
func (f *flag) UnmarshalJSON(raw []byte) error {
	switch strings.ToLower(strings.Trim(string(raw), `"`)) {
	case "true":
		*f = true
	case "false":
		*f = false
	default:
		return fmt.Errorf(`%s is not "true" or "false"`, raw)
	}
	return nil
}

func decode(where string, raw []byte, into any) error {
	err := json.Unmarshal(raw, into)
	if err == nil || where == "" {
		return decodingError(err)
	}
	if wrongType, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrongType.Field != "" {
			where += "." + wrongType.Field
		}
		return &Error{Key: where, Reason: fmt.Sprintf("want %s, not %s", typeName(wrongType), wrongType.Value)}
	}
	return &Error{Key: where, Reason: err.Error()}
}

// decodingError names the key when one has a value of the wrong type.
func decodingError(err error) error {
	var wrongType *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrongType):
		return &Error{Key: wrongType.Field, Reason: fmt.Sprintf("want %s, not %s", typeName(wrongType), wrongType.Value)}
	}
	return fmt.Errorf("network configuration: %w", err)
}

// typeName is a type in JSON's words.
func typeName(e *json.UnmarshalTypeError) string {
	switch e.Type.Kind().String() {
	case "int":
		return "a number"
	case "string":
		return "a string"
	case "bool":
		return "true or false"
	case "slice":
		return "a list"
	default:
		return "an object"
	}
}

func isNull(raw json.RawMessage) bool {
	return len(raw) == 0 || bytes.Equal(bytes.TrimSpace(raw), []byte("null"))
}
