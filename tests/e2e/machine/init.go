package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// InitCommand and superviseCommand are the hidden commands of the program that
// starts machines: it is their first process as well.
const (
	InitCommand      = "machine-init"
	SuperviseCommand = "machine-supervise"
)

// Init is the body of a machine's first process: it makes the root, starts the
// supervisor and from then on only buries the dead.
func Init(specFile string) error {
	s, err := loadSpec(specFile)
	if err != nil {
		return err
	}
	if err := s.makeRoot(); err != nil {
		return fmt.Errorf("make the root of %s: %w", s.Name, err)
	}
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	self := "/proc/self/exe"
	child, err := os.StartProcess(self, []string{self, SuperviseCommand, "/run/machine/spec.json"},
		&os.ProcAttr{Env: s.environ(), Files: []*os.File{nil, os.Stdout, os.Stderr}})
	if err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid == child.Pid {
			return err // all end with us
		}
	}
}

func (s Spec) environ() []string {
	path := "/usr/sbin:/usr/bin:/sbin:/bin"
	if s.Path != "" {
		path = s.Path + ":" + path
	}
	return []string{"PATH=" + path, "HOME=/root"}
}

// makeRoot mounts the overlay and what belongs into it, and goes there.
func (s Spec) makeRoot() error {
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// By overlayfs' rules what is written must not lie below what is covered, which
	// is the whole disk.
	base := s.rootDir()
	if err := mount("tmpfs", base, "tmpfs", 0, "size=4g,mode=755"); err != nil {
		return err
	}
	up, work, root := filepath.Join(base, "up"), filepath.Join(base, "work"), filepath.Join(base, "root")
	for _, dir := range []string{up, work, root} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := mount("overlay", root, "overlay", 0, "lowerdir=/,upperdir="+up+",workdir="+work); err != nil {
		return err
	}
	steps := []func(root string) error{s.mountSystem, s.mountCgroups, s.bind, s.hide, s.writeFiles}
	for _, step := range steps {
		if err := step(root); err != nil {
			return err
		}
	}
	return enterRoot(root)
}

func (s Spec) mountSystem(root string) error {
	for _, m := range []struct{ what, where, kind string }{
		{"proc", "proc", "proc"},
		{"sysfs", "sys", "sysfs"},
		{"tmpfs", "run", "tmpfs"},
		{"tmpfs", "tmp", "tmpfs"},
	} {
		if err := mount(m.what, filepath.Join(root, m.where), m.kind, 0, ""); err != nil {
			return err
		}
	}
	if err := mount("bpf", filepath.Join(root, "sys/fs/bpf"), "bpf", 0, ""); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return mount("/dev", filepath.Join(root, "dev"), "", unix.MS_BIND|unix.MS_REC, "")
}

// mountCgroups mounts the hierarchies anew: a fresh sysfs has none.
func (s Spec) mountCgroups(root string) error {
	if s.Cgroup == "" {
		return nil
	}
	base := filepath.Join(root, "sys/fs/cgroup")
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	if len(hierarchies) == 1 {
		return mount("cgroup2", base, "cgroup2", 0, "")
	}
	if err := mount("tmpfs", base, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, h := range hierarchies {
		dir := filepath.Join(base, h.folder)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := mount("cgroup", dir, h.kind, 0, h.options); err != nil {
			return err
		}
	}
	return nil
}

// hierarchy is one tree of cgroups.
type hierarchy struct{ folder, kind, options string }

// cgroupHierarchies are those that this process is in.
func cgroupHierarchies() ([]hierarchy, error) {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []hierarchy
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.SplitN(lines.Text(), ":", 3)
		if len(fields) < 3 {
			continue
		}
		switch controllers := fields[1]; {
		case controllers == "":
			all = append(all, hierarchy{"unified", "cgroup2", ""})
		case strings.HasPrefix(controllers, "name="):
			all = append(all, hierarchy{strings.TrimPrefix(controllers, "name="), "cgroup", "none," + controllers})
		default:
			all = append(all, hierarchy{controllers, "cgroup", controllers})
		}
	}
	return all, nil
}

func (s Spec) bind(root string) error {
	binds := map[string]string{"/var/log": s.logDir(), controlOnMachine: s.controlDir()}
	for inside, folder := range s.Binds {
		if !filepath.IsAbs(folder) {
			folder = filepath.Join(s.Dir, folder)
		}
		binds[inside] = folder
	}
	for inside, outside := range binds {
		to := filepath.Join(root, inside)
		for _, dir := range []string{to, outside} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		if err := mount(outside, to, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

func (s Spec) hide(root string) error {
	for _, dir := range s.Hidden {
		to := filepath.Join(root, dir)
		if err := os.RemoveAll(to); err != nil {
			return err
		}
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (s Spec) writeFiles(root string) error {
	for path, content := range s.Files {
		to := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		// Without the link, if it is one: what it names may be of another root.
		if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(to, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// enterRoot makes root the root, with mounts that are shared: a pod may ask for
// propagation in both directions.
func enterRoot(root string) error {
	old := filepath.Join(root, "oldroot")
	if err := os.MkdirAll(old, 0o755); err != nil {
		return err
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return err
	}
	if err := mount("", "/oldroot", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Unmount("/oldroot", unix.MNT_DETACH)
}

func mount(what, where, kind string, flags uintptr, options string) error {
	if err := unix.Mount(what, where, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", strings.TrimSpace(kind+" "+what), where, err)
	}
	return nil
}

// Supervise is the body of the supervisor: it runs the services, and starts and
// stops them as it is told.
func Supervise(ctx context.Context, specFile string) error {
	s, err := loadSpec(specFile)
	if err != nil {
		return err
	}
	sup := newSupervisor(ctx, func(service Service) *exec.Cmd { return s.command(ctx, service) })
	return sup.serve(filepath.Join(controlOnMachine, "socket"))
}

// command is a service's process; both outputs go to its log.
func (s Spec) command(ctx context.Context, service Service) *exec.Cmd {
	args := slices.Clone(service.Args)
	for _, dir := range strings.Split(s.Path, ":") {
		if full := filepath.Join(dir, args[0]); dir != "" && !strings.Contains(args[0], "/") {
			if _, err := os.Stat(full); err == nil {
				args[0] = full
				break
			}
		}
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(s.environ(), service.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	log, err := os.OpenFile(filepath.Join("/var/log", service.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		cmd.Stdout, cmd.Stderr = log, log
	}
	return cmd
}
