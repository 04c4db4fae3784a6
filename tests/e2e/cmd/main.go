// Command e2e runs a Kubernetes cluster on this machine: for the tests, and by
// hand.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"tortie/tests/e2e/cluster"
	"tortie/tests/e2e/kube"
	"tortie/tests/e2e/machine"
)

func main() {
	// These run as the first processes of machines: nothing is to come before them.
	if len(os.Args) == 3 && (os.Args[1] == machine.InitCommand || os.Args[1] == machine.SuperviseCommand) {
		exit(runMachine(os.Args[1], os.Args[2]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	exit(root().ExecuteContext(ctx))
}

func exit(err error) {
	var ended status
	if errors.As(err, &ended) {
		os.Exit(int(ended))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runMachine(command, spec string) error {
	if command == machine.InitCommand {
		return machine.Init(spec)
	}
	return machine.Supervise(context.Background(), spec)
}

func root() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "e2e", Short: "A Kubernetes cluster on this machine, to try Tortie on",
		SilenceUsage: true, SilenceErrors: true, TraverseChildren: true, // so that --name before kubectl is ours
	}
	cmd.PersistentFlags().StringVar(&name, "name", "e2e", "name of the cluster")
	dir := func() string { return cluster.Dir(name) }
	cmd.AddCommand(upCommand(dir), downCommand(dir), loadCommand(dir), shellCommand(dir), kubectlCommand(dir), execCommand(dir))
	return cmd
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func upCommand(dir func() string) *cobra.Command {
	cfg := cluster.Config{}
	cmd := &cobra.Command{
		Use: "up", Short: "Start a cluster without a pod network", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := cluster.Find(dir(), say); err == nil {
				return fmt.Errorf("the cluster in %s is there already; end it with: bin/e2e down", dir())
			}
			var err error
			if cfg.Source, err = os.Getwd(); err != nil {
				return err
			}
			if cfg.Kubernetes, err = kube.Build(cmd.Context(), say); err != nil {
				return err
			}
			cfg.Dir = dir()
			c, err := cluster.Up(cmd.Context(), cfg, say)
			if err != nil && c != nil {
				say("it didn't come up; its logs are in %s, and it is ended by: bin/e2e down", dir())
			}
			return err
		},
	}
	cmd.Flags().IntVar(&cfg.Nodes, "nodes", 3, "how many nodes")
	cmd.Flags().StringVar((*string)(&cfg.Families), "families", string(cluster.DualStack), "IP versions of machines, pods and services: dual, ipv4 or ipv6")
	cmd.Flags().StringVar(&cfg.ProxyMode, "proxy-mode", "nftables", "kube-proxy's mode: nftables or iptables")
	return cmd
}

func downCommand(dir func() string) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End the cluster; nothing of it is left", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := cluster.Find(dir(), say)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			return c.Down()
		},
	}
}

func loadCommand(dir func() string) *cobra.Command {
	return &cobra.Command{
		Use: "load", Short: "Load what make images made on every node", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster.Find(dir(), say)
			if err != nil {
				return fmt.Errorf("find the cluster: %w; start it with: bin/e2e up", err)
			}
			return c.LoadImages(cmd.Context(), c.Nodes()...)
		},
	}
}

func shellCommand(dir func() string) *cobra.Command {
	var command string
	cmd := &cobra.Command{
		Use: "shell", Short: "Open a shell in which kubectl is the cluster's administrator's", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster.Find(dir(), say)
			if err != nil {
				return fmt.Errorf("find the cluster: %w; start it with: bin/e2e up", err)
			}
			if command != "" {
				return attach(c.Command(cmd.Context(), "bash", "-c", command))
			}
			return attach(c.Command(cmd.Context(), "bash"))
		},
	}
	cmd.Flags().StringVarP(&command, "command", "c", "", "run this instead of a shell")
	return cmd
}

func kubectlCommand(dir func() string) *cobra.Command {
	return &cobra.Command{
		Use: "kubectl ARG…", Short: "Run kubectl as the cluster's administrator", DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Find(dir(), say)
			if err != nil {
				return fmt.Errorf("find the cluster: %w; start it with: bin/e2e up", err)
			}
			return attach(c.KubectlCommand(cmd.Context(), args...))
		},
	}
}

func execCommand(dir func() string) *cobra.Command {
	cmd := &cobra.Command{
		Use: "exec MACHINE PROGRAM ARG…", Short: "Run a program on a machine: node1 …, cp, router, outside", Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Find(dir(), say)
			if err != nil {
				return fmt.Errorf("find the cluster: %w; start it with: bin/e2e up", err)
			}
			m := c.Machine(args[0])
			if m == nil {
				return fmt.Errorf("no machine %q; there are cp, node1 to node%d, router and outside", args[0], len(c.Nodes()))
			}
			return attach(m.Command(cmd.Context(), args[1:]...))
		},
	}
	cmd.Flags().SetInterspersed(false) // the program's flags are its own
	return cmd
}

// status is how a program ended that has said itself what was wrong.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func attach(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return status(ended.ExitCode())
	}
	return err
}
