// Package progress tells a person at a terminal what is being done, and stays
// quiet in a pipe.
package progress

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Steps is told each step; it may be nil.
type Steps func(step string)

// Say tells one step.
func (s Steps) Say(format string, args ...any) {
	if s != nil {
		s(fmt.Sprintf(format, args...))
	}
}

// On tells the steps to w if that is a terminal.
func On(w io.Writer) Steps {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return func(step string) { fmt.Fprintln(w, "…", step) }
}
