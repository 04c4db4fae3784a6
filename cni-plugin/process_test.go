package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
)

// pipe is one whose ends never make their callers wait.
func pipe(t *testing.T) (r, w file) {
	t.Helper()
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	return file(ends[0]), file(ends[1])
}

func TestFileWaitsWhereTheKernelDoesNot(t *testing.T) {
	r, w := pipe(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // more than a pipe holds: both ends wait
	failed := make(chan error, 1)
	go func() {
		_, err := w.Write(sent)
		failed <- errors.Join(err, syscall.Close(int(w)))
	}()
	got, err := io.ReadAll(r)
	if err := errors.Join(err, <-failed, syscall.Close(int(r))); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes, %v", len(got), len(sent), err)
	}
}

func TestWhichFailedCallsAreRepeated(t *testing.T) {
	r, w := pipe(t)
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		f       file
		err     error
		reading bool
		again   bool
	}{
		{r, syscall.EINTR, true, true},
		{r, syscall.EAGAIN, true, true},
		{w, syscall.EAGAIN, false, true},
		{r, syscall.EIO, true, false},
		{w, syscall.EPIPE, false, false},
	} {
		if err := tc.f.mend(tc.err, tc.reading); (err == nil) != tc.again {
			t.Errorf("%v, reading %t: %v", tc.err, tc.reading, err)
		}
	}
	_, _ = syscall.Close(int(r)), syscall.Close(int(w))
}

func TestArgumentsAreThoseOfTheProcess(t *testing.T) {
	got, err := arguments()
	if err != nil || len(got) != len(os.Args)-1 || len(got) > 0 && got[0] != os.Args[1] {
		t.Errorf("%q, %v; want %q", got, err, os.Args[1:])
	}
}
