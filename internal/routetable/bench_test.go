package routetable_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/routetable"
)

// blocks are n learned /26, over 100 next hops.
func blocks(link, n int) []kernel.Route {
	out := make([]kernel.Route, 0, n)
	for i := range n {
		a := uint32(10)<<24 | uint32(i)<<6
		out = append(out, kernel.Route{
			Dst:  netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}), 26),
			Link: link, Gateway: netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + i%100)}), Protocol: kernel.ProtocolBGP,
		}.Normal())
	}
	return out
}

// realWorld is a namespace of the benchmark's own.
func realWorld(b *testing.B) world {
	kerneltest.Require(b, kerneltest.Netns, kerneltest.Veth, kerneltest.IPv6)
	return newWorld(b, kerneltest.New(b))
}

// BenchmarkApply fills an empty table and empties it again, beside the bare
// requests in the same run; x-floor is the ratio of the two.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			w := realWorld(b)
			routes := blocks(w.eth0, n)
			var floor, ours time.Duration
			for b.Loop() {
				floor += timed(func() {
					for _, op := range []kernel.RouteOp{kernel.Add, kernel.Delete} {
						changes := make([]kernel.RouteChange, 0, n)
						for _, r := range routes {
							changes = append(changes, kernel.RouteChange{Op: op, Route: r})
						}
						ok(b, errors.Join(w.ChangeRoutes(changes)...))
					}
				})
				table := newTable(w)
				ours += timed(func() {
					table.Set(routes)
					ok(b, table.Apply(context.Background()))
					table.Set(nil)
					ok(b, table.Apply(context.Background()))
				})
			}
			report(b, floor, ours, n)
		})
	}
}

// BenchmarkResync finds n routes as they should be, beside a bare read of them.
func BenchmarkResync(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			w := realWorld(b)
			table := routetable.New(routetable.Config{Kernel: w, Protocol: kernel.ProtocolBGP})
			table.Set(blocks(w.eth0, n))
			ok(b, table.Apply(context.Background()))
			var floor, ours time.Duration
			for b.Loop() {
				floor += timed(func() {
					rs, err := w.Routes(context.Background(), kernel.RouteFilter{Protocol: kernel.ProtocolBGP})
					ok(b, err)
					if len(rs) != n {
						b.Fatalf("%d routes read, want %d", len(rs), n)
					}
				})
				ours += timed(func() {
					table.QueueResync()
					ok(b, table.Apply(context.Background()))
				})
			}
			report(b, floor, ours, n)
		})
	}
}

func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func report(b *testing.B, floor, ours time.Duration, n int) {
	per := float64(b.N * n)
	b.ReportMetric(float64(floor.Microseconds())/per, "floor-µs/route")
	b.ReportMetric(float64(ours.Microseconds())/per, "µs/route")
	b.ReportMetric(float64(ours)/float64(floor), "x-floor")
}
