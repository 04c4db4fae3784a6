package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"tortie/tests/lab"
	"tortie/tests/lab/matrix"
)

func checkCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Probe every path between pods, nodes and the outside, and print the matrix",
		Long: `check probes every path with real TCP and UDP over IPv4 and IPv6. On every path but
the last the receiver must see the sender's own address (no NAT), and between nodes the
packets must go by the right next hop: the other node itself, the router, or the other end
of a tunnel where the pool's vxlanMode asks for one; a node is then seen by its tunnel's
address, and pods of a pool with natOutgoing by their node's on the other node. To the outside a
packet leaves with the node's address where its pool says natOutgoing (the lab's
IPv4 pool), else with the pod's own (the IPv6 pool).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			began := time.Now()
			checks, err := l.CheckAll(cmd.Context())
			if err != nil {
				return err
			}
			if len(checks) == 0 {
				return errors.New("nothing to check: there are no pods; add some with: lab pod add NAME --node NODE")
			}
			return matrix.Print(cmd.OutOrStdout(), checks, time.Since(began))
		},
	}
}
