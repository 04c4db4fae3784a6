// Package machine runs machines that are not: a process tree in network, mount,
// PID, IPC and UTS namespaces of its own, over an overlay of this machine's root.
// What is written in one stays in it, and all of it ends with its first process.
package machine

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// Spec says what a machine is made of.
type Spec struct {
	// Name is its host name.
	Name string `json:"name"`
	// Dir is its folder on the real disk: logs, the control socket, what is bound.
	Dir string `json:"dir"`
	// Binds are folders, of Dir where they are relative, by the path where the machine
	// sees them. What can't lie on an overlay, such as other overlays, needs one.
	Binds map[string]string `json:"binds,omitempty"`
	// Files are written when it starts, by their path on the machine.
	Files map[string]string `json:"files,omitempty"`
	// Hidden are folders that it must not inherit from the root.
	Hidden []string `json:"hidden,omitempty"`
	// Path are the folders of programs before the usual ones.
	Path string `json:"path,omitempty"`
	// Cgroup is made in each hierarchy, and the hierarchies are mounted; empty means
	// neither.
	Cgroup string `json:"cgroup,omitempty"`
	// Services run from StartServices on.
	Services []Service `json:"services,omitempty"`
}

// Service is a program that is started again when it ends, until it is stopped.
type Service struct {
	Name string   `json:"name"`
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"`
}

// Paths within Dir.
func (s Spec) specFile() string    { return filepath.Join(s.Dir, "spec.json") }
func (s Spec) controlDir() string  { return filepath.Join(s.Dir, "control") }
func (s Spec) controlFile() string { return filepath.Join(s.controlDir(), "socket") }
func (s Spec) rootDir() string     { return filepath.Join(s.Dir, "root") }
func (s Spec) logDir() string      { return filepath.Join(s.Dir, "log") }

// Log is the file that a service's outputs go to.
func (s Spec) Log(service string) string { return filepath.Join(s.logDir(), service+".log") }

// controlOnMachine is where the machine itself sees its control folder.
const controlOnMachine = "/run/machine"

func (s Spec) save() error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.specFile(), text, 0o600)
}

func loadSpec(path string) (Spec, error) {
	var s Spec
	text, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(text, &s)
}
