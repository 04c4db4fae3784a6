package kernel_test

import (
	"errors"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

// TestVisitComesBack however the function ends.
func TestVisitComesBack(t *testing.T) {
	ns := kerneltest.NewNetns(t)
	there, err := ns.ID()
	if err != nil {
		t.Fatal(err)
	}
	here := func() kernel.NetnsID {
		t.Helper()
		cur, err := kernel.CurrentNetns()
		if err != nil {
			t.Fatal(err)
		}
		defer cur.Close()
		id, err := cur.ID()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	refused := errors.New("refused")
	for name, end := range map[string]func() error{
		"returns": func() error { return nil },
		"fails":   func() error { return refused },
		"panics":  func() error { panic("no") },
		"nested":  func() error { return ns.Visit(func() error { return nil }) },
	} {
		runtime.LockOSThread()
		home := here()
		func() {
			defer func() { _ = recover() }()
			err := ns.Visit(func() error {
				if here() != there {
					t.Errorf("%s: not inside", name)
				}
				return end()
			})
			if (err != nil) != (name == "fails") || err != nil && !errors.Is(err, refused) {
				t.Errorf("%s: error %v", name, err)
			}
		}()
		if here() != home {
			t.Errorf("%s: the thread stayed inside", name)
		}
		runtime.UnlockOSThread()
	}
}

// TestOpenNetnsDoesNotWait: who opens a named pipe waits for its writer.
func TestOpenNetnsDoesNotWait(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kernel.OpenNetns(pipe); !errors.Is(err, unix.EINVAL) {
		t.Errorf("error %v", err)
	}
}
