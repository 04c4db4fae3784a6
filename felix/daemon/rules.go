package daemon

import (
	"log/slog"
	"slices"

	"tortie/felix/calc"
	"tortie/felix/config"
	"tortie/felix/dataplane"
	"tortie/felix/nat"
	"tortie/felix/serviceloop"
	"tortie/felix/tunnelguard"
	"tortie/internal/overlay"
)

// newRules are the packet rules of the node's network namespace. Every State is handed to
// them again when the configuration is another.
func newRules(settings func() config.Config, log *slog.Logger) []dataplane.Rules {
	return []dataplane.Rules{
		masquerade{nat.New(nat.Config{Log: log}), settings},
		serviceLoops{serviceloop.New(serviceloop.Config{Log: log}), settings},
		tunnelGuard{overlay.VXLAN, tunnelguard.New(tunnelguard.Config{By: overlay.VXLAN, Log: log}), func(s calc.State) tunnelguard.State {
			c := settings()
			return tunnelguard.State{Used: s.VXLANUsed, Nodes: slices.Concat(s.Nodes, c.ExternalNodes), FromPods: c.VXLAN.FromPods, Port: c.VXLAN.Port, VNI: c.VXLAN.VNI}
		}},
		tunnelGuard{overlay.IPIP, tunnelguard.New(tunnelguard.Config{By: overlay.IPIP, Log: log}), func(s calc.State) tunnelguard.State {
			c := settings()
			return tunnelguard.State{Used: s.IPIPUsed, Nodes: slices.Concat(s.Nodes, c.ExternalNodes), FromPods: c.IPIP.FromPods}
		}},
	}
}

// masquerade is told what of a State concerns it.
type masquerade struct {
	*nat.Masquerade
	settings func() config.Config
}

func (m masquerade) Set(s calc.State) {
	c := m.settings().NAT
	exempt := s.Pools
	if c.ExemptNodes {
		exempt = slices.Concat(s.Pools, s.Nodes)
	}
	m.Masquerade.Set(nat.State{
		MasqueradeCIDRs: s.Masquerade, ExemptCIDRs: exempt, How: c.How,
		TunnelPools: s.TunnelMasquerade.Pools, TunnelNodes: s.TunnelMasquerade.Nodes,
	})
}

// tunnelGuard is told what of a State concerns it.
type tunnelGuard struct {
	by overlay.Carrier
	*tunnelguard.Guard
	of func(calc.State) tunnelguard.State
}

func (g tunnelGuard) Set(s calc.State) { g.Guard.Set(g.of(s)) }

// serviceLoops is told what of a State concerns it.
type serviceLoops struct {
	*serviceloop.Guard
	settings func() config.Config
}

func (l serviceLoops) Set(s calc.State) {
	l.Guard.Set(serviceloop.State{Mode: l.settings().ServiceLoopPrevention, Services: s.Services, Others: slices.Concat(s.Pools, s.Nodes)})
}
