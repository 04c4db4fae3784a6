package main

import (
	"errors"
	"io"
	"syscall"
	"unsafe"
)

// What follows stands for the packages os and time, which are not linked: their
// start alone would cost a tenth of an empty program's whole life.

// program is the name of the file that was executed, as far as the kernel keeps it:
// 15 bytes.
func program() string {
	const prGetName = 16
	var name [16]byte
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prGetName, uintptr(unsafe.Pointer(&name)), 0); errno != 0 {
		return ""
	}
	n := 0
	for n < len(name) && name[n] != 0 {
		n++
	}
	return string(name[:n])
}

// arguments are those behind the program's name, in the kernel's copy. It makes the
// kernel set up a directory in /proc, so it is only for a run by hand.
func arguments() ([]string, error) {
	fd, err := syscall.Open("/proc/self/cmdline", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	line, err := io.ReadAll(file(fd))
	_ = syscall.Close(fd)
	var args []string
	for begin, i := 0, 0; i < len(line); i++ {
		if line[i] == 0 {
			args = append(args, string(line[begin:i]))
			begin = i + 1
		}
	}
	return args[min(1, len(args)):], err
}

func getenv(name string) string {
	value, _ := syscall.Getenv(name)
	return value
}

// pause waits. A signal may cut it short.
func pause(nanoseconds int64) {
	t := syscall.NsecToTimespec(nanoseconds)
	_ = syscall.Nanosleep(&t, nil)
}

// file is an open file, read and written by blocking system calls.
type file int

// Read reads what there is.
func (f file) Read(p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(f), p)
		if err == nil {
			if n == 0 && len(p) > 0 {
				return 0, io.EOF
			}
			return n, nil
		}
		if err := f.mend(err, true); err != nil {
			return 0, err
		}
	}
}

// Write writes all of p.
func (f file) Write(p []byte) (int, error) {
	for done := 0; ; {
		n, err := syscall.Write(int(f), p[done:])
		if err == nil {
			if done += n; done == len(p) {
				return done, nil
			}
			continue
		}
		if err := f.mend(err, false); err != nil {
			return done, err
		}
	}
}

// mend returns nil when the system call that failed is to be repeated. EAGAIN comes
// from standard input or output that was made non-blocking by whoever started the
// plugin: then it waits.
func (f file) mend(err error, reading bool) error {
	if errors.Is(err, syscall.EINTR) {
		return nil
	}
	if !errors.Is(err, syscall.EAGAIN) {
		return err
	}
	var set syscall.FdSet
	set.Bits[0] = 1 << f // 0, 1 or 2
	read, write := &set, (*syscall.FdSet)(nil)
	if !reading {
		read, write = write, read
	}
	if _, err := syscall.Select(int(f)+1, read, write, nil, nil); err != nil && !errors.Is(err, syscall.EINTR) {
		return err
	}
	return nil
}
