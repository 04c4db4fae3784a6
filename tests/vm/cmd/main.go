// Command vm runs a command in a virtual machine with Debian's kernel, or the tests
// that this machine's kernel can't run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"tortie/tests/vm"
)

const usage = `Run a command in a virtual machine with Debian's kernel. It sees this machine's files, and changes none of them.

  vm [flags] COMMAND [ARGUMENT …]
  vm [flags] -tests              the tests that need a feature which this machine's kernel lacks
  vm [flags] -tests -labs=false  without those of whole labs (tests/fv), which take minutes on an emulated processor

`

func main() {
	// As the first process of a virtual machine: nothing is to come before it.
	if vm.IsInit() {
		vm.Init()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	status, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(125)
	}
	os.Exit(status)
}

func run(ctx context.Context) (status int, err error) {
	flags := flag.NewFlagSet("vm", flag.ContinueOnError)
	cpus := flags.Int("cpus", 2, "processors; one where they are emulated")
	memory := flags.Int("memory", 3072, "MiB of memory; files that are written are in it, too")
	timeout := flags.Duration("timeout", 10*time.Minute, "after which it is switched off, and has failed")
	tests := flags.Bool("tests", false, "run the tests that need what this machine's kernel lacks")
	labs := flags.Bool("labs", true, "with -tests: those of whole labs, too")
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage); flags.PrintDefaults() }
	switch err := flags.Parse(os.Args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return 0, nil
	case err != nil:
		return 2, nil
	case *tests == (flags.NArg() > 0):
		flags.Usage()
		return 2, nil
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	m := vm.Machine{Program: self, CPUs: *cpus, Memory: *memory, Stdout: os.Stdout, Stderr: os.Stderr}
	ctx, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("it took longer than %s", *timeout))
	defer cancel()
	if *tests {
		return runTests(ctx, m, *labs)
	}
	dir, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	if m.Image, err = vm.Find(ctx, say); err != nil {
		return 0, err
	}
	ended, err := m.Run(ctx, vm.Command{Args: flags.Args(), Dir: dir, Env: os.Environ()})
	if err != nil {
		return 0, err
	}
	return ended[0], nil
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
