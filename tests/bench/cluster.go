package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"tortie/tests/bench/cluster"
)

const (
	meshSize    = 50
	meshRounds  = 5
	startRounds = 3
	victims     = 5
	idlePeers   = 500
	churnHours  = 24
	// maxGrowth of memory counts as flat.
	maxGrowth = 1.2
)

// manyNodes measures bgpd as one node of many and prints it.
func manyNodes(ctx context.Context, w io.Writer) error {
	t := table.NewWriter()
	t.SetTitle("one node of many; times in ms: median (10th–90th percentile)")
	t.AppendHeader(table.Row{"WHAT", "BGPD", "BIRD 2", "TARGET"})
	for _, part := range []func(context.Context, table.Writer) error{startRows, deadRow, blockRows, idleRow, churnRow} {
		if err := part(ctx, t); err != nil {
			return err
		}
	}
	fmt.Fprintln(w, t.Render())
	return nil
}

func step(what string) { fmt.Fprintln(os.Stderr, "…", what) }

func startRows(ctx context.Context, t table.Writer) error {
	for _, r := range []struct {
		what  string
		start func(context.Context, bool) (cluster.Start, error)
	}{
		{"start → all blocks in the kernel: mesh of 1,000, 999 sessions, 1,998 blocks", cluster.StartInMesh},
		{"start → all blocks in the kernel: 1,998 blocks by a reflector", cluster.StartByReflector},
	} {
		step(r.what)
		var wall, cpu [2]sample
		var peak [2]int
		for range startRounds {
			for i, bird := range []bool{false, true} {
				got, err := r.start(ctx, bird)
				if err != nil {
					return err
				}
				wall[i], cpu[i], peak[i] = append(wall[i], got.Wall), append(cpu[i], got.CPU), max(peak[i], got.Peak)
			}
		}
		t.AppendRow(table.Row{r.what, wall[0], wall[1], "≤ 10,000"})
		t.AppendRow(table.Row{"… processor time", cpu[0], cpu[1], ""})
		t.AppendRow(table.Row{"… memory at its peak, MB", peak[0] >> 20, peak[1] >> 20, ""})
	}
	return nil
}

func deadRow(ctx context.Context, t table.Writer) error {
	step("dead nodes, with BFD")
	took, err := cluster.DeadNodes(ctx, victims)
	if err != nil {
		return err
	}
	t.AppendRow(table.Row{"cable of a node pulled → no route by it anywhere, with BFD", sample(took), "", "≤ 1,000"})
	return nil
}

func blockRows(ctx context.Context, t table.Writer) error {
	step(fmt.Sprintf("new blocks in a mesh of %d", meshSize))
	got, err := cluster.NewBlocks(ctx, meshSize, meshRounds)
	if err != nil {
		return err
	}
	t.AppendRow(table.Row{fmt.Sprintf("a new block → in every kernel of a mesh of %d bgpds on this machine", meshSize), sample(got.One), "", "≤ 1,000"})
	t.AppendRow(table.Row{"… one on every node at once", sample(got.All), "", "≤ 1,000"})
	t.AppendRow(table.Row{"… memory of one of them, MB", got.Resident >> 20, "", ""})
	return nil
}

func idleRow(ctx context.Context, t table.Writer) error {
	step(fmt.Sprintf("memory of %d idle peers", idlePeers))
	var each [2]int
	for i, bird := range []bool{false, true} {
		var err error
		if each[i], err = cluster.MemoryPerPeer(ctx, idlePeers, bird); err != nil {
			return err
		}
	}
	t.AppendRow(table.Row{
		fmt.Sprintf("memory of an idle peer, KB (of %d)", idlePeers),
		fmt.Sprintf("%.1f", float64(each[0])/1000), fmt.Sprintf("%.1f", float64(each[1])/1000), "≤ 50",
	})
	return nil
}

func churnRow(ctx context.Context, t table.Writer) error {
	step(fmt.Sprintf("%d hours of churn, compressed", churnHours))
	got, err := cluster.Churning(ctx, churnHours, func(int, int) {})
	if err != nil {
		return err
	}
	t.AppendRow(table.Row{
		fmt.Sprintf("memory after %d hours of churn (86,400 changes, compressed to %s), of that after 4", churnHours, got.Wall.Round(time.Second)),
		fmt.Sprintf("%.2f", got.Growth()), "", fmt.Sprintf("≤ %.1f", maxGrowth),
	})
	return nil
}

// soak is churn for as many hours as are wanted, told hour by hour. Memory that isn't flat
// is an error.
func soak(ctx context.Context, hours int, w io.Writer) error {
	got, err := cluster.Churning(ctx, hours, func(n, resident int) {
		fmt.Fprintf(w, "hour %d of %d: %d MB\n", n, hours, resident>>20)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%d hours in %s: memory is %.2f of that after the warm-up\n", hours, got.Wall.Round(time.Second), got.Growth())
	if got.Growth() > maxGrowth {
		return fmt.Errorf("soak: memory has grown to %.2f of what it was after the warm-up; at most %.1f counts as flat", got.Growth(), maxGrowth)
	}
	return nil
}
