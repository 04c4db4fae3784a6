package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tortie/internal/kernel/feature"
	"tortie/internal/kernel/kerneltest"
	"tortie/tests/vm"
	"tortie/tests/vm/needs"
)

// labTests is the package of the tests of whole labs.
const labTests = "tests/fv"

// runTests compiles the packages of the tests that need what this machine lacks, and
// runs those tests in one virtual machine; those of whole labs only if labs. Its status
// is that of the tests.
func runTests(ctx context.Context, m vm.Machine, labs bool) (status int, err error) {
	root, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	features, err := needs.Features(filepath.Join(root, "internal/kernel/feature/feature.go"))
	if err != nil {
		return 0, err
	}
	var lacking []string
	for name, f := range features {
		if feature.Probe(feature.Feature(f)) != nil {
			lacking = append(lacking, name)
		}
	}
	packages, err := needs.Tests(root, lacking)
	if err != nil {
		return 0, err
	}
	if !labs {
		packages = slices.DeleteFunc(packages, func(p needs.Package) bool { return p.Dir == labTests })
	}
	if len(packages) == 0 {
		say("every test that needs something of the kernel can run on this machine itself; no virtual machine is needed")
		return 0, nil
	}
	if m.Image, err = vm.Find(ctx, say); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "tortie-vm-tests-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var commands []vm.Command
	for i, p := range packages {
		c, err := compile(ctx, root, p, filepath.Join(dir, fmt.Sprintf("%d.test", i)))
		if err != nil {
			return 0, err
		}
		commands = append(commands, c)
	}
	return report(ctx, m, packages, commands)
}

func compile(ctx context.Context, root string, p needs.Package, to string) (vm.Command, error) {
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", to, "./"+p.Dir)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return vm.Command{}, fmt.Errorf("compile the tests of %s: %w\n%s", p.Dir, err, out)
	}
	return vm.Command{
		Args: []string{to, "-test.v", "-test.timeout", "22m", "-test.run", "^(" + strings.Join(p.Tests, "|") + ")$"},
		Dir:  filepath.Join(root, p.Dir), Env: append(os.Environ(), kerneltest.NoSkip+"=1"),
	}, nil
}

func report(ctx context.Context, m vm.Machine, packages []needs.Package, commands []vm.Command) (status int, err error) {
	start, count := time.Now(), 0
	for _, p := range packages {
		count += len(p.Tests)
		say("in a virtual machine: %s: %s", p.Dir, strings.Join(p.Tests, ", "))
	}
	ended, err := m.Run(ctx, commands...)
	if err != nil {
		return 0, err
	}
	for i, s := range ended {
		if s != 0 {
			say("FAIL %s in a virtual machine (status %d)", packages[i].Dir, s)
			status = 1
		}
	}
	if status == 0 {
		say("ok  %d tests of %d packages in a virtual machine, %.0f s", count, len(packages), time.Since(start).Seconds())
	}
	return status, nil
}
