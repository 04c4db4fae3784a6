// Package delegate runs IPAM plugins of others (host-local, static, …) for felix, as
// CNI's section 4 says a main plugin does: with the call's own parameters, found in
// CNI_PATH.
package delegate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"tortie/internal/control/cniwire"
)

// Call is what a plugin is given.
type Call struct {
	Type string // the plugin's name
	// Path is CNI_PATH: folders, as felix sees them.
	Path                             string
	Config                           json.RawMessage
	ContainerID, IfName, Netns, Args string
}

// Result is what a plugin assigned.
type Result struct {
	Addrs []netip.Addr
	DNS   types.DNS
}

// Runner runs plugins as processes. The zero value is ready.
type Runner struct{}

// Add has addresses assigned. After an error they may be assigned all the same: DEL
// takes them back.
func (Runner) Add(ctx context.Context, c Call) (Result, error) {
	path, err := c.find()
	if err != nil {
		return Result{}, err
	}
	raw, err := invoke.ExecPluginWithResult(ctx, path, c.Config, c.as("ADD"), &process{})
	if err != nil {
		return Result{}, c.failed(ctx, "ADD", err)
	}
	result, err := types100.NewResultFromResult(raw)
	if err != nil {
		return Result{}, c.failed(ctx, "ADD", err)
	}
	out := Result{DNS: result.DNS}
	for _, ip := range result.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return Result{}, c.failed(ctx, "ADD", fmt.Errorf("%s in its result is no address", &ip.Address))
		}
		out.Addrs = append(out.Addrs, addr.Unmap())
	}
	if len(out.Addrs) == 0 {
		return Result{}, c.failed(ctx, "ADD", errors.New("its result has no address"))
	}
	return out, nil
}

// Do runs a command that has no result: DEL, CHECK, GC or STATUS.
func (Runner) Do(ctx context.Context, command string, c Call) error {
	path, err := c.find()
	if err != nil {
		return err
	}
	if err := invoke.ExecPluginWithoutResult(ctx, path, c.Config, c.as(command), &process{}); err != nil {
		return c.failed(ctx, command, err)
	}
	return nil
}

// MissingError says that there is no such plugin.
type MissingError struct{ Type, Path string }

// Error is one line for the operator.
func (e *MissingError) Error() string {
	return fmt.Sprintf("IPAM plugin %s: felix does not find it in CNI_PATH %s; install it there, and where felix runs in a container mount that folder into it", e.Type, e.Path)
}

func (c Call) find() (string, error) {
	path, err := invoke.FindInPath(c.Type, filepath.SplitList(c.Path))
	if err != nil {
		return "", &MissingError{c.Type, c.Path}
	}
	return path, nil
}

func (c Call) as(command string) *invoke.Args {
	return &invoke.Args{
		Command: command, ContainerID: c.ContainerID, NetNS: c.Netns, PluginArgsStr: c.Args, IfName: c.IfName, Path: c.Path,
	}
}

// failed puts the plugin's own error into a call's, with its code.
func (c Call) failed(ctx context.Context, command string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("IPAM plugin %s: %s: %w", c.Type, command, context.Cause(ctx))
	}
	told, ok := errors.AsType[*types.Error](err)
	if !ok {
		return fmt.Errorf("IPAM plugin %s: %s: %w", c.Type, command, err)
	}
	return &cniwire.Error{Code: told.Code, Msg: fmt.Sprintf("IPAM plugin %s: %s: %s", c.Type, command, told.Msg), Details: told.Details}
}

// waitDelay is how long a plugin's output is waited for after its end, should somebody
// else hold it open.
const waitDelay = time.Second

// process runs a plugin with the environment of a CNI call and none of felix's own:
// that may hold the datastore's password.
type process struct{ version.PluginDecoder }

// ExecPlugin implements invoke.Exec.
func (*process) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.WaitDelay = waitDelay
	// With its children, which would go on assigning.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	for _, pair := range environ {
		if strings.HasPrefix(pair, "CNI_") || strings.HasPrefix(pair, "PATH=") {
			cmd.Env = append(cmd.Env, pair)
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	told := &types.Error{}
	if json.Unmarshal(stdout.Bytes(), told) == nil && told.Msg != "" {
		return nil, told
	}
	said := strings.Join(strings.Fields(stdout.String()+" "+stderr.String()), " ")
	return nil, fmt.Errorf("%w: %.500s", err, said)
}

// FindInPath implements invoke.Exec.
func (*process) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}
