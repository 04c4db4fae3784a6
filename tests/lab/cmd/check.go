package main

import (
	"fmt"
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"tortie/tests/lab"
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
			return printMatrix(cmd.OutOrStdout(), checks, time.Since(began))
		},
	}
}

// cell counts the checks of one path, family and protocol.
type cell struct{ passed, total int }

func (c cell) String() string {
	switch {
	case c.total == 0:
		return "-"
	case c.passed == c.total:
		return fmt.Sprintf("ok %d/%d", c.passed, c.total)
	}
	return fmt.Sprintf("FAIL %d/%d", c.passed, c.total)
}

// printMatrix prints the counts, then each failure; an error when there is any, or
// when nothing was checked.
func printMatrix(w io.Writer, checks []lab.Check, took time.Duration) error {
	type column struct{ family, network string }
	cells := map[string]map[column]cell{}
	failed := 0
	for _, c := range checks {
		if cells[c.Path] == nil {
			cells[c.Path] = map[column]cell{}
		}
		col := column{c.Family(), c.Probe.Network}
		n := cells[c.Path][col]
		n.total++
		if c.Failure == "" {
			n.passed++
		} else {
			failed++
		}
		cells[c.Path][col] = n
	}
	t := table.NewWriter()
	t.AppendHeader(table.Row{"PATH", "IPv4 TCP", "IPv4 UDP", "IPv6 TCP", "IPv6 UDP"})
	for _, p := range lab.Paths() {
		m := cells[p]
		t.AppendRow(table.Row{
			p, m[column{"IPv4", "tcp"}], m[column{"IPv4", "udp"}], m[column{"IPv6", "tcp"}], m[column{"IPv6", "udp"}],
		})
	}
	fmt.Fprintln(w, t.Render())
	for _, c := range checks {
		if c.Failure != "" {
			fmt.Fprintf(w, "FAIL %s: %s → %s (%s %s): %s\n", c.Path, c.From, c.To, c.Probe.Network, c.Probe.Target, c.Failure)
		}
	}
	if len(checks) == 0 {
		return fmt.Errorf("nothing to check: there are no pods; add some with: lab pod add NAME --node NODE")
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, len(checks))
	}
	fmt.Fprintf(w, "%d checks passed in %d ms.\n", len(checks), took.Milliseconds())
	return nil
}
