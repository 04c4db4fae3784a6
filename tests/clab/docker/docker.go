// Package docker speaks to a Docker Engine by its command line, and starts one of
// its own where none answers: in a network namespace of its own, so that nothing of
// it reaches the machine's network, with its images in the user's cache.
package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Docker is an engine that answers.
type Docker struct {
	host string // DOCKER_HOST; empty: as the environment says
}

// Find returns the engine that the environment names, if it answers.
func Find(ctx context.Context) (Docker, bool) {
	d := Docker{}
	return d, d.answers(ctx)
}

func (d Docker) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := d.Run(ctx, "version", "--format", "{{.Server.Version}}")
	return err == nil
}

// Host is the engine's address for DOCKER_HOST.
func (d Docker) Host() string {
	if d.host != "" {
		return d.host
	}
	if h := os.Getenv("DOCKER_HOST"); h != "" {
		return h
	}
	return "unix:///var/run/docker.sock"
}

// Env is the environment in which a program finds the engine.
func (d Docker) Env() []string {
	if d.host == "" {
		return os.Environ()
	}
	return append(os.Environ(), "DOCKER_HOST="+d.host)
}

// Version is the engine's.
func (d Docker) Version(ctx context.Context) string {
	v, _ := d.Run(ctx, "version", "--format", "{{.Server.Version}}")
	return v
}

// Run runs a docker command and returns what it prints, trimmed.
func (d Docker) Run(ctx context.Context, args ...string) (string, error) {
	return d.Pipe(ctx, nil, args...)
}

// Pipe is Run with an input.
func (d Docker) Pipe(ctx context.Context, in io.Reader, args ...string) (string, error) {
	cmd := d.Command(ctx, args...)
	cmd.Stdin = in
	return Output(cmd)
}

// Command is a docker command that is not started yet.
func (d Docker) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := Command(ctx, "docker", args...)
	cmd.Env = d.Env()
	return cmd
}

// Exec runs a command in a container.
func (d Docker) Exec(ctx context.Context, container string, args ...string) (string, error) {
	return d.Run(ctx, append([]string{"exec", container}, args...)...)
}

// PID is a container's first process, in this machine's numbers.
func (d Docker) PID(ctx context.Context, container string) (int, error) {
	out, err := d.Run(ctx, "inspect", "--format", "{{.State.Pid}}", container)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(out)
	if err != nil || pid == 0 {
		return 0, fmt.Errorf("container %s does not run", container)
	}
	return pid, nil
}

// Command is a command that a ^C at the terminal does not reach: it is ended, and
// asked first, when ctx ends.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Output runs cmd and returns its standard output, trimmed. The error has what the
// command said about it.
func Output(cmd *exec.Cmd) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	text := strings.TrimSpace(out.String())
	if err == nil {
		return text, nil
	}
	if errors.Is(err, exec.ErrNotFound) {
		return "", err
	}
	said := strings.TrimSpace(errs.String())
	if said == "" {
		said = text
	}
	return text, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args[:min(3, len(cmd.Args))], " "), err, said)
}
