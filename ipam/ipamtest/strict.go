package ipamtest

import (
	"bytes"
	"fmt"

	"tortie/internal/api"
)

// CheckRaw reads one stored key and value as strictly as can be: the path is one that
// the registry makes, the value has no field that our types don't know, is valid, and is
// what the registry would write, byte for byte.
func CheckRaw(reg *api.Registry, path string, value []byte) error {
	key, err := reg.ParsePath(path)
	if err != nil {
		return err
	}
	obj, unknown, err := reg.Decode(key, value)
	if err != nil {
		return err
	}
	if !unknown.Empty() {
		return fmt.Errorf("%s: fields that nobody knows: %s", path, value)
	}
	if err := reg.Validate(obj); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	written, err := reg.Encode(obj, api.Unknown{})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !bytes.Equal(written, value) {
		return fmt.Errorf("%s: holds %s, would be written as %s", path, value, written)
	}
	return nil
}
