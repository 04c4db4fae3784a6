package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Sysctl reads a kernel setting of the Handle's namespace. The name is the path
// below /proc/sys/net, for example "ipv4/conf/eth0/forwarding": with slashes,
// since names of links may hold dots. ErrNotFound when the kernel has none such.
func (h *Handle) Sysctl(name string) (value string, err error) {
	value, err = h.readSysctl(name)
	return value, NewError("read sysctl", "net/"+name, err)
}

// SetSysctl changes a kernel setting of the Handle's namespace, named as for
// [Handle.Sysctl]. A setting that has the value already is not written, so that a
// read-only /proc/sys does no harm where there is nothing to do.
func (h *Handle) SetSysctl(name, value string) error {
	return h.SetSysctls([]Setting{{Name: name, Value: value}})
}

// Setting is one sysctl and the value it is to have.
type Setting struct {
	Name, Value string // as for [Handle.SetSysctl]
}

// SetSysctls changes several settings at the price of entering the namespace
// once. It stops at the first that fails.
func (h *Handle) SetSysctls(settings []Setting) error {
	_, err := h.SwapSysctls(settings)
	return err
}

// SwapSysctls is SetSysctls and tells what those settings were that it changed, also
// when it failed.
func (h *Handle) SwapSysctls(settings []Setting) (old []Setting, err error) {
	hold := h.peek(settings)
	for i, s := range settings {
		if hold[i] {
			continue
		}
		was, err := h.swapSysctl(s.Name, s.Value)
		if err != nil {
			return old, NewError("set sysctl", "net/"+s.Name+"="+s.Value, err)
		}
		if was != s.Value {
			old = append(old, Setting{Name: s.Name, Value: was})
		}
	}
	return old, nil
}

// threadNetnsID identifies the namespace of the calling thread.
func threadNetnsID() (NetnsID, error) {
	var st unix.Stat_t
	if err := unix.Stat(threadNetns, &st); err != nil {
		return NetnsID{}, NewError("identify network namespace", threadNetns, err)
	}
	return NetnsID{Dev: st.Dev, Inode: st.Ino}, nil
}

// inside runs fn in the Handle's namespace. When the caller's thread is there
// already it stays: either it is locked to its goroutine, or it is in the
// process's own namespace as is every thread the goroutine may move to.
func (h *Handle) inside(fn func() error) error {
	if here, err := threadNetnsID(); err == nil && here == h.home {
		return fn()
	}
	ns, err := h.Netns()
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Visit(fn)
}

// sysctlDirs are the directories of the two protocols' settings, once they are open.
// They are kept so because below /proc/sys/net all namespaces have directories of the
// same names, which the kernel goes through one after another: each look-up from the
// top costs more with every pod of the node. And from them a setting is found from any
// thread.
type sysctlDirs struct {
	mu         sync.Mutex
	ipv4, ipv6 *os.File
	closed     bool
}

const (
	sysctlRoot = "/proc/sys/net/"
	// A container that isn't privileged has a read-only /proc/sys. Its manifest mounts
	// the node's /proc/sys/net here; what is seen below it is, as below the other,
	// that of the namespace of the thread that looks.
	mountedSysctlRoot = "/host/proc/sys/net/"
)

func (d *sysctlDirs) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	_, _ = d.ipv4.Close(), d.ipv6.Close()
}

// withSysctl opens a setting, neither creating nor truncating it: procfs takes
// neither.
func (h *Handle) withSysctl(name string, mode int, use func(fd int) error) error {
	if !fs.ValidPath(name) || !strings.Contains(name, "/") {
		return fmt.Errorf("the name is not a path below %s: %w", sysctlRoot, ErrInvalid)
	}
	d := &h.sysctls
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return os.ErrClosed
	}
	fd, err := h.openSysctl(name, mode)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return ignoringEINTR(func() error { return use(fd) })
}

func (h *Handle) openSysctl(name string, mode int) (fd int, err error) {
	top, rest, _ := strings.Cut(name, "/")
	var dir **os.File
	switch top {
	case "ipv4":
		dir = &h.sysctls.ipv4
	case "ipv6":
		dir = &h.sysctls.ipv6
	default: // may come and go with a module
		return h.openInside(name, mode)
	}
	if *dir == nil {
		fd, err := h.openInside(top, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return -1, err
		}
		*dir = os.NewFile(uintptr(fd), sysctlRoot+top)
	}
	return openAt(int((*dir).Fd()), rest, mode)
}

// openInside opens what is below /proc/sys/net in the Handle's namespace.
func (h *Handle) openInside(name string, mode int) (fd int, err error) {
	err = h.inside(func() (err error) {
		if fd, err = openAt(unix.AT_FDCWD, mountedSysctlRoot+name, mode); errors.Is(err, unix.ENOENT) {
			fd, err = openAt(unix.AT_FDCWD, sysctlRoot+name, mode)
		}
		return err
	})
	return fd, err
}

func openAt(dir int, path string, mode int) (fd int, err error) {
	err = ignoringEINTR(func() (err error) {
		fd, err = unix.Openat(dir, path, mode|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}

func (h *Handle) readSysctl(name string) (value string, err error) {
	err = h.withSysctl(name, unix.O_RDONLY, func(fd int) error {
		value, err = readSetting(fd)
		return err
	})
	return value, err
}

// putSysctl writes a setting whatever it is.
func (h *Handle) putSysctl(name, value string) error {
	return h.withSysctl(name, unix.O_WRONLY, func(fd int) error { return writeSetting(fd, value) })
}

// swapSysctl writes a setting unless it has the value already, and returns what it was.
func (h *Handle) swapSysctl(name, value string) (old string, err error) {
	err = h.withSysctl(name, unix.O_RDWR, func(fd int) error {
		if old, err = readSetting(fd); err != nil || old == value {
			return err
		}
		return writeSetting(fd, value)
	})
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		if now, readErr := h.readSysctl(name); readErr == nil && now == value {
			return now, nil // nothing to do
		}
	}
	return old, err
}

// settingLength is more than any setting of ours is long.
const settingLength = 256

func readSetting(fd int) (string, error) {
	var buf [settingLength]byte
	n, err := unix.Pread(fd, buf[:], 0)
	return strings.TrimSpace(string(buf[:max(n, 0)])), err
}

func writeSetting(fd int, value string) error {
	_, err := unix.Pwrite(fd, []byte(value), 0)
	return err
}
