package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
)

// sample is a set of measured durations.
type sample []time.Duration

// at is the value below which the given share of the sample lies.
func (s sample) at(share float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[int(share*float64(len(sorted)-1)+0.5)]
}

// String is the median with the spread from the 10th to the 90th percentile.
func (s sample) String() string {
	return fmt.Sprintf("%s (%s–%s)", ms(s.at(.5)), ms(s.at(.1)), ms(s.at(.9)))
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d.Microseconds())/1000) }

// row compares one measurement of ours with a peer or floor in the same run.
type row struct {
	what, against string
	ours, theirs  sample
	target        string
}

func (r row) ratio() string {
	if r.theirs.at(.5) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64(r.ours.at(.5))/float64(r.theirs.at(.5)))
}

func (b *bench) print(w io.Writer) {
	t := table.NewWriter()
	t.SetTitle("ms: median (10th–90th percentile); ratio of medians, ours / theirs")
	t.AppendHeader(table.Row{"WHAT", "OURS", "BESIDE", "THEIRS", "RATIO", "TARGET"})
	for _, r := range b.rows {
		t.AppendRow(table.Row{r.what, r.ours, r.against, r.theirs, r.ratio(), r.target})
	}
	fmt.Fprintln(w, t.Render())
}
