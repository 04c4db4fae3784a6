package lab

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Logs writes the logs of a node's programs, or of one of them, oldest line first.
func (l *Lab) Logs(w io.Writer, node, program string) error {
	if strings.ContainsRune(node+program, '/') {
		return fmt.Errorf("no logs of %s %s", node, program)
	}
	pattern := program
	if pattern == "" {
		pattern = "*"
	}
	files, err := filepath.Glob(filepath.Join(l.hostDir(node), pattern+".log"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no logs of %s %s: there are those of the nodes, router and etcd, each in %s", node, program, filepath.Join(l.dir, "nodes"))
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if len(content) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "==> %s\n%s", filepath.Base(file), content); err != nil {
			return err
		}
	}
	return nil
}
