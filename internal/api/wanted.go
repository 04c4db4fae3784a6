package api

import (
	"fmt"
	"reflect"

	"github.com/projectcalico/api/pkg/lib/numorstring"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// noWords would be shown for a type that nobody gave words.
const noWords = "another form of value"

// wanted says in words what a field of a scalar type takes: the form, and the
// range of a number. What a type's own decoder says is Go's affair.
func wanted(t reflect.Type) string {
	if text := wantedOfType(t); text != "" {
		return text
	}
	switch kind := t.Kind(); {
	case kind == reflect.String:
		return "a string (in quotes)"
	case kind == reflect.Bool:
		return "true or false"
	case kind >= reflect.Int && kind <= reflect.Int64:
		if bits := t.Bits() - 1; bits < 63 {
			return fmt.Sprintf("an integer from -%d to %d", uint64(1)<<bits, uint64(1)<<bits-1)
		}
		return "an integer"
	case kind >= reflect.Uint && kind <= reflect.Uint64:
		return fmt.Sprintf("an integer from 0 to %d", ^uint64(0)>>(64-t.Bits()))
	case kind == reflect.Float32 || kind == reflect.Float64:
		return "a number"
	case kind == reflect.Slice:
		return "bytes as base64"
	}
	return noWords
}

// wantedOfType is for the types that read their JSON themselves; empty for others.
func wantedOfType(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[numorstring.ASNumber]():
		return `an AS number, 1 to 4294967295 or "HIGH.LOW" with two numbers up to 65535`
	case reflect.TypeFor[numorstring.Port]():
		return `a port, 0 to 65535, a range such as "8000:8080", or a port's name`
	case reflect.TypeFor[numorstring.Protocol]():
		return "a protocol, its number from 1 to 255 or its name such as TCP"
	case reflect.TypeFor[numorstring.DSCP]():
		return "a DSCP, 0 to 63 or a name such as EF"
	case reflect.TypeFor[metav1.Duration]():
		return `a duration such as "2m30s", with the units h, m, s, ms, us and ns`
	case reflect.TypeFor[metav1.Time]():
		return `a time such as "2026-01-31T15:04:05Z" (RFC 3339)`
	case reflect.TypeFor[intstr.IntOrString]():
		return "an integer from -2147483648 to 2147483647, or a string"
	}
	return ""
}
