package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"tortie/tests/lab"
)

func podCommand(name *string) *cobra.Command {
	cmd := &cobra.Command{
		Use: "pod", Short: "Make, list, delete and enter pods",
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(podAddCommand(name), podDelCommand(name), podListCommand(name), podExecCommand(name))
	return cmd
}

func podAddCommand(name *string) *cobra.Command {
	var spec lab.PodSpec
	cmd := &cobra.Command{
		Use:     "add POD [--node NODE]",
		Short:   "Make a pod: pause process, network by the CNI plugin, containers",
		Example: "  lab pod add web --node node1 --containers 2",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			spec.Name = args[0]
			p, err := l.AddPod(cmd.Context(), spec)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Pod %s is on %s with %s (CNI ADD took %v).\n",
				p.Name, p.Node, addrs(p), p.Took.Round(100*time.Microsecond))
			return nil
		},
	}
	cmd.Flags().StringVar(&spec.Node, "node", "node1", "node to run on")
	cmd.Flags().StringVarP(&spec.Namespace, "namespace", "n", "default", "Kubernetes namespace of the pod")
	cmd.Flags().IntVar(&spec.Containers, "containers", 1, "containers that share the pod's network namespace")
	return cmd
}

func addrs(p *lab.Pod) string {
	s := make([]string, len(p.Addrs))
	for i, a := range p.Addrs {
		s[i] = a.String()
	}
	return strings.Join(s, " and ")
}

func podDelCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "del POD...",
		Short: "Delete pods: containers, network by CNI DEL, pause process",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			for _, pod := range args {
				if err := l.DelPod(cmd.Context(), pod); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "Pod %s is deleted.\n", pod)
			}
			return nil
		},
	}
}

func podListCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the pods",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), podTable(l))
			return nil
		},
	}
}

func podTable(l *lab.Lab) string {
	t := table.NewWriter()
	t.AppendHeader(table.Row{"POD", "NODE", "CONTAINERS", "IPV4", "IPV6"})
	for _, p := range l.Pods() {
		t.AppendRow(table.Row{p.Namespace + "/" + p.Name, p.Node, len(p.Containers), p.Addr(false), p.Addr(true)})
	}
	return t.Render()
}

func podExecCommand(name *string) *cobra.Command {
	container := 0
	cmd := &cobra.Command{
		Use:     "exec POD [-c CONTAINER] -- COMMAND...",
		Short:   "Run a command in a container's network namespace",
		Example: "  lab pod exec pod-a-node1 -- ip route",
		RunE: inside("pod exec POD -- COMMAND", func(cmd *cobra.Command, pod string, command []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			p, err := l.Pod(pod)
			if err != nil {
				return err
			}
			return l.PodExec(p, container, command, stdio(cmd))
		}),
	}
	cmd.Flags().IntVarP(&container, "container", "c", 0, "number of the container")
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func execCommand(name *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec NODE -- COMMAND...",
		Short: "Run a command on a node (also: router, etcd, outside)",
		Example: `  lab exec node1 -- calicoctl node status
  lab exec router -- ip route`,
		RunE: inside("exec NODE -- COMMAND", func(cmd *cobra.Command, node string, command []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			return l.Exec(node, command, stdio(cmd))
		}),
	}
	cmd.Flags().SetInterspersed(false) // the command's own flags need no "--"
	return cmd
}

func stdio(cmd *cobra.Command) lab.Stdio {
	return lab.Stdio{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
}

func statusCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the pods, and every node's peers and routes with the reason for each",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), podTable(l))
			var failed []string
			for _, n := range l.Topology().Nodes {
				problems, err := nodeStatus(l, n.Name, stdio(cmd))
				if err != nil {
					return err
				}
				failed = append(failed, problems...)
			}
			if len(failed) > 0 {
				return errors.New(strings.Join(failed, "; "))
			}
			return nil
		},
	}
}

// nodeStatus prints a node's peers and routes and returns what is wrong with the
// node; the error is one of writing.
func nodeStatus(l *lab.Lab, node string, streams lab.Stdio) ([]string, error) {
	var problems []string
	for _, program := range []string{"felix", "bgpd"} {
		if !l.Daemon(program, node).Alive() {
			problems = append(problems, fmt.Sprintf("%s on %s is not running", program, node))
		}
	}
	for _, args := range [][]string{{"calicoctl", "bgp", "peers"}, {"calicoctl", "bgp", "routes"}} {
		command := strings.Join(args, " ")
		if _, err := fmt.Fprintf(streams.Out, "\n%s$ %s\n", node, command); err != nil {
			return nil, err
		}
		if err := l.Exec(node, args, streams); err != nil {
			problems = append(problems, fmt.Sprintf("%s on %s: %v", command, node, err))
		}
	}
	return problems, nil
}

func logsCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "logs NODE [felix|bgpd]",
		Short: "Print the logs of a node's programs (also of: router, etcd)",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			program := ""
			if len(args) == 2 {
				program = args[1]
			}
			return l.Logs(cmd.OutOrStdout(), args[0], program)
		},
	}
}

// inside is the body of a command that runs another one somewhere: "WHERE [FLAG...] [--]
// COMMAND...". Flags in front of the other command's name are ours, those behind it are
// its own and need no "--". The command's flags must not be interspersed.
func inside(usage string, run func(cmd *cobra.Command, where string, command []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			if err := cmd.Flags().Parse(args[1:]); err != nil {
				return err
			}
		}
		if help, err := cmd.Flags().GetBool("help"); err == nil && help {
			return cmd.Help()
		}
		if len(args) < 2 || cmd.Flags().NArg() == 0 {
			return fmt.Errorf("which command, and where? usage: bin/lab %s", usage)
		}
		return run(cmd, args[0], cmd.Flags().Args())
	}
}
