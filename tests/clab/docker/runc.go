package docker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// sysResource is the capability that some virtual machines don't have, and that
// `docker run --privileged` asks for: runc then stops.
const (
	sysResource    = "CAP_SYS_RESOURCE"
	sysResourceBit = 24
)

// mayRaiseLimits: this machine has sysResource to give.
func mayRaiseLimits() bool {
	status, err := os.ReadFile("/proc/self/status")
	return err != nil || hasBit(string(status), "CapBnd", sysResourceBit)
}

// hasBit reads a set of capabilities in the form of /proc/PID/status.
func hasBit(status, set string, bit uint) bool {
	for line := range strings.Lines(status) {
		if name, value, ok := strings.Cut(line, ":"); ok && name == set {
			bits, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return err == nil && bits&(1<<bit) != 0
		}
	}
	return false
}

// Runc becomes runc, with sysResource taken out of the specification of the container
// or process that it is to start. It is the engine's runtime on a machine without
// that capability.
func Runc(args []string) error {
	for _, path := range specs(args) {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // runc says it better
		}
		without, err := withoutCapability(content, sysResource)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := os.WriteFile(path, without, 0o600); err != nil {
			return err
		}
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		runc = "/usr/sbin/runc"
	}
	return syscall.Exec(runc, append([]string{"runc"}, args...), os.Environ())
}

// specs are the specifications that a command line of runc names: a bundle's, or a
// process'.
func specs(args []string) []string {
	var paths []string
	for i, arg := range args {
		flag, value, inline := strings.Cut(arg, "=")
		if !inline && i+1 < len(args) {
			value = args[i+1]
		}
		switch flag {
		case "--bundle", "-b":
			paths = append(paths, filepath.Join(value, "config.json"))
		case "--process", "-p":
			paths = append(paths, value)
		}
	}
	return paths
}

// withoutCapability takes a capability out of every set of a specification; the
// rest stays as it is.
func withoutCapability(spec []byte, capability string) ([]byte, error) {
	var root map[string]any
	dec := json.NewDecoder(bytes.NewReader(spec))
	dec.UseNumber()
	if err := dec.Decode(&root); err != nil {
		return nil, err
	}
	process := root // a process' specification is one itself
	if p, ok := root["process"].(map[string]any); ok {
		process = p
	}
	sets, _ := process["capabilities"].(map[string]any)
	for name, set := range sets {
		if list, ok := set.([]any); ok {
			sets[name] = slices.DeleteFunc(list, func(c any) bool { return c == capability })
		}
	}
	return json.Marshal(root)
}
