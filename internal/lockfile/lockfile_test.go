package lockfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecondIsRefusedByTheNameAndProcessOfTheFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "felix.lock")
	release, err := Acquire(path, "felix")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("another felix (pid %d) already runs on this node (lock %s); stop it first", os.Getpid(), path)
	for range 2 { // being refused leaves the lock and its file as they are
		if _, err := Acquire(path, "felix"); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	release()
	again, err := Acquire(path, "felix")
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	again()
}

func TestLeftoverOfADeadProcessIsTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(path, []byte("1234567890\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	release, err := Acquire(path, "bgpd")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	raw, err := os.ReadFile(path)
	if want := fmt.Sprintf("%d\n", os.Getpid()); err != nil || string(raw) != want {
		t.Errorf("the file says %q, %v; want %q", raw, err, want)
	}
}

func TestHolderThatIsNoNumberIsUnknown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	release, err := Acquire(path, "bgpd")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, content := range []string{"", "two\nlines\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Acquire(path, "bgpd"); err == nil || !strings.Contains(err.Error(), "another bgpd (pid unknown)") {
			t.Errorf("%q: error %v", content, err)
		}
	}
}

func TestUnusablePathIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(dir, "file", "lock")} {
		if _, err := Acquire(path, "felix"); err == nil || !strings.Contains(err.Error(), "lock this node: ") || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: error %v", path, err)
		}
	}
}
