package daemon

import (
	"context"
	"log/slog"
	"slices"

	"tortie/felix/bandwidth"
	"tortie/felix/calc"
	"tortie/felix/dataplane"
	"tortie/felix/limits"
	"tortie/felix/podnet"
	"tortie/internal/kernel"
)

// newLimits are what holds the traffic of pods within their limits.
func newLimits(k *kernel.Handle, pods *podnet.Net, log *slog.Logger) []dataplane.Limits {
	return []dataplane.Limits{
		bandwidths{bandwidth.New(bandwidth.Config{Kernel: k, Retire: pods.Retire, Log: log})},
		packetLimits{limits.New(limits.Config{Log: log})},
	}
}

// bandwidths are told what of a limit concerns them.
type bandwidths struct{ *bandwidth.Shaper }

// Set implements dataplane.Limits.
func (b bandwidths) Set(all []dataplane.Limited, _ calc.State) {
	var pods []bandwidth.Pod
	for _, one := range all {
		pods = append(pods, shaped(one))
	}
	b.Shaper.Set(pods)
}

// Check implements dataplane.Limits.
func (b bandwidths) Check(ctx context.Context, one dataplane.Limited) ([]string, error) {
	return b.Shaper.Check(ctx, shaped(one))
}

func shaped(one dataplane.Limited) bandwidth.Pod {
	q := one.Limits
	return bandwidth.Pod{
		Interface: one.Interface, Link: one.Link,
		ToPod:   bandwidth.Limit{Rate: q.IngressBandwidth, Burst: q.IngressBurst, Peak: q.IngressPeakrate, PeakBurst: q.IngressMinburst},
		FromPod: bandwidth.Limit{Rate: q.EgressBandwidth, Burst: q.EgressBurst, Peak: q.EgressPeakrate, PeakBurst: q.EgressMinburst},
	}
}

// packetLimits are told what of a limit concerns them.
type packetLimits struct{ *limits.Limits }

// Set implements dataplane.Limits.
func (p packetLimits) Set(all []dataplane.Limited, s calc.State) {
	var pods []limits.Pod
	for _, one := range all {
		q := one.Limits
		pod := limits.Pod{
			Interface: one.Interface,
			ToPod:     limits.Rates{Packets: q.IngressPacketRate, PacketBurst: q.IngressPacketBurst, Connections: q.IngressMaxConnections},
			FromPod:   limits.Rates{Packets: q.EgressPacketRate, PacketBurst: q.EgressPacketBurst, Connections: q.EgressMaxConnections},
		}
		if q.DSCP != nil {
			dscp := q.DSCP.ToUint8()
			pod.DSCP = &dscp
		}
		pods = append(pods, pod)
	}
	p.Limits.Set(pods, slices.Concat(s.Pools, s.Nodes))
}

// Check implements dataplane.Limits. The rules of all pods are in one table.
func (p packetLimits) Check(ctx context.Context, _ dataplane.Limited) ([]string, error) {
	return p.Limits.Check(ctx)
}
