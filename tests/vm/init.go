package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// initMark, on the kernel's command line, comes to be in the environment of the first
// process.
const initMark = "TORTIE_VM"

// outputs are the channels to this machine, in the order of their descriptors.
func outputs() []string { return []string{"stdout", "stderr"} }

// IsInit reports whether this process is the first of a virtual machine.
func IsInit() bool { return os.Getpid() == 1 && os.Getenv(initMark) != "" }

// Init carries out the machine's orders and switches it off. It does not return.
func Init() {
	if err := carryOut(); err != nil {
		fmt.Fprintln(os.Stderr, "the first process of the virtual machine:", err)
	}
	unix.Sync()
	for {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
}

func carryOut() error {
	if err := enterRoot(); err != nil {
		return err
	}
	const share = "/run/vm"
	data, err := os.ReadFile(filepath.Join(share, ordersFile))
	if err != nil {
		return err
	}
	var o orders
	if err := json.Unmarshal(data, &o); err != nil {
		return err
	}
	if err := furnish(o.Modules); err != nil {
		return err
	}
	stdio, err := openOutputs()
	if err != nil {
		return err
	}
	for i, c := range o.Commands {
		status, err := runHere(c, stdio)
		if err != nil {
			fmt.Fprintf(stdio[2], "vm: %s: %v\n", strings.Join(c.Args, " "), err)
			status = 127
		}
		if err := os.WriteFile(filepath.Join(share, statusFile(i)), []byte(strconv.Itoa(status)), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// mount is one file system to mount.
type mount struct {
	kind, source, at, options string
	flags                     uintptr
}

func mountAll(mounts ...mount) error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.at, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.source, m.at, err)
		}
	}
	return nil
}

// enterRoot makes the host's root, under an overlay, the machine's. The kernel looks
// for modprobe there as well, since it shares the root of the first process.
func enterRoot() error {
	err := mountAll(mount{kind: "proc", source: "proc", at: "/proc"}, mount{kind: "sysfs", source: "sys", at: "/sys"},
		mount{kind: "devtmpfs", source: "dev", at: "/dev"})
	if err != nil {
		return err
	}
	files, err := filepath.Glob("/" + moduleDir + "/*")
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := load(file); err != nil {
			return err
		}
	}
	const p9 = "trans=virtio,version=9p2000.L,msize=524288,cache="
	err = mountAll(mount{kind: "tmpfs", source: "tmpfs", at: "/upper", options: "mode=755"},
		mount{kind: "9p", source: "root", at: "/lower", options: p9 + "loose", flags: unix.MS_RDONLY})
	if err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir("/upper/files", 0o755), os.Mkdir("/upper/work", 0o755)); err != nil {
		return err
	}
	err = mountAll(mount{kind: "overlay", source: "overlay", at: "/root", options: "lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work"},
		mount{kind: "tmpfs", source: "tmpfs", at: "/root/run", options: "mode=755"},
		mount{kind: "9p", source: "share", at: "/root/run/vm", options: p9 + "none"},
		mount{source: "/proc", at: "/root/proc", flags: unix.MS_MOVE}, mount{source: "/sys", at: "/root/sys", flags: unix.MS_MOVE},
		mount{source: "/dev", at: "/root/dev", flags: unix.MS_MOVE})
	if err != nil {
		return err
	}
	return errors.Join(os.Chdir("/root"), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), os.Chdir("/"))
}

func load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", file, err)
	}
	return nil
}

// furnish mounts and makes what programs expect of a machine.
func furnish(modules string) error {
	err := mountAll(mount{kind: "devpts", source: "devpts", at: "/dev/pts"}, mount{kind: "tmpfs", source: "tmpfs", at: "/dev/shm"},
		mount{kind: "cgroup2", source: "cgroup", at: "/sys/fs/cgroup"}, mount{kind: "bpf", source: "bpf", at: "/sys/fs/bpf"},
		mount{kind: "tmpfs", source: "tmpfs", at: "/lib/modules"},
		mount{source: modules, at: filepath.Join("/lib/modules", filepath.Base(modules)), flags: unix.MS_BIND},
		// Without this the mounts that programs make for themselves would be seen by all.
		mount{source: "none", at: "/", flags: unix.MS_SHARED | unix.MS_REC})
	if err != nil {
		return err
	}
	for name, target := range map[string]string{"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink("/proc/self/"+target, "/dev/"+name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := os.Mkdir(tmpDir, 0o1777); err != nil {
		return err
	}
	return errors.Join(unix.Sethostname([]byte("vm")), loopbackUp())
}

const tmpDir = "/run/tmp"

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
}

// openOutputs gives a command's stdin, stdout and stderr. A channel can be opened
// once.
func openOutputs() ([]*os.File, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	files := []*os.File{null}
	for _, name := range outputs() {
		ports, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, port := range ports {
			if text, err := os.ReadFile(port); err != nil || strings.TrimSpace(string(text)) != name {
				continue
			}
			// Not by os.Open: what the children inherit must block.
			fd, err := unix.Open(filepath.Join("/dev", filepath.Base(filepath.Dir(port))), unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, fmt.Errorf("open the channel %s: %w", name, err)
			}
			files = append(files, os.NewFile(uintptr(fd), name))
		}
	}
	if len(files) != 1+len(outputs()) {
		return nil, fmt.Errorf("of the channels %v there are %d", outputs(), len(files)-1)
	}
	return files, nil
}

// runHere runs a command to its end, and buries whoever dies meanwhile.
func runHere(c Command, stdio []*os.File) (status int, err error) {
	env := append(slices.Clip(c.Env), "TMPDIR="+tmpDir)
	for _, e := range env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			if err := os.Setenv("PATH", path); err != nil {
				return 0, err
			}
		}
	}
	program, err := exec.LookPath(c.Args[0])
	if err != nil {
		return 0, err
	}
	p, err := os.StartProcess(program, c.Args, &os.ProcAttr{Dir: c.Dir, Env: env, Files: stdio})
	if err != nil {
		return 0, err
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case pid != p.Pid:
		case ws.Signaled():
			return 128 + int(ws.Signal()), nil
		default:
			return ws.ExitStatus(), nil
		}
	}
}
