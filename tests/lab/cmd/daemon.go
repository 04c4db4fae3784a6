package main

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"tortie/tests/lab"
)

// killCommand and startCommand are for seeing what happens without a daemon. The
// nodes share the machine's process IDs, so a kill by name would meet all of them.
func killCommand(name *string) *cobra.Command {
	return daemonCommand(name, "kill", "Kill felix or bgpd on a node, as a crash does", func(l *lab.Lab, program, node string) error {
		if !l.Daemon(program, node).Alive() {
			return fmt.Errorf("%s is not running on %s; start it with: lab start %s %s", program, node, node, program)
		}
		return l.KillDaemon(program, node, syscall.SIGKILL)
	})
}

func startCommand(name *string) *cobra.Command {
	return daemonCommand(name, "start", "Start felix or bgpd on a node again", func(l *lab.Lab, program, node string) error {
		if l.Daemon(program, node).Alive() {
			return fmt.Errorf("%s is running on %s already", program, node)
		}
		return l.StartDaemon(program, node)
	})
}

func daemonCommand(name *string, verb, short string, do func(l *lab.Lab, program, node string) error) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " NODE felix|bgpd",
		Short:   short,
		Example: "  lab " + verb + " node1 felix",
		Args:    cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			node, program := args[0], args[1]
			if !slices.Contains([]string{"felix", "bgpd"}, program) {
				return fmt.Errorf("%s %q: want felix or bgpd", verb, program)
			}
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			if _, err := l.Topology().Node(node); err != nil {
				return err
			}
			return do(l, program, node)
		},
	}
}
