package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Engine is a Docker Engine of our own. It is known by its folder: another process
// finds and stops it just as well.
type Engine struct {
	Docker
	dir   string
	cache string
	self  string
}

// netnsName is the network namespace of the engine, and the name of its cgroup.
const netnsName = "tortie-clab"

// pluginDir is where every dockerd looks for plugins; it makes the folder, wherever
// its own files are.
const pluginDir = "/run/docker/plugins"

// Own describes the engine of a folder, whether it runs or not. Its images are kept
// in the folder cache; self is this program, for the engine runs it as its runtime
// (see Runc).
func Own(dir, cache, self string) *Engine {
	return &Engine{Docker: Docker{host: "unix://" + filepath.Join(dir, "docker.sock")}, dir: dir, cache: cache, self: self}
}

// Netns is the file of the engine's network namespace.
func (e *Engine) Netns() string { return "/run/netns/" + netnsName }

// Runs reports whether the engine answers.
func (e *Engine) Runs(ctx context.Context) bool { return e.answers(ctx) }

// Start starts the engine and returns when it answers. What is left of one that was
// killed is removed first.
func (e *Engine) Start(ctx context.Context) error {
	if err := e.Stop(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(e.dir, "exec"), 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(pluginDir); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(e.madePlugins(), nil, 0o644); err != nil {
			return err
		}
	}
	for _, args := range [][]string{{"netns", "add", netnsName}, {"-n", netnsName, "link", "set", "lo", "up"}} {
		if _, err := Output(Command(ctx, "ip", args...)); err != nil {
			return fmt.Errorf("a network namespace for Docker: %w", err)
		}
	}
	args, err := e.arguments()
	if err != nil {
		return err
	}
	log, err := os.Create(e.log())
	if err != nil {
		return err
	}
	defer log.Close()
	// nsenter, not `ip netns exec`: that mounts a new /sys, without the cgroups.
	cmd := exec.Command("nsenter", append([]string{"--net=" + e.Netns(), "dockerd"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start dockerd: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its log says more
		close(ended)
	}()
	return e.await(ctx, ended)
}

// madePlugins is a file that says that pluginDir was not there before us.
func (e *Engine) madePlugins() string { return filepath.Join(e.dir, "made-plugins") }

func (e *Engine) log() string { return filepath.Join(e.dir, "dockerd.log") }

func (e *Engine) pidFile() string { return filepath.Join(e.dir, "docker.pid") }

func (e *Engine) arguments() ([]string, error) {
	args := []string{
		"--data-root", e.cache, "--exec-root", filepath.Join(e.dir, "exec"), "--host", e.host, "--pidfile", e.pidFile(),
		"--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", netnsName,
	}
	if mayRaiseLimits() {
		return args, nil
	}
	runtime := filepath.Join(e.dir, "runc")
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' runc \"$@\"\n", e.self)
	if err := os.WriteFile(runtime, []byte(script), 0o755); err != nil {
		return nil, err
	}
	return append(args, "--add-runtime", "lab="+runtime, "--default-runtime", "lab"), nil
}

func (e *Engine) await(ctx context.Context, ended <-chan struct{}) error {
	limit := time.After(60 * time.Second)
	for !e.Runs(ctx) {
		select {
		case <-ended:
			return errors.Join(fmt.Errorf("dockerd ended at once: %s", e.lastWords()), e.Stop(context.WithoutCancel(ctx)))
		case <-ctx.Done():
			return errors.Join(ctx.Err(), e.Stop(context.WithoutCancel(ctx)))
		case <-limit:
			return errors.Join(fmt.Errorf("dockerd does not answer after a minute: %s", e.lastWords()), e.Stop(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// lastWords are the last lines of the engine's log.
func (e *Engine) lastWords() string {
	text, err := os.ReadFile(e.log())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}

// Stop ends the engine and removes its namespace and folder; its images stay. What
// is not there is no failure.
func (e *Engine) Stop(ctx context.Context) error {
	if pid := e.pid(); pid != 0 {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop dockerd: %w", err)
		}
		for end := time.Now().Add(30 * time.Second); e.pid() != 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				return fmt.Errorf("stop dockerd: process %d still runs after 30 s; its log is %s", pid, e.log())
			}
		}
	}
	if _, err := os.Stat(e.Netns()); err == nil {
		if _, err := Output(Command(ctx, "ip", "netns", "del", netnsName)); err != nil {
			return err
		}
	}
	e.removeCgroups()
	if os.Remove(e.madePlugins()) == nil {
		// Only if nobody has put anything there since.
		_ = os.Remove(pluginDir)
		_ = os.Remove(filepath.Dir(pluginDir))
	}
	return os.RemoveAll(filepath.Join(e.dir, "exec"))
}

// removeCgroups removes the folders that the engine leaves in every hierarchy; one
// with something in it can't be removed, and stays.
func (e *Engine) removeCgroups() {
	for _, pattern := range []string{"/sys/fs/cgroup/" + netnsName, "/sys/fs/cgroup/*/" + netnsName} {
		dirs, _ := filepath.Glob(pattern)
		for _, dir := range dirs {
			_ = os.Remove(dir)
		}
	}
}

// pid is the running engine's process, or 0. A process that isn't ours but has its
// number by now is not taken for it.
func (e *Engine) pid() int {
	text, err := os.ReadFile(e.pidFile())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(cmdline), e.pidFile()) {
		return 0
	}
	return pid
}
