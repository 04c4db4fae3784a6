package cniserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// Listen makes the socket that the plugin connects to: for root alone, in a
// directory that others may look into. A socket that nobody listens on any more
// is replaced.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on CNI socket: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on CNI socket %s: %w", path, err)
	}
	// The socket gets its mode before it gets its name: there is no moment at which
	// others could connect.
	temp := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(temp)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on CNI socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(temp, 0o600)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(temp)
		return nil, fmt.Errorf("listen on CNI socket: %w", err)
	}
	return &listener{UnixListener: l, path: path}, nil
}

// listener removes the socket's name when it is closed.
type listener struct {
	*net.UnixListener
	path string
}

// Close stops listening.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	if err == nil { // the first time only: the name may be another felix's later
		_ = os.Remove(l.path)
	}
	return err
}

// removeStale clears the way for a new socket, unless somebody listens on the
// old one, or it is no socket.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return errors.New("there is a file of that name that is no socket; remove it or set FELIX_CNISOCKET to another path")
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		_ = conn.Close()
		return errors.New("another felix listens on it; stop it first")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
