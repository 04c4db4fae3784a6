package matrix

import (
	"fmt"
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
)

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

// Print prints the counts, then each failure; an error when there is any.
func Print(w io.Writer, checks []Check, took time.Duration) error {
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
	for _, p := range Paths() {
		m := cells[p]
		t.AppendRow(table.Row{
			p, m[column{"IPv4", "tcp"}], m[column{"IPv4", "udp"}], m[column{"IPv6", "tcp"}], m[column{"IPv6", "udp"}],
		})
	}
	fmt.Fprintln(w, t.Render())
	for _, c := range checks {
		if c.Failure != "" {
			fmt.Fprintln(w, "FAIL", c)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, len(checks))
	}
	fmt.Fprintf(w, "%d checks passed in %d ms.\n", len(checks), took.Milliseconds())
	return nil
}
