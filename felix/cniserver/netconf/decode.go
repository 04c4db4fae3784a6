package netconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// flag reads a boolean that others write as a string, too; byDefault when there is none.
func flag(key string, raw json.RawMessage, byDefault bool) (bool, error) {
	if isNull(raw) {
		return byDefault, nil
	}
	switch strings.ToLower(strings.Trim(string(raw), `"`)) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, &Error{Key: key, Reason: shown(raw) + ` is not "true" or "false"`}
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
		return &Error{Key: where, Reason: wanted(wrongType)}
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
		return &Error{Key: wrongType.Field, Reason: wanted(wrongType)}
	}
	return fmt.Errorf("network configuration: %w", err)
}

// wanted says what should stand there, and what does.
func wanted(e *json.UnmarshalTypeError) string {
	value, number := strings.CutPrefix(e.Value, "number ")
	kind := e.Type.Kind()
	whole := kind >= reflect.Int && kind <= reflect.Uint64
	switch {
	case whole && number && strings.ContainsAny(value, ".eE"):
		return "want a whole number, not " + value
	case whole && number:
		return value + " is out of range"
	}
	return fmt.Sprintf("want %s, not %s", typeName(kind), value)
}

// typeName is a type in JSON's words.
func typeName(kind reflect.Kind) string {
	switch {
	case kind >= reflect.Int && kind <= reflect.Float64:
		return "a number"
	case kind == reflect.String:
		return "a string"
	case kind == reflect.Bool:
		return "true or false"
	case kind == reflect.Slice:
		return "a list"
	default:
		return "an object"
	}
}

func isNull(raw json.RawMessage) bool {
	return len(raw) == 0 || bytes.Equal(bytes.TrimSpace(raw), []byte("null"))
}
