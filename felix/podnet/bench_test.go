package podnet_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tortie/felix/podnet"
	"tortie/internal/kernel"
)

// BenchmarkAdd measures the wiring of a pod against its floor: a bare veth pair with
// one end in the pod. Both are done in turn in one run, since the machine's mood
// changes from run to run. The times of removal are not counted.
func BenchmarkAdd(b *testing.B) {
	b.Run("dual stack", func(b *testing.B) { benchmarkAdd(b, 2) })
	b.Run("IPv4 only", func(b *testing.B) { benchmarkAdd(b, 1) })
}

// benchmarkAdd wires pods with so many of attachment's two addresses, and with a MAC
// address, as felix/cniserver gives each. As felix, it is on a thread in the node's
// namespace.
func benchmarkAdd(b *testing.B, addresses int) {
	w := newWorld(b, nil)
	w.run()
	var add, floor costs
	err := w.ns.Visit(func() error {
		for b.Loop() {
			bare, p := w.newPod(), w.newPod()
			link := measure(b, &floor, func() (kernel.Link, error) {
				return w.node.CreateVeth(kernel.VethSpec{Host: "bare0", Peer: "bare1", PeerNetns: bare.ns})
			})
			a := attachment(p, 1)
			a.Addrs, a.MAC = a.Addrs[:addresses], "02:00:00:00:00:07"
			measure(b, &add, func() (podnet.Attached, error) { return w.net.Add(context.Background(), a) })
			err := w.net.Remove(context.Background(), hostIf(1))
			if err == nil {
				err = w.node.DeleteLink(link.Index)
			}
			if err != nil {
				return err
			}
			for _, p := range []pod{bare, p} {
				p.ns.Close()
				p.Close()
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(micros(add.wall, 50), "add-p50-µs")
	b.ReportMetric(micros(add.wall, 90), "add-p90-µs")
	b.ReportMetric(micros(floor.wall, 50), "floor-p50-µs")
	b.ReportMetric(micros(add.wall, 50)/micros(floor.wall, 50), "add/floor")
	b.ReportMetric(micros(add.cpu, 50), "add-cpu-p50-µs")
	b.ReportMetric(micros(add.cpu, 50)/micros(floor.cpu, 50), "add/floor-cpu")
}

// costs are those of one operation each time it was done.
type costs struct{ wall, cpu []time.Duration }

// measure is for operations that stay on the calling thread.
func measure[T any](b *testing.B, c *costs, operation func() (T, error)) T {
	begin, cpu := time.Now(), threadTime(b)
	v, err := operation()
	c.wall, c.cpu = append(c.wall, time.Since(begin)), append(c.cpu, threadTime(b)-cpu)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// threadTime is the CPU time the calling thread has used.
func threadTime(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
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
