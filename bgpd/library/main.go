// Command library makes a copy of the BGP library that bgpd is built with, with its
// faults mended by which any peer can end the process, or have it keep a route that is
// none: see changes. It prints nothing where the copy is there already.
//
//	library -out .cache
//
// makes .cache/gobgp, and .cache/gobgp.mod for go's -modfile, which has it in the
// library's place.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// module is the library.
const module = "github.com/osrg/gobgp/v3"

func main() {
	out := flag.String("out", ".cache", "where to put it")
	flag.Parse()
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the BGP library:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	text, err := exec.Command("go", "mod", "download", "-json", module).Output()
	if err != nil {
		return fmt.Errorf("go mod download %s: %w%s", module, err, stderrOf(err))
	}
	var found struct{ Dir, Version, Sum string }
	if err := json.Unmarshal(text, &found); err != nil {
		return fmt.Errorf("go mod download %s: %w", module, err)
	}
	to := filepath.Join(out, "gobgp")
	if err := refresh(found.Dir, to, found.Sum); err != nil {
		return err
	}
	return modfile(filepath.Join(out, "gobgp"), to)
}

func stderrOf(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return ": " + strings.TrimSpace(string(exit.Stderr))
	}
	return ""
}

// refresh makes the copy, unless it is there: made of the same version by the same mend.
func refresh(from, to, sum string) error {
	stamp, want := filepath.Join(to, ".mended"), fmt.Sprintf("%s %x\n", sum, mendSum())
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		return nil
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := copySource(from, to); err != nil {
		return err
	}
	for _, file := range []string{messages, peers, defaults} {
		if err := mendFile(to, file); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return os.WriteFile(stamp, []byte(want), 0o600)
}

func mendFile(library, file string) error {
	path := filepath.Join(library, filepath.FromSlash(file))
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	mended, err := mend(file, string(text))
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(mended), 0o600)
}

// copySource copies what is built, without tests.
func copySource(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case name == "go.mod" || name == "go.sum" || name == "LICENSE":
		case !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), text, 0o600)
	})
}

// modfile writes name.mod and name.sum: the program's own, with the copy in place.
func modfile(name, library string) error {
	abs, err := filepath.Abs(library)
	if err != nil {
		return err
	}
	root, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("go env GOMOD: %w", err)
	}
	own := strings.TrimSpace(string(root))
	rel, err := filepath.Rel(filepath.Dir(own), abs)
	if err != nil {
		return err
	}
	for suffix, more := range map[string]string{".mod": fmt.Sprintf("\nreplace %s => ./%s\n", module, filepath.ToSlash(rel)), ".sum": ""} {
		text, err := os.ReadFile(strings.TrimSuffix(own, ".mod") + suffix)
		if err != nil {
			return err
		}
		text = append(text, more...)
		if have, err := os.ReadFile(name + suffix); err == nil && bytes.Equal(have, text) {
			continue
		}
		if err := os.WriteFile(name+suffix, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func mendSum() [sha256.Size]byte {
	var all strings.Builder
	for _, c := range changes() {
		all.WriteString(c.file + "\x00" + c.old + "\x00" + c.new + "\x00")
	}
	return sha256.Sum256([]byte(all.String()))
}
