package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMendedLibraryIsThisVersionsAndBuilds, and knows no message that ends a process.
func TestMendedLibraryIsThisVersionsAndBuilds(t *testing.T) {
	out := t.TempDir()
	if err := run(out); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(out, "gobgp", "pkg", "packet", "bgp", "mended_test.go")
	const test = `package bgp

import "testing"

func TestMessages(t *testing.T) {
	for name, m := range map[string]struct {
		kind byte
		body []byte
	}{
		"of no type":                            {9, nil},
		"a flow specification that ends early": {BGP_MSG_UPDATE, []byte{0, 0, 0, 12, 0x80, 14, 9, 0, 1, 133, 0, 0, 3, 3, 48, 1}},
	} {
		h := &BGPHeader{Type: m.kind, Len: uint16(BGP_HEADER_LENGTH + len(m.body))}
		got, err := ParseBGPBody(h, m.body)
		if err == nil || got == nil || got.Header.Type != m.kind {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
`
	if err := os.WriteFile(path, []byte(test), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "test", "./pkg/packet/bgp")
	cmd.Dir = filepath.Join(out, "gobgp")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestAnotherVersionIsNotMendedBlindly(t *testing.T) {
	if _, err := mend(messages, "package bgp\n"); err == nil || !strings.Contains(err.Error(), "still has the faults") {
		t.Errorf("%v", err)
	}
}
