package clab

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOnlyARecentContainerlabIsUsed(t *testing.T) {
	for _, tt := range []struct {
		out  string
		want bool
	}{
		{"  version: 0.79.0\n   commit: x", true},
		{"version: v0.78.1", true},
		{"version: 1.0.0", true},
		{"version: 0.60.0", false},
		{"", false},
	} {
		if recent(tt.out) != tt.want {
			t.Errorf("%q: recent is %v", tt.out, !tt.want)
		}
	}
}

func TestComplaintsAreTheLinesAboutErrorsOrElseTheLast(t *testing.T) {
	if got := complaints("12:00 INFO a\n12:00 ERRO b\n12:00 INFO c\n"); got != "12:00 ERRO b" {
		t.Errorf("with an error: %q", got)
	}
	if got := complaints(strings.Repeat("x\n", 20) + "last\n"); !strings.HasSuffix(got, "last") || strings.Count(got, "\n") != 9 {
		t.Errorf("without: %q", got)
	}
}

func TestContainerlabIsPatchedInOnePlaceOrNotAtAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kernel_module.go")
	const before = "\tf, err := os.Open(\"/proc/modules\")\n\tif err != nil {\n"
	if err := os.WriteFile(path, []byte(before), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := withoutModulesFile(path); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(after), "os.Open(\"/proc/modules\")\n\tif os.IsNotExist(err) {\n\t\treturn false, nil\n\t}\n\tif err != nil") {
		t.Errorf("%s, %v", after, err)
	}
	if err := os.WriteFile(path, []byte("something else"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := withoutModulesFile(path); err == nil {
		t.Error("a source that isn't what it was: no error")
	}
}

func TestNamesOfALoadedImage(t *testing.T) {
	names := loaded("Loaded image: tortie/node:1.2-dirty\nLoaded image: tortie/node:dev")
	if want := []string{"tortie/node:1.2-dirty", "tortie/node:dev"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	if names := loaded("Loaded image ID: sha256:0"); len(names) > 0 {
		t.Errorf("an ID was taken for a name: %q", names)
	}
}

func TestTheTreeIsMadeOnDebianOnly(t *testing.T) {
	if got := codename("ID=debian\nVERSION_CODENAME=bookworm\n"); got != "bookworm" {
		t.Errorf("Debian: %q", got)
	}
	if got := codename("ID=\"ubuntu\"\nID_LIKE=debian\nVERSION_CODENAME=noble\n"); got != "" {
		t.Errorf("another: %q", got)
	}
}

func TestAnotherRecipeIsAnotherImage(t *testing.T) {
	base := recipe{suite: "bookworm", start: "/a/docker-start", script: []byte("x")}
	moved, changed, newer := base, base, base
	moved.start = "/b/docker-start"
	changed.script = []byte("y")
	newer.suite = "trixie"
	if base.sum() != moved.sum() {
		t.Error("the place of the repository changes the image")
	}
	if base.sum() == changed.sum() || base.sum() == newer.sum() {
		t.Error("another script or release does not change the image")
	}
}
