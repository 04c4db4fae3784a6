package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"

	"tortie/tests/bench/onepeer"
)

const (
	// serveBGPD is the argument with which this program is the bgpd under measurement,
	// serveGoBGP that with which it is the library alone.
	serveBGPD  = "serve-bgpd"
	serveGoBGP = "serve-gobgp"
	// routeCount is how many routes the peer announces, routeRounds how often.
	routeCount  = 100_000
	routeRounds = 3
)

// routesOfOnePeer measures bgpd and BIRD turn by turn, and prints what both have used.
func routesOfOnePeer(ctx context.Context, w io.Writer) error {
	fmt.Fprintln(os.Stderr, "… routes of one peer")
	var wall, cpu, withdrawn [3]sample
	var peak [3]int
	for range routeRounds {
		results, err := onepeer.Measure(ctx, routeCount, onepeer.BGPD(serveBGPD), onepeer.BIRD(), onepeer.GoBGP(serveGoBGP))
		if err != nil {
			return err
		}
		for i, r := range results {
			wall[i], cpu[i], withdrawn[i] = append(wall[i], r.Wall), append(cpu[i], r.CPU), append(withdrawn[i], r.Withdrawn)
			peak[i] = max(peak[i], r.Peak)
		}
	}
	t := table.NewWriter()
	t.SetTitle(fmt.Sprintf("%d routes of one BGP peer, ms: median of %d (10th–90th percentile)", routeCount, routeRounds))
	t.AppendHeader(table.Row{"WHAT", "BGPD", "BIRD 2", "RATIO", "TARGET", "GOBGP ALONE, NO KERNEL"})
	for i, r := range []row{
		{what: "announced → all in the kernel", ours: wall[0], theirs: wall[1], target: "≤ 1.5"},
		{what: "… processor time", ours: cpu[0], theirs: cpu[1]},
		{what: "withdrawn → all gone", ours: withdrawn[0], theirs: withdrawn[1]},
	} {
		alone := []sample{wall[2], cpu[2], withdrawn[2]}[i]
		t.AppendRow(table.Row{r.what, r.ours, r.theirs, r.ratio(), r.target, alone})
	}
	t.AppendRow(table.Row{
		"memory at its peak, MB", peak[0] >> 20, peak[1] >> 20, fmt.Sprintf("%.1f", float64(peak[0])/float64(max(peak[1], 1))), "", peak[2] >> 20,
	})
	fmt.Fprintln(w, t.Render())
	return nil
}
