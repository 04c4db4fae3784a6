package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// writeMTU tells other programs the MTU of pods, in one file as upstream does. They never
// see half of it.
func writeMTU(path string, mtu int) error {
	fail := func(err error) error {
		return fmt.Errorf("write the MTU of pods to %s: %w: give felix a directory it may write to, or name another by FELIX_MTUFILE", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fail(err)
	}
	aside := path + ".new"
	if err := os.WriteFile(aside, []byte(strconv.Itoa(mtu)), 0o644); err != nil { //nolint:gosec // for others to read
		return fail(err)
	}
	if err := os.Rename(aside, path); err != nil {
		return fail(err)
	}
	return nil
}
