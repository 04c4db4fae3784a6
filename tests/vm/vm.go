// Package vm runs commands in a small virtual machine with Debian's kernel, which has
// what the kernel of this machine may lack: ipip, wireguard, dummy, vrf, netem.
//
// The virtual machine's root is this machine's, seen through a throw-away overlay: a
// command finds its programs and files where they are, and changes nothing. It needs
// qemu, and no KVM; where KVM works it is used.
package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Command is a command for the virtual machine.
type Command struct {
	// Args are the program, absolute or in PATH, and its arguments.
	Args []string
	// Dir is where it runs.
	Dir string
	// Env is all of its environment; TMPDIR becomes a folder in memory.
	Env []string
}

// Machine is how to run commands.
type Machine struct {
	Image Image
	// Program is the virtual machine's first process: one that calls [Init] where
	// [IsInit] is true.
	Program string
	// CPUs and MiB of memory. An emulated processor is the only one: of several, qemu 7.2
	// runs code for ever that another one has patched meanwhile, which its guest does with
	// traffic on and packet rules that come and go.
	CPUs, Memory   int
	Stdout, Stderr io.Writer
}

// DiedError says that the virtual machine ended, or was ended, before its commands did.
type DiedError struct {
	Cause error // nil when it ended by itself
	// Console is the last that its kernel said.
	Console string
}

// Error names the cause and what the kernel said.
func (e *DiedError) Error() string {
	what := "it panicked, or was switched off"
	if e.Cause != nil {
		what = e.Cause.Error()
	}
	return fmt.Sprintf("the virtual machine ended before its command: %s; the last lines of its console:\n%s", what, e.Console)
}

// Unwrap gives the cause.
func (e *DiedError) Unwrap() error { return e.Cause }

// Emulated is in the environment of commands whose processor is emulated: what waits there
// for something to come about is to wait much longer.
const Emulated = "TORTIE_EMULATED_PROCESSOR"

// Run runs commands one after another in one fresh virtual machine, and gives the
// status that each ended with.
func (m Machine) Run(ctx context.Context, commands ...Command) ([]int, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("run as root: the virtual machine's root is this machine's, all of which qemu must be able to read")
	}
	dir, err := os.MkdirTemp("", "tortie-vm-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := m.prepare(dir, commands); err != nil {
		return nil, fmt.Errorf("prepare a virtual machine: %w", err)
	}
	if err := m.boot(ctx, dir); err != nil {
		return nil, err
	}
	var ended []int
	for i := range commands {
		text, err := os.ReadFile(filepath.Join(dir, shareDir, statusFile(i)))
		if err != nil {
			return ended, &DiedError{Console: lastLines(filepath.Join(dir, "console"))}
		}
		status, err := strconv.Atoi(string(text))
		if err != nil {
			return ended, err
		}
		ended = append(ended, status)
	}
	return ended, nil
}

const (
	shareDir   = "share"
	ordersFile = "orders.json"
	moduleDir  = "modules"
)

func statusFile(i int) string { return fmt.Sprintf("status-%d", i) }

// orders are what the first process of the virtual machine is to do.
type orders struct {
	Modules  string
	Commands []Command
}

func (m Machine) prepare(dir string, commands []Command) error {
	ramdisk, err := initrd(m.Program, m.Image)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "initrd"), ramdisk, 0o600); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, shareDir), 0o700); err != nil {
		return err
	}
	if !hasKVM() {
		commands = slices.Clone(commands)
		for i := range commands {
			commands[i].Env = append(slices.Clone(commands[i].Env), Emulated+"=1")
		}
	}
	data, err := json.Marshal(orders{Modules: m.Image.Modules, Commands: commands})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, shareDir, ordersFile), data, 0o600)
}

// boot returns when the virtual machine is off.
func (m Machine) boot(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", m.arguments(dir)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	// It is not to outlive this process, whichever way that one ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var copies []<-chan error
	for _, to := range []io.Writer{m.Stdout, m.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer r.Close()
		defer w.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, w)
		copies = append(copies, copying(to, r))
	}
	err := cmd.Run()
	for i, done := range copies {
		cmd.ExtraFiles[i].Close()
		err = errors.Join(err, <-done)
	}
	switch {
	case ctx.Err() != nil:
		return &DiedError{Cause: context.Cause(ctx), Console: lastLines(filepath.Join(dir, "console"))}
	case err != nil:
		return fmt.Errorf("qemu-system-x86_64: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

func copying(to io.Writer, from io.Reader) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(to, from)
		done <- err
	}()
	return done
}

func (m Machine) arguments(dir string) []string {
	share := func(id, path, more string) []string {
		return []string{
			"-fsdev", "local,id=" + id + ",path=" + path + ",security_model=none,multidevs=remap" + more,
			"-device", "virtio-9p-pci,fsdev=" + id + ",mount_tag=" + id,
		}
	}
	// A machine that locks up is to say where, and to end: after twice watchdog_thresh.
	args := []string{
		"-M", "q35,usb=off,vmport=off", "-m", strconv.Itoa(m.Memory),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-net", "none",
		"-serial", "file:" + filepath.Join(dir, "console"),
		"-kernel", m.Image.Kernel, "-initrd", filepath.Join(dir, "initrd"),
		"-append", "console=ttyS0 loglevel=5 panic=-1 softlockup_panic=1 softlockup_all_cpu_backtrace=1 watchdog_thresh=30 mitigations=off tsc=reliable nokaslr " + initMark + "=1",
		"-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
	}
	if hasKVM() {
		args = append(args, "-accel", "kvm", "-cpu", "host", "-smp", strconv.Itoa(m.CPUs))
	} else {
		// A processor with AVX would have wireguard use it, which is slow to emulate.
		args = append(args, "-accel", "tcg", "-cpu", "Nehalem", "-smp", "1")
	}
	args = append(args, share("root", "/", ",readonly=on")...)
	args = append(args, share("share", filepath.Join(dir, shareDir), "")...)
	for i, name := range outputs() {
		fd := strconv.Itoa(3 + i)
		args = append(args, "-add-fd", "fd="+fd+",set="+fd,
			"-chardev", "file,id="+name+",path=/dev/fdset/"+fd+",append=on", "-device", "virtserialport,chardev="+name+",name="+name)
	}
	return args
}

// hasKVM: a /dev/kvm alone does not say it. One that is no processor's (PVM) opens,
// and runs no kernel of Debian's.
func hasKVM() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	for _, module := range []string{"kvm_intel", "kvm_amd"} {
		if _, err := os.Stat("/sys/module/" + module); err == nil {
			return true
		}
	}
	return false
}

func lastLines(console string) string {
	data, err := os.ReadFile(console)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-250):], "\n")
}
