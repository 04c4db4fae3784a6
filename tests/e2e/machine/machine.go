package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tortie/internal/kernel"
	"tortie/tests/process"
)

// Machine is one that runs.
type Machine struct {
	Spec Spec `json:"-"`
	// PID is its first process, as this machine sees it. It is a child of nobody
	// who waits, and its number is used again only after it is gone; Start tells.
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// startTimeout is how long a machine may take to come up.
const startTimeout = 30 * time.Second

// Up starts a machine. program is the one that has InitCommand.
func Up(ctx context.Context, program string, s Spec) (*Machine, error) {
	for _, dir := range []string{s.rootDir(), s.logDir(), s.controlDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := s.save(); err != nil {
		return nil, err
	}
	if err := os.Remove(s.controlFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := copyFile(s.specFile(), filepath.Join(s.controlDir(), "spec.json")); err != nil {
		return nil, err
	}
	if s.Cgroup != "" {
		if err := makeCgroups(s.Cgroup); err != nil {
			return nil, err
		}
	}
	log, err := os.Create(s.Log("machine"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, InitCommand, s.specFile()) //nolint:noctx // it outlives its starter
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the machine %s: %w", s.Name, err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	m := &Machine{Spec: s, PID: cmd.Process.Pid}
	if m.Start, err = process.StartTime(m.PID); err == nil {
		err = m.save()
	}
	if err == nil {
		err = m.awaitUp(ctx, ended)
	}
	if err != nil {
		text, _ := os.ReadFile(s.Log("machine"))
		return nil, errors.Join(fmt.Errorf("start the machine %s: %w: %s", s.Name, err, strings.TrimSpace(string(text))), m.Down())
	}
	return m, nil
}

func (m *Machine) awaitUp(ctx context.Context, ended <-chan struct{}) error {
	deadline := time.After(startTimeout)
	for {
		if _, err := os.Stat(m.Spec.controlFile()); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ended:
			return errors.New("it ended")
		case <-deadline:
			return errors.New("its control socket doesn't appear")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (m *Machine) file() string { return filepath.Join(m.Spec.Dir, "machine.json") }

func (m *Machine) save() error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(m.file(), text, 0o600)
}

// Find reads the machine of a folder, whether it runs or not.
func Find(dir string) (*Machine, error) {
	m := &Machine{Spec: Spec{Dir: dir}}
	text, err := os.ReadFile(m.file())
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, err
	}
	m.Spec, err = loadSpec(m.Spec.specFile())
	return m, err
}

// Alive reports whether it runs.
func (m *Machine) Alive() bool {
	start, err := process.StartTime(m.PID)
	return err == nil && start == m.Start
}

// Down takes the machine's power: all its processes end at once. Its folder stays.
func (m *Machine) Down() error {
	if m.Alive() {
		if err := syscall.Kill(m.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		for end := time.Now().Add(30 * time.Second); m.Alive(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				return fmt.Errorf("the machine %s (pid %d) doesn't end", m.Spec.Name, m.PID)
			}
		}
	}
	if m.Spec.Cgroup != "" {
		return removeCgroups(m.Spec.Cgroup)
	}
	return nil
}

// Netns is its network namespace.
func (m *Machine) Netns() string { return fmt.Sprintf("/proc/%d/ns/net", m.PID) }

// Path is where this machine sees a file of that one.
func (m *Machine) Path(path string) string {
	return filepath.Join("/proc", strconv.Itoa(m.PID), "root", path)
}

// Command is a program on the machine.
func (m *Machine) Command(ctx context.Context, args ...string) *exec.Cmd {
	all := []string{"--target", strconv.Itoa(m.PID), "--mount", "--pid", "--ipc", "--uts", "--net", "--root", "--wdns=/", "--", "env"}
	all = append(all, m.Spec.environ()...)
	return exec.CommandContext(ctx, "nsenter", append(all, args...)...)
}

// Run runs a program on the machine and returns what it printed.
func (m *Machine) Run(ctx context.Context, args ...string) (string, error) {
	out, err := m.Command(ctx, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s on %s: %w: %s", strings.Join(args, " "), m.Spec.Name, err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// StartService starts a service, anew when it runs.
func (m *Machine) StartService(ctx context.Context, s Service) error {
	_, err := m.ask(ctx, request{Start: &s})
	return err
}

// StartServices starts those of the Spec.
func (m *Machine) StartServices(ctx context.Context) error {
	for _, s := range m.Spec.Services {
		if err := m.StartService(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// RestartService starts a service anew as it was.
func (m *Machine) RestartService(ctx context.Context, name string, kill bool) error {
	for _, s := range m.Spec.Services {
		if s.Name == name {
			_, err := m.ask(ctx, request{Start: &s, Kill: kill})
			return err
		}
	}
	return fmt.Errorf("%s has no service %q", m.Spec.Name, name)
}

// StopService stops a service, at once and without its knowing if kill says so.
func (m *Machine) StopService(ctx context.Context, name string, kill bool) error {
	_, err := m.ask(ctx, request{Stop: name, Kill: kill})
	return err
}

// Services are those that run, with their process IDs on the machine.
func (m *Machine) Services(ctx context.Context) (map[string]int, error) {
	resp, err := m.ask(ctx, request{})
	return resp.Services, err
}

func (m *Machine) ask(ctx context.Context, req request) (response, error) {
	var resp response
	// The path may be longer than a socket's name can be.
	dir, err := os.Open(m.Spec.controlDir())
	if err != nil {
		return resp, err
	}
	defer dir.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/socket", dir.Fd()))
	if err != nil {
		return resp, fmt.Errorf("control %s: %w", m.Spec.Name, err)
	}
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return resp, err
	}
	if err := json.NewDecoder(conn).Decode(&resp); err != nil {
		return resp, fmt.Errorf("control %s: %w", m.Spec.Name, err)
	}
	if resp.Err != "" {
		return resp, fmt.Errorf("control %s: %s", m.Spec.Name, resp.Err)
	}
	return resp, nil
}

// Dial connects from the machine's network to an address, which must be one, not
// a name.
func (m *Machine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := kernel.WithNetns(m.Netns(), func() error {
		var err error
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// makeCgroups makes a cgroup for the machine in each hierarchy.
func makeCgroups(name string) error {
	dirs, err := cgroupDirs()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		own := filepath.Join(dir, name)
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		// A cpuset is empty until it is filled.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if text, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				if err := os.WriteFile(filepath.Join(own, file), text, 0o644); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func removeCgroups(name string) error {
	dirs, err := cgroupDirs()
	if err != nil {
		return err
	}
	var left error
	for _, dir := range dirs {
		var all []string
		_ = filepath.WalkDir(filepath.Join(dir, name), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for i := len(all) - 1; i >= 0; i-- { // the deepest first
			left = errors.Join(left, removeBusy(all[i]))
		}
	}
	return left
}

// removeBusy removes a cgroup, whose processes may still be dying.
func removeBusy(dir string) (err error) {
	for range 100 {
		if err = os.Remove(dir); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// cgroupDirs are the roots of the hierarchies on this machine.
func cgroupDirs() ([]string, error) {
	const base = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(base, "cgroup.controllers")); err == nil {
		return []string{base}, nil
	}
	entries, err := os.ReadDir(base)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() { // the others are links to them
			dirs = append(dirs, filepath.Join(base, e.Name()))
		}
	}
	return dirs, nil
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o600)
}
