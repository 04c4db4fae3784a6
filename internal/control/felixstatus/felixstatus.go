// Package felixstatus is the file by which felix tells calicoctl what is wrong on
// its node. A file outlives its writer: it also says why a felix could not start.
package felixstatus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Status is what felix says of itself.
type Status struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	PID     int    `json:"pid"`
	// Started is in seconds since the epoch.
	Started int64 `json:"started"`
	// Problems are conditions that someone should look at, one clear line each.
	Problems []string `json:"problems,omitempty"`
	// Ended is why felix has ended; empty while it runs, and after an end in order.
	Ended string `json:"ended,omitempty"`
}

// Path is where the file is, beside felix's socket for the CNI plugin.
func Path(cniSocket string) string {
	return filepath.Join(filepath.Dir(cniSocket), "felix-status.json")
}

// Write replaces the file as a whole.
func Write(path string, s Status) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write felix's status: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write felix's status: %w", err)
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("write felix's status: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write felix's status: %w", err)
	}
	return nil
}

// Read reads the file. Where there is none felix has never run here, and the Status
// is empty.
func Read(path string) (Status, error) {
	var s Status
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read felix's status %s: %w", path, err)
	}
	return s, nil
}
