package daemon

import (
	"log/slog"
	"slices"

	"tortie/felix/calc"
	"tortie/felix/config"
	"tortie/felix/dataplane"
	"tortie/felix/nat"
	"tortie/felix/serviceloop"
)

// newRules are the packet rules of the node's network namespace. Every State is handed to
// them again when the configuration is another.
func newRules(settings func() config.Config, log *slog.Logger) []dataplane.Rules {
	return []dataplane.Rules{
		masquerade{nat.New(nat.Config{Log: log}), settings},
		serviceLoops{serviceloop.New(serviceloop.Config{Log: log}), settings},
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

// serviceLoops is told what of a State concerns it.
type serviceLoops struct {
	*serviceloop.Guard
	settings func() config.Config
}

func (l serviceLoops) Set(s calc.State) {
	l.Guard.Set(serviceloop.State{Mode: l.settings().ServiceLoopPrevention, Services: s.Services, Others: slices.Concat(s.Pools, s.Nodes)})
}
