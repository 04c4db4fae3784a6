package podnet_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"tortie/internal/kernel"
)

// BenchmarkAdd measures the wiring of a dual-stack pod against its floor: a bare
// veth pair with one end in the pod. Both are done in turn in one run, since the
// machine's mood changes from run to run. The times of removal are not counted.
func BenchmarkAdd(b *testing.B) {
	w := newWorld(b, nil)
	w.run()
	var add, floor []time.Duration
	for b.Loop() {
		p := w.newPod()
		begin := time.Now()
		_, err := w.node.CreateVeth(kernel.VethSpec{Host: "bare0", Peer: "bare1", PeerNetns: p.ns})
		floor = append(floor, time.Since(begin))
		if err != nil {
			b.Fatal(err)
		}
		p.ns.Close()
		p.Close()
		bare, err := w.node.LinkByName("bare0")
		if err == nil {
			err = w.node.DeleteLink(bare.Index)
		}
		if err != nil {
			b.Fatal(err)
		}

		p = w.newPod()
		begin = time.Now()
		_, err = w.net.Add(context.Background(), attachment(p, 1))
		add = append(add, time.Since(begin))
		if err != nil {
			b.Fatal(err)
		}
		if err := w.net.Remove(context.Background(), hostIf(1)); err != nil {
			b.Fatal(err)
		}
		p.ns.Close()
		p.Close()
	}
	b.ReportMetric(micros(add, 50), "add-p50-µs")
	b.ReportMetric(micros(add, 90), "add-p90-µs")
	b.ReportMetric(micros(floor, 50), "floor-p50-µs")
	b.ReportMetric(micros(add, 50)/micros(floor, 50), "add/floor")
}

// BenchmarkRemove measures how long the caller of Remove waits.
func BenchmarkRemove(b *testing.B) {
	w := newWorld(b, nil)
	w.run()
	p := w.newPod()
	var remove []time.Duration
	for b.Loop() {
		if _, err := w.net.Add(context.Background(), attachment(p, 1)); err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		if err := w.net.Remove(context.Background(), hostIf(1)); err != nil {
			b.Fatal(err)
		}
		remove = append(remove, time.Since(begin))
	}
	b.ReportMetric(micros(remove, 50), "remove-p50-µs")
	b.ReportMetric(micros(remove, 90), "remove-p90-µs")
}

func micros(d []time.Duration, percentile int) float64 {
	slices.Sort(d)
	return float64(d[(len(d)-1)*percentile/100]) / float64(time.Microsecond)
}
