// Package lockfile lets a program run once on a node.
package lockfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Acquire makes this the only process of program on the node, until release is
// called or the process ends, however it ends. The file and its directory are made
// where they are missing and stay; the file says the process ID to whoever comes
// second. That one gets an error of one line that names the first. A release that is
// dropped may end the lock early.
func Acquire(path, program string) (release func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("lock this node: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock this node: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		return nil, fmt.Errorf("another %s (pid %s) already runs on this node (lock %s); stop it first", program, holder(f), path)
	}
	if err == nil {
		err = writePID(f)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock this node with %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// holder is the process ID in the file. The lock may be older than what it says
// by a moment: it is for the message only.
func holder(f *os.File) string {
	raw, err := io.ReadAll(io.LimitReader(f, 32))
	pid, convErr := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || convErr != nil {
		return "unknown"
	}
	return strconv.Itoa(pid)
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}
