package fv

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tortie/tests/lab/matrix"
)

// TestThirtyPodsOnThreeNodesReachOneAnother is the product's promise: every path,
// TCP and UDP, IPv4 and IPv6, with the sender's own address seen by the receiver.
func TestThirtyPodsOnThreeNodesReachOneAnother(t *testing.T) {
	l := up(t, "matrix", 3)
	addPods(t, l, 30, 2)
	mustConverge(t, l)
	checks, err := l.CheckAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	passed := map[string]int{}
	for _, c := range checks {
		if c.Failure != "" {
			t.Error(c)
			continue
		}
		passed[c.Path]++
	}
	for _, p := range matrix.Paths() {
		t.Logf("%-50s %d", p, passed[p])
		if passed[p] == 0 {
			t.Errorf("path %q was not checked at all", p)
		}
	}
}

// TestDownLeavesNothingBehind looks for processes and files of a lab that is down.
func TestDownLeavesNothingBehind(t *testing.T) {
	mounts := readFile(t, "/proc/self/mounts")
	l := up(t, "down", 2)
	addPods(t, l, 2, 2)
	dir := l.Dir()
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", dir, err)
	}
	abs, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it ended meanwhile
		}
		cmdline := strings.ReplaceAll(string(b), "\x00", " ")
		if strings.HasPrefix(cmdline, abs) && strings.Contains(cmdline, dir) {
			t.Errorf("still running: %s", cmdline)
		}
	}
	if after := readFile(t, "/proc/self/mounts"); after != mounts {
		t.Errorf("mounts differ:\nbefore:\n%s\nafter:\n%s", mounts, after)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestProgramsAreStatic: they must run in an empty image.
func TestProgramsAreStatic(t *testing.T) {
	for _, program := range []string{"felix", "bgpd", "calico", "calico-ipam", "calicoctl", "lab", "lab-agent"} {
		f, err := elf.Open(filepath.Join(bin, program))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s is linked dynamically (%s)", program, p.Type)
			}
		}
	}
}
