package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tortie/tests/process"
)

// Process is one process the lab started. PID and Start together identify it: a
// reused PID has another start time.
type Process struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // field 22 of /proc/PID/stat, in clock ticks since boot
	Log   string `json:"log,omitempty"`
}

// command says what to start and in which namespaces.
type command struct {
	name string
	path string
	args []string
	env  []string
	// net is a network namespace file; "" stays in ours.
	net string
	// mnt is the PID whose mount namespace and root are joined; 0 stays in ours.
	mnt int
	log string // file for both outputs
	// clone makes the process the first of new namespaces.
	clone uintptr

	stdin          io.Reader
	stdout, stderr io.Writer
}

// start starts c in the background. The process is in a session of its own, so
// that it outlives the lab command.
func start(c command) (Process, error) {
	cmd := c.exec()
	if c.log != "" {
		f, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return Process{}, err
		}
		defer f.Close()
		cmd.Stdout, cmd.Stderr = f, f
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: c.clone}
	if err := c.enter(cmd.Start); err != nil {
		return Process{}, fmt.Errorf("start %s: %w", c.name, err)
	}
	// Reap it when it ends, so that its PID does not stay as a zombie of ours.
	go func() { _ = cmd.Wait() }()
	begun, err := process.StartTime(cmd.Process.Pid)
	if err != nil {
		return Process{}, fmt.Errorf("start %s: it ended at once; see %s", c.name, c.log)
	}
	return Process{Name: c.name, PID: cmd.Process.Pid, Start: begun, Log: c.log}, nil
}

// run runs c to its end and returns how long the process took: joining the
// namespaces is not part of it.
func run(c command) (took time.Duration, err error) {
	cmd := c.exec()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdin, c.stdout, c.stderr
	var began time.Time
	if err := c.enter(func() error { began = time.Now(); return cmd.Start() }); err != nil {
		return 0, fmt.Errorf("start %s: %w", c.name, err)
	}
	err = cmd.Wait()
	return time.Since(began), err
}

func (c command) exec() *exec.Cmd {
	cmd := exec.Command(c.path, c.args...)
	cmd.Env = append(os.Environ(), c.env...)
	return cmd
}

// enter calls fn on a thread that has joined c's namespaces. The thread is thrown
// away afterwards: a thread in a foreign mount namespace must not serve anyone else.
// It is never the process's first thread: that one can't be thrown away, and stands
// for the whole process in /proc.
func (c command) enter(fn func() error) error {
	if c.net == "" && c.mnt == 0 {
		return fn()
	}
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			errc <- c.enter(fn) // on another thread, for this one is taken
			runtime.UnlockOSThread()
			return
		}
		errc <- c.join(fn)
	}()
	return <-errc
}

func (c command) join(fn func() error) error {
	if c.net != "" {
		if err := setns(c.net, unix.CLONE_NEWNET); err != nil {
			return err
		}
	}
	if c.mnt != 0 {
		wd, err := os.Getwd()
		if err != nil {
			return err
		}
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare filesystem attributes: %w", err)
		}
		for _, ns := range []struct {
			file string
			flag int
		}{{"mnt", unix.CLONE_NEWNS}, {"uts", unix.CLONE_NEWUTS}} {
			if err := setns(fmt.Sprintf("/proc/%d/ns/%s", c.mnt, ns.file), ns.flag); err != nil {
				return err
			}
		}
		// Joining a mount namespace moves the working directory to its root.
		if err := unix.Chdir(wd); err != nil {
			_ = unix.Chdir("/")
		}
	}
	return fn()
}

func setns(path string, flag int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, flag); err != nil {
		return fmt.Errorf("join namespace %s: %w", path, err)
	}
	return nil
}

// inNetns calls fn on a thread in the given network namespace.
func inNetns(path string, fn func() error) error {
	return command{net: path}.enter(fn)
}

// Alive reports whether the process still runs.
func (p Process) Alive() bool {
	if p.PID == 0 {
		return false
	}
	begun, err := process.StartTime(p.PID)
	return err == nil && begun == p.Start
}

// Netns is the process's network namespace, as a file.
func (p Process) Netns() string { return fmt.Sprintf("/proc/%d/ns/net", p.PID) }

// Signal sends a signal, if the process still runs.
func (p Process) Signal(sig syscall.Signal) error {
	if !p.Alive() {
		return nil
	}
	err := syscall.Kill(p.PID, sig)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// Wait waits until the process has ended.
func (p Process) Wait(patience time.Duration) error {
	for end := time.Now().Add(patience); p.Alive(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s (pid %d) still runs after %v", p.Name, p.PID, patience)
		}
	}
	return nil
}

// stopAll ends processes: SIGTERM, then SIGKILL for who is left.
func stopAll(ps []Process, patience time.Duration) {
	for _, p := range ps {
		_ = p.Signal(syscall.SIGTERM)
	}
	end := time.Now().Add(patience)
	for _, p := range ps {
		if p.Wait(max(0, time.Until(end))) != nil {
			_ = p.Signal(syscall.SIGKILL)
			_ = p.Wait(5 * time.Second)
		}
	}
}
