package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Routes are a node's routes as ip(8) prints them, of both families, without the
// volatile parts: what must be the same before and after a restart.
func (l *Lab) Routes(node string) (string, error) {
	var all strings.Builder
	for _, family := range []string{"-4", "-6"} {
		for _, proto := range []string{"80", "81"} {
			var out, errs bytes.Buffer
			err := l.Exec(node, []string{"ip", family, "route", "show", "table", "main", "proto", proto}, Stdio{Out: &out, Err: &errs})
			if err != nil {
				return "", fmt.Errorf("%s: ip route: %w: %s", node, err, errs.String())
			}
			for line := range strings.Lines(out.String()) {
				fmt.Fprintf(&all, "proto %s %s\n", proto, strings.TrimSpace(line))
			}
		}
	}
	return all.String(), nil
}

// WaitConverged waits until every check passes: the routes of every pod have
// reached every node.
func (l *Lab) WaitConverged(ctx context.Context, patience time.Duration) error {
	return waitFor(ctx, patience, "every path works", func() error {
		checks, err := l.CheckAll(ctx)
		if err != nil {
			return err
		}
		for _, c := range checks {
			if c.Failure != "" {
				return errors.New(c.String())
			}
		}
		return nil
	})
}
