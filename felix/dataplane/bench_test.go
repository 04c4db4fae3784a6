package dataplane_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"tortie/felix/calc"
	"tortie/felix/dataplane"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/routetable"
)

// BenchmarkUpsert is what one CNI ADD waits for its route, on a node that has a
// number of pods already. The floor is the same route written and deleted by a
// bare request.
func BenchmarkUpsert(b *testing.B) {
	for _, pods := range []int{0, 100, 1000} {
		b.Run(fmt.Sprintf("pods=%d", pods), func(b *testing.B) {
			k := kerneltest.New(b)
			l, err := k.CreateVeth(kernel.VethSpec{Host: if1, Peer: "p1"})
			if err == nil {
				err = k.SetUp(l.PeerIndex)
			}
			if err != nil {
				b.Fatal(err)
			}
			loop := startBench(b, k, pods)
			for b.Loop() {
				ep := endpoint("bench", "c", if1, "10.66.0.1")
				if err := loop.Upsert(context.Background(), ep, 0); err != nil {
					b.Fatal(err)
				}
				if err := loop.Remove(context.Background(), ep.ID, ep.ContainerID); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("floor", func(b *testing.B) {
		k := kerneltest.New(b)
		r := kernel.Route{
			Dst: netip.MustParsePrefix("10.66.0.1/32"), Protocol: kernel.ProtocolFelix, Scope: kernel.ScopeLink, Link: 1,
		}
		for b.Loop() {
			if err := k.AddRoute(r); err != nil {
				b.Fatal(err)
			}
			if err := k.DeleteRoute(r); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func startBench(b *testing.B, k *kernel.Handle, pods int) *dataplane.Loop {
	s := calc.State{Endpoints: map[calc.EndpointID]calc.Endpoint{}}
	for n := range pods {
		ep := endpoint(fmt.Sprint("pod", n), "c", if1, fmt.Sprintf("10.65.%d.%d", n/250, n%250+1))
		s.Endpoints[ep.ID] = ep
	}
	log := slog.New(slog.DiscardHandler)
	loop, err := dataplane.New(dataplane.Config{
		Kernel: k, Log: log,
		Routes: routetable.New(routetable.Config{Kernel: k, Protocol: kernel.ProtocolFelix, Log: log}),
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	loop.SetState(s)
	loop.InSync()
	return loop
}
