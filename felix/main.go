// Command felix is the dataplane daemon of a node: it wires pods for the CNI
// plugin and keeps the kernel as the datastore says.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"tortie/felix/daemon"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	switch {
	case len(args) == 1 && (args[0] == "--version" || args[0] == "-version" || args[0] == "-v"):
		_, _ = fmt.Fprintln(os.Stdout, version)
		return 0
	case len(args) > 0:
		fmt.Fprintf(os.Stderr, "felix: unknown argument %q: felix is configured by FELIX_* variables and %s; the only flag is --version\n", args[0], daemon.ConfigFile)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := daemon.Run(ctx, daemon.Process{Version: version, Environ: os.Environ(), Log: os.Stderr})
	if err != nil {
		fmt.Fprintf(os.Stderr, "felix: %v\n", err)
		return 1
	}
	return 0
}
