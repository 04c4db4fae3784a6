package filefault_test

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"tortie/internal/filefault"
)

func TestErrorsOfFilesAreInAnOperatorsWords(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"absent":       {&fs.PathError{Op: "stat", Path: "a.yaml", Err: syscall.ENOENT}, "a.yaml: there is no such file or directory: correct the path"},
		"forbidden":    {&fs.PathError{Op: "open", Path: "a.yaml", Err: syscall.EACCES}, "a.yaml: no permission to read it: run as a user that may, or change its mode"},
		"a directory":  {&fs.PathError{Op: "read", Path: "a", Err: syscall.EISDIR}, "a: is a directory: name a file in it"},
		"below a file": {&fs.PathError{Op: "open", Path: "a.yaml/b", Err: syscall.ENOTDIR}, "a.yaml/b: a part of this path is a file and no directory: correct the path"},
		"broken disk":  {&fs.PathError{Op: "read", Path: "a.yaml", Err: syscall.EIO}, "a.yaml: can't be read: input/output error"},
		"wrapped":      {fmt.Errorf("config: %w", &fs.PathError{Op: "open", Path: "c", Err: syscall.ENOENT}), "c: there is no such file or directory: correct the path"},
		"another":      {syscall.EIO, "input/output error"},
	} {
		t.Run(name, func(t *testing.T) {
			got := filefault.Explain(tt.err)
			if got.Error() != tt.want || !errors.Is(got, tt.err) {
				t.Errorf("%q, want %q with the cause in it", got, tt.want)
			}
		})
	}
}
