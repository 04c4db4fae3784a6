package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// stateRoot is where labs keep their state, one directory each.
const stateRoot = "/run/tortie-lab"

// state is what a lab must remember between commands. It is written before each
// thing it names is used, so that Down always finds everything.
type state struct {
	Spec     Spec               `json:"spec"`
	Topology Topology           `json:"topology"`
	Bin      string             `json:"bin"`
	Etcd     string             `json:"etcd"` // client URL as the nodes see it
	Holders  map[string]Process `json:"holders"`
	// Daemons are etcd, the router's speaker, and felix and bgpd of each node, by
	// "<program>/<host>".
	Daemons map[string]Process `json:"daemons"`
	Agents  map[string]Process `json:"agents"`
	Pods    map[string]*Pod    `json:"pods"`
}

// Lab is one lab that is up.
type Lab struct {
	dir string
	mu  sync.Mutex
	st  state
}

func newLab(spec Spec, topo Topology, bin string) *Lab {
	return &Lab{
		dir: filepath.Join(stateRoot, spec.Name),
		st: state{
			Spec: spec, Topology: topo, Bin: bin,
			Holders: map[string]Process{}, Daemons: map[string]Process{},
			Agents: map[string]Process{}, Pods: map[string]*Pod{},
		},
	}
}

// ErrNotUp means that there is no lab of that name.
var ErrNotUp = errors.New("not up")

// nameFlag is what a command line needs to mean the lab of that name.
func nameFlag(name string) string {
	if name == DefaultSpec().Name {
		return ""
	}
	return " --name " + name
}

// DownCommand is the command that takes the lab down.
func (l *Lab) DownCommand() string { return "bin/lab down" + nameFlag(l.st.Spec.Name) }

// Open finds a lab that is up.
func Open(name string) (*Lab, error) {
	if err := checkLabName(name); err != nil {
		return nil, err
	}
	l := &Lab{dir: filepath.Join(stateRoot, name)}
	b, err := os.ReadFile(l.stateFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: lab %q; start it with: bin/lab up%s", ErrNotUp, name, nameFlag(name))
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &l.st); err != nil {
		return nil, fmt.Errorf("read %s: %w", l.stateFile(), err)
	}
	return l, nil
}

func (l *Lab) stateFile() string { return filepath.Join(l.dir, "state.json") }

// change alters the state and saves it.
func (l *Lab) change(fn func(*state)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn(&l.st)
	b, err := json.MarshalIndent(l.st, "", " ")
	if err != nil {
		return err
	}
	tmp := l.stateFile() + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, l.stateFile())
}

// read gives fn the state; it must not keep references to its maps.
func (l *Lab) read(fn func(*state)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn(&l.st)
}

// makeDir makes the state directory, on a tmpfs of its own: overlays can't lie on an
// overlay, as the file system of a container is one, and what a lab writes need not
// outlive the machine.
func (l *Lab) makeDir() error {
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", l.dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", l.dir, err)
	}
	return nil
}

func (l *Lab) removeDir() error {
	err := unix.Unmount(l.dir, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // not mounted, or gone
		return fmt.Errorf("unmount %s: %w", l.dir, err)
	}
	if err := os.RemoveAll(l.dir); err != nil {
		return err
	}
	_ = os.Remove(stateRoot) // the last lab takes the root along
	return nil
}

// Topology is the lab's underlay.
func (l *Lab) Topology() Topology { return l.st.Topology }

// Spec is what the lab was built from.
func (l *Lab) Spec() Spec { return l.st.Spec }

// Dir is the lab's state directory; its nodes/ has the logs.
func (l *Lab) Dir() string { return l.dir }
