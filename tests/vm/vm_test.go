package vm_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tortie/internal/kernel/kerneltest"
	"tortie/tests/vm"
)

func machine(t *testing.T, out, errs *bytes.Buffer) vm.Machine {
	t.Helper()
	kerneltest.Require(t, kerneltest.Netns) // root
	img, err := vm.Find(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	// The first process is to be static, which a test under the race detector is not.
	program := filepath.Join(t.TempDir(), "vm")
	build := exec.Command("go", "build", "-o", program, "./cmd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the first process: %v\n%s", err, text)
	}
	return vm.Machine{Image: img, Program: program, CPUs: 2, Memory: 1024, Stdout: out, Stderr: errs}
}

func sh(dir, script string) vm.Command {
	return vm.Command{Args: []string{"sh", "-c", script}, Dir: dir, Env: append(os.Environ(), "WORD=kept")}
}

// TestCommandsEndAsTheyWouldHere: their status, their output, their folder, their
// environment, which says whether the processor is emulated, of which there is one
// then; and what they write is gone with the machine.
func TestCommandsEndAsTheyWouldHere(t *testing.T) {
	var out, errs bytes.Buffer
	dir := t.TempDir()
	ended, err := machine(t, &out, &errs).Run(t.Context(),
		sh(dir, `pwd; echo "$WORD" >&2; touch written "$TMPDIR/too"; ls`), sh("/", "exit 7"), sh("/", "kill -9 $$"),
		sh("/", "ip link add dummy0 type dummy && ip -br link show dummy0 | cut -d' ' -f1"),
		// The model that is emulated is an old one, and alone; KVM shows the machine's own.
		sh("/", `cpus=2 want=; if grep -q Nehalem /proc/cpuinfo; then cpus=1 want=1; fi; [ "$`+vm.Emulated+`" = "$want" ] && [ "$(nproc)" = $cpus ]`))
	if err != nil {
		t.Fatal(err)
	}
	if want := []int{0, 7, 128 + 9, 0, 0}; !slices.Equal(ended, want) {
		t.Errorf("ended with %v, want %v", ended, want)
	}
	if got, want := out.String(), dir+"\nwritten\ndummy0\n"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	if got, want := errs.String(), "kept\n"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "written")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was written in the machine is here: %v", err)
	}
}

// TestPanicIsAFailureThatShowsTheConsole: a kernel that ends before its command has
// not passed.
func TestPanicIsAFailureThatShowsTheConsole(t *testing.T) {
	var out, errs bytes.Buffer
	_, err := machine(t, &out, &errs).Run(t.Context(), sh("/", "exit 0"), sh("/", "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 100"))
	var died *vm.DiedError
	if !errors.As(err, &died) || !strings.Contains(died.Console, "Kernel panic") {
		t.Errorf("%v; stderr: %s", err, errs.String())
	}
}

func TestHangIsAFailure(t *testing.T) {
	var out, errs bytes.Buffer
	hung := errors.New("hung")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, hung)
	defer cancel()
	if _, err := machine(t, &out, &errs).Run(ctx, sh("/", "sleep 1000")); !errors.Is(err, hung) {
		t.Errorf("%v", err)
	}
}
