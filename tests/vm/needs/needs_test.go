package needs_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tortie/internal/kernel/feature"
	"tortie/tests/vm/needs"
)

// TestFeaturesAreThoseDeclared, by the names that tests call them.
func TestFeaturesAreThoseDeclared(t *testing.T) {
	found, err := needs.Features("../../../internal/kernel/feature/feature.go")
	if err != nil {
		t.Fatal(err)
	}
	if found["IPIP"] != string(feature.IPIP) || found["Veth"] != string(feature.Veth) {
		t.Errorf("%v", found)
	}
	if _, err := needs.Features("needs.go"); err == nil {
		t.Error("a file without features is no error")
	}
}

// TestTestsAreFoundByWhatTheyReach: in themselves, through functions and methods, in
// other files of the package; not by what others need.
func TestTestsAreFoundByWhatTheyReach(t *testing.T) {
	root := t.TempDir()
	write := func(name, body string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a/a_test.go", `package a
func TestDirect(t *testing.T) { kerneltest.Require(t, kerneltest.Veth, kerneltest.IPIP) }
func TestThrough(t *testing.T) { t.Run("x", func(t *testing.T) { newWorld(t).start() }) }
func TestOther(t *testing.T) { kerneltest.Require(t, kerneltest.Veth); again(0) }
func TestHere(t *testing.T) {}
func TestEither(t *testing.T) { if kerneltest.Has(kerneltest.IPIP) {} }
func TestMain(m *testing.M) { newWorld(nil).start() }
func again(n int) { again(n) }
`)
	write("a/world_test.go", `package a_test
func newWorld(t *testing.T) world { return world{} }
func (w world) start() { kerneltest.Require(w.t, kerneltest.IPIP) }
`)
	write("b/b_test.go", "package b\nfunc TestNone(t *testing.T) { start() }\n")
	write("b/testdata/c_test.go", "not Go")
	write("d/d.go", "package d\nfunc TestNoTest() { kerneltest.Require(nil, kerneltest.IPIP) }\n")
	got, err := needs.Tests(root, []string{"IPIP", "Dummy"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]needs.Package{{Dir: "a", Tests: []string{"TestDirect", "TestThrough"}}}, got); diff != "" {
		t.Error(diff)
	}
}
