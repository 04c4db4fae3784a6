package hostports

import (
	"fmt"
	"net/netip"

	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
	"tortie/internal/kernel"
)

func versionOf(a netip.Addr) ruleset.Version {
	if a.Is4() {
		return ruleset.V4
	}
	return ruleset.V6
}

// The names of maps and sets, less the version.
const (
	anyAddress = "host-ports"
	oneAddress = "host-ports-of"
	selves     = "host-ports-selves"
)

// The chains. leads is what the base chains jump to for packets to the node itself.
const (
	leads = "host-ports"
)

// shape is our share of the table.
func shape() ruleset.Shape {
	s := ruleset.Shape{}
	lead := ruleset.Chain{Name: leads}
	back := base("host-ports-answers", knftables.NATType, knftables.PostroutingHook, knftables.SNATPriority)
	for _, v := range []ruleset.Version{ruleset.V4, ruleset.V6} {
		addr := fmt.Sprintf("ipv%d_addr", v)
		s.Sets = append(s.Sets,
			ruleset.Set{Name: v.Name(anyAddress), Map: true, Type: "inet_proto . inet_service : " + addr + " . inet_service"},
			ruleset.Set{Name: v.Name(oneAddress), Map: true, Type: addr + " . inet_proto . inet_service : " + addr + " . inet_service"},
			ruleset.Set{Name: v.Name(selves), Type: addr + " . " + addr})
		lead.Rules = append(lead.Rules,
			ruleset.Rule{
				Text: fmt.Sprintf("dnat %[1]s to %[1]s daddr . meta l4proto . th dport map @%[2]s", v.Keyword(), v.Name(oneAddress)),
				Does: "hostPort with hostIP",
			},
			ruleset.Rule{
				Text: fmt.Sprintf("meta nfproto ipv%d dnat %s to meta l4proto . th dport map @%s", v, v.Keyword(), v.Name(anyAddress)),
				Does: "hostPort",
			})
		back.Rules = append(back.Rules, ruleset.Rule{
			Text: fmt.Sprintf("%[1]s saddr . %[1]s daddr @%[2]s masquerade", v.Keyword(), v.Name(selves)),
			Does: "a pod that asks itself by its hostPort",
		})
	}
	back.Rules = append(back.Rules, ruleset.Rule{
		Text: fmt.Sprintf(`ip saddr 127.0.0.0/8 oifname "%s*" masquerade`, kernel.PodLink),
		Does: "the node's 127.0.0.1 to a hostPort",
	})
	before := base("host-ports-prerouting", knftables.NATType, knftables.PreroutingHook, knftables.DNATPriority)
	own := base("host-ports-output", knftables.NATType, knftables.OutputHook, knftables.DNATPriority)
	for _, c := range []*ruleset.Chain{&before, &own} {
		c.Rules = []ruleset.Rule{{Text: "fib daddr type local jump " + leads, Does: "to the node itself"}}
	}
	// Pods' devices take packets from the node's 127.0.0.1 (route_localnet), and must not
	// take any to it: the answers to those have the node's own address here still.
	guard := base("host-ports-guard", knftables.FilterType, knftables.PreroutingHook, knftables.RawPriority)
	guard.Rules = []ruleset.Rule{{
		Text: fmt.Sprintf(`iifname "%s*" ip daddr 127.0.0.0/8 drop`, kernel.PodLink),
		Does: "no pod reaches what listens on the node's 127.0.0.1",
	}}
	s.Chains = []ruleset.Chain{lead, before, own, back, guard}
	return s
}

func base(name string, kind knftables.BaseChainType, hook knftables.BaseChainHook, priority knftables.BaseChainPriority) ruleset.Chain {
	return ruleset.Chain{Name: name, Type: kind, Hook: hook, Priority: priority}
}
