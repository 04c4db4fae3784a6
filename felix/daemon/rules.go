package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"tortie/felix/calc"
	"tortie/felix/config"
	"tortie/felix/dataplane"
	"tortie/felix/floating"
	"tortie/felix/hostways"
	"tortie/felix/nat"
	"tortie/felix/serviceloop"
	"tortie/felix/sources"
	"tortie/felix/tunnelguard"
	"tortie/felix/wireguard"
	"tortie/internal/overlay"
)

// tracking is the node's memory of connections.
type tracking interface {
	ForgetConnections(to netip.Addr) error
	ForgetDatagramsBetween(from, to []netip.Prefix) error
}

// newRules are the packet rules of the node's network namespace. Every State is handed to
// them again when the configuration is another.
func newRules(settings func() config.Config, node tracking, log *slog.Logger) []dataplane.Rules {
	return []dataplane.Rules{
		podSources{sources.New(sources.Config{Log: log}), settings},
		floatingIPs{floating.New(floating.Config{Forget: node.ForgetConnections, Log: log})},
		masquerade{nat.New(nat.Config{Forget: node.ForgetDatagramsBetween, Log: log}), settings},
		serviceLoops{serviceloop.New(serviceloop.Config{Log: log}), settings},
		tunnelGuard{overlay.VXLAN, tunnelguard.New(tunnelguard.Config{By: overlay.VXLAN, Log: log}), func(s calc.State) tunnelguard.State {
			c := settings()
			return tunnelguard.State{Used: s.VXLANUsed, Nodes: slices.Concat(s.Nodes, c.ExternalNodes), Port: c.VXLAN.Port, VNI: c.VXLAN.VNI}
		}},
		tunnelGuard{overlay.IPIP, tunnelguard.New(tunnelguard.Config{By: overlay.IPIP, Log: log}), func(s calc.State) tunnelguard.State {
			c := settings()
			return tunnelguard.State{Used: s.IPIPUsed, Nodes: slices.Concat(s.Nodes, c.ExternalNodes)}
		}},
	}
}

// podSources is told what of a State concerns it.
type podSources struct {
	*sources.Guard
	settings func() config.Config
}

func (p podSources) Set(s calc.State) {
	c := p.settings()
	state := sources.State{
		Allowed: map[string][]netip.Prefix{}, NoIPIP: !c.Sources.IPIP,
		Routers: slices.Collect(maps.Keys(s.Peering)), Cluster: slices.Concat(s.Pools, s.Nodes),
	}
	if !c.Sources.VXLAN {
		state.VXLANPort = c.VXLAN.Port
	}
	for _, ep := range s.Endpoints {
		if len(ep.Sources) > 0 {
			state.Allowed[ep.Interface] = ep.Sources
		}
	}
	p.Guard.Set(state)
}

// floatingIPs is told what of a State concerns it.
type floatingIPs struct{ *floating.Addresses }

func (f floatingIPs) Set(s calc.State) {
	pods := map[netip.Addr]netip.Addr{}
	for _, ep := range s.Endpoints {
		for _, a := range ep.Floating {
			pods[a.External] = a.Internal
		}
	}
	f.Addresses.Set(pods)
}

// masquerade is told what of a State concerns it.
type masquerade struct {
	*nat.Masquerade
	settings func() config.Config
}

func (m masquerade) Set(s calc.State) {
	all := m.settings()
	c := all.NAT
	if all.Wireguard.Hosts {
		for _, t := range s.Secure {
			if a := t.Here.Address.Addr(); a.Is4() {
				c.How.Node4 = a
			} else {
				c.How.Node6 = a
			}
		}
	}
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

// hostMarks is told what of a State concerns it.
type hostMarks struct {
	*hostways.Marks
	settings func() wireguard.Settings // as they hold
}

func (m hostMarks) Set(s calc.State) {
	own := slices.Clone(s.Blocks)
	for _, ep := range s.Endpoints {
		for _, a := range ep.Addrs {
			own = append(own, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	m.Marks.Set(m.settings().State(s.Secure, own))
}

// serviceLoops is told what of a State concerns it.
type serviceLoops struct {
	*serviceloop.Guard
	settings func() config.Config
}

func (l serviceLoops) Set(s calc.State) {
	l.Guard.Set(serviceloop.State{Mode: l.settings().ServiceLoopPrevention, Services: s.Services, Others: slices.Concat(s.PodPools, s.Nodes)})
}

// lookPause is the least time between two looks at what somebody has changed: who keeps
// changing it shall not keep felix busy.
const lookPause = time.Second

// followed is something that others may change.
type followed struct {
	changes func(context.Context) (<-chan struct{}, error)
	look    func()
}

// run has it looked at when it is another.
func (f followed) run(ctx context.Context) error {
	for ctx.Err() == nil {
		told, err := f.changes(ctx)
		if err != nil {
			return nil //nolint:nilerr // the resyncs go on
		}
		for range told {
			f.look()
			sleep(ctx, lookPause)
		}
		sleep(ctx, lookPause)
	}
	return nil
}

// isChild reports whether a process is this one's, as is an nft that writes felix's rules.
// One that has just ended is not known any more, and costs a look at the rules.
func isChild(pid uint32) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, behindName, _ := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
	fields := strings.Fields(behindName) // the state, and the parent
	return len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid())
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
