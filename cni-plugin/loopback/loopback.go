// Package loopback brings lo up and down in a network namespace. It links no more
// than the plugin can afford: package syscall.
package loopback

import (
	"runtime"
	"strconv"
	"syscall"
	"unsafe"
)

// Name is lo's.
const Name = "lo"

// Addresses are lo's own, in CIDR form; empty where it has none of the family.
type Addresses struct{ V4, V6 string }

// Namespace is the network namespace that the calling goroutine's thread has
// entered. The thread never leaves it.
type Namespace struct{}

// Enter enters the network namespace of a path. ENOENT and EINVAL say that there is
// none (any more): the file is gone, or is what is left of a mount that is gone.
func Enter(path string) (Namespace, error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return Namespace{}, err
	}
	runtime.LockOSThread()
	_, _, errno := syscall.RawSyscall(sysSetns, uintptr(fd), syscall.CLONE_NEWNET, 0)
	_ = syscall.Close(fd)
	if errno != 0 {
		return Namespace{}, errno
	}
	return Namespace{}, nil
}

// Same reports whether a path is the namespace that the program was started in.
func Same(path string) bool {
	var own, other syscall.Stat_t
	return syscall.Stat("/proc/self/ns/net", &own) == nil && syscall.Stat(path, &other) == nil &&
		own.Dev == other.Dev && own.Ino == other.Ino
}

// request is struct ifreq: a name, then what it is about. See netdevice(7).
type request struct {
	name [syscall.IFNAMSIZ]byte
	data [24]byte
}

func (r *request) flags() *uint16 { return (*uint16)(unsafe.Pointer(&r.data)) }

// ask makes one request about lo.
func ask(command uintptr, r *request) error {
	copy(r.name[:], Name)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), command, uintptr(unsafe.Pointer(r)))
	_ = syscall.Close(fd)
	if errno != 0 {
		return errno
	}
	return nil
}

// Up reports whether lo is up.
func (Namespace) Up() (bool, error) {
	var r request
	if err := ask(syscall.SIOCGIFFLAGS, &r); err != nil {
		return false, err
	}
	return *r.flags()&syscall.IFF_UP != 0, nil
}

// Set brings lo up or down.
func (Namespace) Set(up bool) error {
	var r request
	if err := ask(syscall.SIOCGIFFLAGS, &r); err != nil {
		return err
	}
	want := *r.flags() &^ syscall.IFF_UP
	if up {
		want |= syscall.IFF_UP
	}
	if want == *r.flags() {
		return nil
	}
	*r.flags() = want
	return ask(syscall.SIOCSIFFLAGS, &r)
}

// Addresses are what the kernel has given lo when it came up.
func (Namespace) Addresses() (a Addresses, err error) {
	v4, err := ipv4()
	if err != nil {
		return a, err
	}
	if v4[0] == 127 {
		a.V4 = dotted(v4) + "/8"
	}
	if ipv6() {
		a.V6 = "::1/128"
	}
	return a, nil
}

// ipv4 is the first address.
func ipv4() ([4]byte, error) {
	var r request
	err := ask(syscall.SIOCGIFADDR, &r)
	if err == syscall.EADDRNOTAVAIL { //nolint:errorlint // it is an Errno
		return [4]byte{}, nil
	}
	return [4]byte(r.data[4:8]), err // struct sockaddr_in
}

func dotted(a [4]byte) string {
	var text []byte
	for i, b := range a {
		if i > 0 {
			text = append(text, '.')
		}
		text = strconv.AppendUint(text, uint64(b), 10)
	}
	return string(text)
}

// ipv6 asks whether ::1 can be used.
func ipv6() bool {
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	err = syscall.Bind(fd, &syscall.SockaddrInet6{Addr: [16]byte{15: 1}})
	_ = syscall.Close(fd)
	return err == nil
}
