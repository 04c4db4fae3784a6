package kernel

import (
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// Sysctl reads a kernel setting of the Handle's namespace. The name is the path
// below /proc/sys/net, for example "ipv4/conf/eth0/forwarding": with slashes,
// since names of links may hold dots. ErrNotFound when the kernel has none such.
func (h *Handle) Sysctl(name string) (string, error) {
	var value string
	err := h.inside(func() (err error) {
		value, err = readSysctl(name)
		return err
	})
	return value, NewError("read sysctl", "net/"+name, err)
}

// SetSysctl changes a kernel setting of the Handle's namespace, named as for
// [Handle.Sysctl]. A setting that has the value already is not written, so that a
// read-only /proc/sys does no harm where there is nothing to do.
func (h *Handle) SetSysctl(name, value string) error {
	return NewError("set sysctl", "net/"+name+"="+value, h.inside(func() error { return writeSysctl(name, value) }))
}

// Setting is one sysctl and the value it is to have.
type Setting struct {
	Name, Value string // as for [Handle.SetSysctl]
}

// SetSysctls changes several settings at the price of entering the namespace
// once. It stops at the first that fails.
func (h *Handle) SetSysctls(settings []Setting) error {
	return h.inside(func() error {
		for _, s := range settings {
			if err := writeSysctl(s.Name, s.Value); err != nil {
				return NewError("set sysctl", "net/"+s.Name+"="+s.Value, err)
			}
		}
		return nil
	})
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

// threadNetnsID identifies the namespace of the calling thread.
func threadNetnsID() (NetnsID, error) {
	var st unix.Stat_t
	const path = "/proc/thread-self/ns/net"
	if err := unix.Stat(path, &st); err != nil {
		return NetnsID{}, NewError("identify network namespace", path, err)
	}
	return NetnsID{Dev: st.Dev, Inode: st.Ino}, nil
}

func sysctlPath(name string) (string, error) {
	if !fs.ValidPath(name) || !strings.Contains(name, "/") {
		return "", fmt.Errorf("the name is not a path below /proc/sys/net: %w", ErrInvalid)
	}
	return "/proc/sys/net/" + name, nil
}

// sysctlLength is more than any setting of ours is long.
const sysctlLength = 1024

// readSysctl goes around os.File, as writeSysctl does: that would make every file
// known to the poller, and a pod has a dozen settings.
func readSysctl(name string) (value string, err error) {
	err = withSysctl(name, unix.O_RDONLY, func(fd int) error {
		var buf [sysctlLength]byte
		n, err := unix.Read(fd, buf[:])
		value = strings.TrimSpace(string(buf[:max(n, 0)]))
		return err
	})
	return value, err
}

func writeSysctl(name, value string) error {
	if old, err := readSysctl(name); err != nil || old == value {
		return err
	}
	return withSysctl(name, unix.O_WRONLY, func(fd int) error {
		_, err := unix.Write(fd, []byte(value))
		return err
	})
}

// withSysctl opens a setting, neither creating nor truncating it: procfs takes
// neither.
func withSysctl(name string, mode int, use func(fd int) error) error {
	path, err := sysctlPath(name)
	if err != nil {
		return err
	}
	var fd int
	err = ignoringEINTR(func() (err error) {
		fd, err = unix.Open(path, mode|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return ignoringEINTR(func() error { return use(fd) })
}
