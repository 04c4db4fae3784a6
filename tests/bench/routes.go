package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"tortie/tests/bench/onepeer"
)

const (
	// serveBGPD is the argument with which this program is the bgpd under measurement.
	serveBGPD = "serve-bgpd"
	// routeCount is how many routes the peer announces, routeRounds how often.
	routeCount  = 100_000
	routeRounds = 3
)

// routesOfOnePeer measures bgpd and BIRD turn by turn, and prints what both have used.
func routesOfOnePeer(ctx context.Context, w io.Writer) error {
	fmt.Fprintln(os.Stderr, "… routes of one peer")
	var wall, cpu, withdrawn [2]sample
	var peak [2]int
	for range routeRounds {
		results, err := onepeer.Measure(ctx, routeCount, onepeer.BGPD(serveBGPD), onepeer.BIRD())
		if err != nil {
			return err
		}
		for i, r := range results {
			wall[i], cpu[i], withdrawn[i] = append(wall[i], r.Wall), append(cpu[i], r.CPU), append(withdrawn[i], r.Withdrawn)
			peak[i] = max(peak[i], r.Peak)
		}
	}
	t := table.NewWriter()
	t.SetTitle(fmt.Sprintf("%d routes of one BGP peer into the kernel, and out of it; the least of %d, ms", routeCount, routeRounds))
	t.AppendHeader(table.Row{"WHAT", "BGPD", "BIRD 2", "RATIO", "TARGET"})
	for _, r := range []struct {
		what, target string
		got          [2]sample
	}{
		{"announced → all in the kernel", "≤ 1.5", wall}, {"… processor time", "", cpu}, {"withdrawn → all gone", "", withdrawn},
	} {
		ours, theirs := r.got[0].at(0), r.got[1].at(0)
		t.AppendRow(table.Row{r.what, ms(ours), ms(theirs), fmt.Sprintf("%.2f", float64(ours)/float64(max(theirs, time.Microsecond))), r.target})
	}
	t.AppendRow(table.Row{"memory at its peak, MB", peak[0] >> 20, peak[1] >> 20, fmt.Sprintf("%.1f", float64(peak[0])/float64(max(peak[1], 1))), ""})
	fmt.Fprintln(w, t.Render())
	return nil
}
