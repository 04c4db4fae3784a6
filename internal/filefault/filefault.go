// Package filefault says in an operator's words why a file can't be read.
package filefault

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Explain is an error of package os in such words, "absent.yaml: there is no such file or
// directory"; any other error is returned as it is. The cause stays what it is.
func Explain(err error) error {
	path, ok := errors.AsType[*fs.PathError](err)
	if !ok {
		return err
	}
	return &fault{text: fmt.Sprintf("%s: %s", path.Path, words(path.Err)), cause: err}
}

func words(err error) string {
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return "a part of this path is a file and no directory: correct the path"
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such file or directory: correct the path"
	case errors.Is(err, fs.ErrPermission):
		return "no permission to read it: run as a user that may, or change its mode"
	case errors.Is(err, syscall.EISDIR):
		return "is a directory: name a file in it"
	}
	return fmt.Sprintf("can't be read: %v", err)
}

type fault struct {
	text  string
	cause error
}

func (f *fault) Error() string { return f.text }

func (f *fault) Unwrap() error { return f.cause }
