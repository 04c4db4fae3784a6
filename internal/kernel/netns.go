package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// nsGetNSType is the ioctl that tells what kind of namespace a file is.
const nsGetNSType = 0xb703

// Netns is an open network namespace. It keeps the namespace alive until it is
// closed.
type Netns struct {
	file *os.File
}

// OpenNetns opens the namespace at a path such as /run/netns/x or
// /proc/7/ns/net. ErrNotFound when there is none, ErrInvalid when the file is
// not a network namespace.
func OpenNetns(path string) (*Netns, error) {
	const op = "open network namespace"
	var fd int
	// Not by os.Open, which would make the file known to the poller. Where the path is
	// no namespace's, the opening must not wait: that of a named pipe waits for ever.
	err := ignoringEINTR(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, NewError(op, path, err)
	}
	kind, err := unix.IoctlRetInt(fd, nsGetNSType)
	if err != nil || kind != unix.CLONE_NEWNET {
		_ = unix.Close(fd)
		return nil, NewError(op, path, fmt.Errorf("the file is not a network namespace: %w", unix.EINVAL))
	}
	// Else os.NewFile would make it known to the poller after all.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, 0); err != nil {
		_ = unix.Close(fd)
		return nil, NewError(op, path, err)
	}
	return &Netns{file: os.NewFile(uintptr(fd), path)}, nil
}

// threadNetns is the namespace of the thread that asks.
const threadNetns = "/proc/thread-self/ns/net"

// CurrentNetns opens the namespace of the calling thread.
func CurrentNetns() (*Netns, error) {
	return OpenNetns(threadNetns)
}

// CreateNetns makes a new, empty network namespace. It lasts until its last
// user, this Netns included, lets go of it.
func CreateNetns() (*Netns, error) {
	origin, err := CurrentNetns()
	if err != nil {
		return nil, err
	}
	defer origin.Close()
	var created *Netns
	// Entering the namespace we are in anyway, for the thread that Do gives.
	err = origin.Do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return NewError("create network namespace", "", err)
		}
		var err error
		created, err = CurrentNetns()
		return err
	})
	return created, err
}

// Path names the namespace in the file system, for other programs too, until
// Close.
func (n *Netns) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.Fd())
}

// Close releases the namespace.
func (n *Netns) Close() error { return n.file.Close() }

// Fd is the descriptor of the namespace, valid until Close.
func (n *Netns) Fd() int { return int(n.file.Fd()) }

// NetnsID identifies a network namespace for as long as it exists.
type NetnsID struct {
	Dev, Inode uint64
}

// ID tells whether two Netns are the same namespace.
func (n *Netns) ID() (NetnsID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(n.Fd(), &st); err != nil {
		return NetnsID{}, NewError("identify network namespace", n.file.Name(), err)
	}
	return NetnsID{Dev: st.Dev, Inode: st.Ino}, nil
}

// Do runs fn on an OS thread that is inside the namespace. fn must not start
// goroutines that are to run there too: they run elsewhere. A thread that cannot
// be brought back to where it came from is never used again.
func (n *Netns) Do(fn func() error) error {
	var out outcome
	done := make(chan struct{})
	// The thread is the goroutine's own, so the caller's thread never moves, and
	// a goroutine that ends while locked takes its thread with it.
	go func() {
		defer close(done)
		runtime.LockOSThread()
		out.run(n, fn)
	}()
	<-done
	if out.panicked != nil {
		panic(out.panicked)
	}
	return out.err
}

// outcome is how a function run on another thread ended.
type outcome struct {
	err      error
	panicked any
}

// run unlocks the thread only when it is back where it was. A function that
// neither returns nor panics has called runtime.Goexit, as t.FailNow does.
func (o *outcome) run(n *Netns, fn func() error) {
	origin, err := CurrentNetns()
	if err != nil {
		o.err = err
		return
	}
	defer origin.Close()
	if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
		o.err = NewError("enter network namespace", n.file.Name(), err)
		return
	}
	o.err = errGoexit
	defer func() {
		o.panicked = recover()
		if unix.Setns(origin.Fd(), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	o.err = fn()
}

var errGoexit = errors.New("in network namespace: the function ended its goroutine")

// Visit runs fn inside the namespace as [Netns.Do] does, but on the caller's own
// thread, which spares the change to another one. It is for short functions that
// do nothing but system calls. Should the kernel not let the thread back, which
// only a lack of memory could make it do, the caller's goroutine stays bound to
// that thread, so that no other ever runs there, and the error says so.
func (n *Netns) Visit(fn func() error) (err error) {
	runtime.LockOSThread()
	origin, err := openAt(unix.AT_FDCWD, threadNetns, unix.O_RDONLY)
	if err == nil {
		defer func() { _ = unix.Close(origin) }()
		err = unix.Setns(n.Fd(), unix.CLONE_NEWNET)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return NewError("enter network namespace", n.file.Name(), err)
	}
	defer func() {
		if back := unix.Setns(origin, unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, NewError("leave network namespace", n.file.Name(), back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return fn()
}

// WithNetns runs fn on an OS thread inside the namespace at path. See
// [Netns.Do].
func WithNetns(path string, fn func() error) error {
	ns, err := OpenNetns(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(fn)
}
