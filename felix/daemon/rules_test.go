package daemon

import (
	"log/slog"
	"net/netip"
	"testing"

	"sigs.k8s.io/knftables"

	"tortie/felix/calc"
	"tortie/felix/config"
	"tortie/felix/hostways"
	"tortie/felix/ruleset"
	"tortie/felix/serviceloop"
	"tortie/felix/wireguard"
	"tortie/internal/kernel/kerneltest/podworld"
	"tortie/internal/overlay"
)

// noTracking has nothing to forget.
type noTracking struct{}

func (noTracking) ForgetConnections(netip.Addr) error               { return nil }
func (noTracking) ForgetDatagramsBetween(_, _ []netip.Prefix) error { return nil }

// TestCheckNamesEachRuleThatIsGone: of all packet rules of the node, on a real table.
func TestCheckNamesEachRuleThatIsGone(t *testing.T) {
	w, log := podworld.New(t), slog.New(slog.DiscardHandler)
	var cfg config.Config
	cfg.VXLAN.Port, cfg.VXLAN.VNI, cfg.ServiceLoopPrevention, cfg.Wireguard.Hosts = 4789, 4096, serviceloop.Drop, true
	cfg.Wireguard.Name4, cfg.Wireguard.Name6 = "wireguard.cali", "wg-v6.cali"
	settings := func() config.Config { return cfg }
	pool, nodes := netip.MustParsePrefix("10.65.0.0/16"), []netip.Prefix{netip.MustParsePrefix(podworld.Node2 + "/32")}
	peer := overlay.End{Address: netip.MustParsePrefix(podworld.Node2 + "/24")}
	peer.Secure.Key = overlay.Key{1}
	state := calc.State{
		Pools: []netip.Prefix{pool}, PodPools: []netip.Prefix{pool}, Masquerade: []netip.Prefix{pool}, Nodes: nodes,
		Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}, VXLANUsed: true, IPIPUsed: true,
		Endpoints: map[calc.EndpointID]calc.Endpoint{{Name: "a"}: {
			Interface: "cali0", Floating: []calc.Floating{{External: netip.MustParseAddr("10.65.9.9"), Internal: netip.MustParseAddr(podworld.PodA)}},
			Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
		}},
		Secure: []calc.SecureTunnel{{
			Here:  overlay.End{Address: netip.MustParsePrefix(podworld.NodeOut + "/24")},
			Peers: []calc.SecurePeer{{Node: "node2", End: peer, Allowed: nodes}},
		}},
	}
	all := append(newRules(settings, noTracking{}, log), hostMarks{hostways.NewMarks(log), func() wireguard.Settings { return wireguardSettings(cfg) }})
	for _, rules := range all {
		rules.Set(state)
		w.InNode(t, rules.Apply)
		w.WantDifferences(t, rules.Check, "")
	}
	w.InTable(t, ruleset.Family, ruleset.Table, func(tx *knftables.Transaction) { tx.Delete(&knftables.Table{}) })
	for i, says := range []string{
		"what pods may send are not as they should be: chain pod-sources, ", "floating addresses are not as they should be: chain floating-prerouting, ",
		"natOutgoing are not as they should be: chain nat-outgoing, ", "service addresses are not as they should be: chain service-loops, ",
		"packets of VXLAN are not", "packets of IPIP are not", "packets to other nodes are not",
	} {
		w.WantDifferences(t, all[i].Check, "the rules for "+says)
	}
}
