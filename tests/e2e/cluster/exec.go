package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// runHere runs a program on this machine.
func runHere(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
