// Command lab runs the topology lab: nodes in network namespaces with the real
// programs in each, and pods made as Kubernetes makes them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := root().ExecuteContext(ctx)
	// Whoever reads our output may stop reading.
	if err == nil || errors.Is(err, syscall.EPIPE) {
		return
	}
	// The exit status of a command run inside the lab is passed on as it is.
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		status, _ := exit.Sys().(syscall.WaitStatus)
		switch {
		case exit.ExitCode() > 0:
			os.Exit(exit.ExitCode())
		case status.Signaled(): // as a shell passes it on
			os.Exit(128 + int(status.Signal()))
		}
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	os.Exit(1)
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "A data centre of network namespaces to try pod networking in",
		Long: `lab builds nodes, a router, an etcd and an outside host out of network namespaces
on this machine, and runs felix and bgpd on every node. Nothing of it is visible
outside its namespaces; "lab down" leaves nothing behind.`,
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	name := cmd.PersistentFlags().String("name", "lab", "which lab, where several run")
	cmd.AddCommand(upCommand(name), downCommand(name), statusCommand(name), checkCommand(name),
		logsCommand(name), killCommand(name), startCommand(name),
		execCommand(name), podCommand(name), etcdCommand(), routerCommand(),
		proxyCommand(), storeCommand())
	return cmd
}
