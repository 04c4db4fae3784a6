// Package sources drops what a pod sends from an address that is not its own, and what
// would carry such a packet past it in a tunnel.
//
// It owns one chain and six sets in the nftables table "inet tortie". Which addresses are
// a pod's own is asked of the node's routes, packet by packet: those that lead to the pod.
// So a new pod needs no element, and from the moment its route stands, and no longer, it
// may send. What a pod may send from besides stands in the sets.
package sources

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"

	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
	"tortie/internal/kernel"
)

// State is what pods may send besides packets from their own addresses.
type State struct {
	// Allowed are the other sources of pods, by the node's end.
	Allowed map[string][]netip.Prefix
	// Routers are the node's ends of pods that are its BGP peers. From behind them come
	// sources that the kernel, of an IPv6 route with several next hops, may look for behind
	// another: so they pass unless they are the Cluster's, of pods and nodes.
	Routers []string
	Cluster []netip.Prefix
	// VXLANPort is the UDP port to which no pod may send; 0 for none.
	VXLANPort uint16
	// NoIPIP: no pod may send IP in IP.
	NoIPIP bool
}

// Config is what a Guard needs.
type Config struct {
	// NFT is the table; nil for the real one of the network namespace that Apply is
	// called in, through the nft command.
	NFT knftables.Interface
	Log *slog.Logger // nil for no log
}

// Guard reconciles the rules with a State. Its methods may be called from any
// goroutine; while Apply runs the others wait.
type Guard struct {
	log   *slog.Logger
	rules *ruleset.Owner
}

// New makes a Guard that lets pods send from their own addresses alone. Nothing is read
// or written before the first Apply.
func New(cfg Config) *Guard {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	g := &Guard{log: cfg.Log, rules: ruleset.New(cfg.NFT, shape(), ": without it pods can send from addresses that are not theirs")}
	g.Set(State{})
	return g
}

// Set makes s the desired state.
func (g *Guard) Set(s State) { g.rules.Set(contentsOf(s)) }

// QueueResync makes the next Apply read the kernel, and mend what differs.
func (g *Guard) QueueResync() { g.rules.QueueResync() }

// Apply makes the kernel's rules as desired; see [ruleset.Owner.Apply].
func (g *Guard) Apply(ctx context.Context) error {
	out, err := g.rules.Apply(ctx)
	if err != nil {
		return fmt.Errorf("keep pods from sending from others' addresses: %w", err)
	}
	switch {
	case out.Changed:
		g.log.Info("what pods may send has changed", "differed", out.Differed)
	case len(out.Differed) > 0 && !out.First:
		g.log.Warn("the rules for what pods may send were mended: someone had changed them", "differed", out.Differed)
	}
	return nil
}

// Check names what of the rules in the kernel is not as it was made to stand.
func (g *Guard) Check(ctx context.Context) (differences []string, err error) {
	return g.rules.Check(ctx, "what pods may send")
}

// The names of the sets; the first one's is less the version.
const (
	allowed   = "allowed-sources"
	ports     = "tunnel-ports"
	protocols = "tunnel-protocols"
	routers   = "router-pods"
	cluster   = "cluster"
)

// ipip is the number of IP in IP (RFC 2003).
const ipip = "4"

// shape is our share of the table. The chain comes before connection tracking, so that a
// forged packet leaves no trace there.
func shape() ruleset.Shape {
	chain := ruleset.Chain{Name: "pod-sources", Type: knftables.FilterType, Hook: knftables.PreroutingHook, Priority: knftables.RawPriority}
	chain.Rules = []ruleset.Rule{
		{Text: fmt.Sprintf(`iifname != "%s*" return`, kernel.PodLink), Does: "from no pod"},
		{Text: "udp dport @" + ports + " drop", Does: "a pod's VXLAN, in which there could be any source"},
		{Text: "meta l4proto @" + protocols + " drop", Does: "a pod's IP in IP, in which there could be any source"},
		{Text: "fib saddr . iif oif exists return", Does: "from the pod's own address: the route to it leads back"},
		{Text: "ip6 saddr :: icmpv6 type nd-neighbor-solicit return", Does: "whether anybody has the address already"},
	}
	s := ruleset.Shape{Sets: []ruleset.Set{{Name: ports, Type: "inet_service"}, {Name: protocols, Type: "inet_proto"}}}
	for _, v := range []ruleset.Version{ruleset.V4, ruleset.V6} {
		s.Sets = append(s.Sets, v.PrefixesByDevice(allowed))
		chain.Rules = append(chain.Rules, ruleset.Rule{
			Text: fmt.Sprintf("iifname . %s saddr @%s fib saddr type != local return", v.Keyword(), v.Name(allowed)),
			Does: "from allowedSourcePrefixes, but never from the node's address",
		})
	}
	s.Sets = append(s.Sets, ruleset.Set{Name: routers, Type: "ifname"}, ruleset.V6.Prefixes(cluster))
	chain.Rules = append(chain.Rules, ruleset.Rule{
		Text: fmt.Sprintf("iifname @%s ip6 saddr != @%s fib saddr type != local return", routers, ruleset.V6.Name(cluster)),
		Does: "from behind a pod that is a BGP peer",
	}, ruleset.Rule{Text: "drop", Does: "from an address that is not the pod's"})
	s.Chains = []ruleset.Chain{chain}
	return s
}

func contentsOf(s State) ruleset.Contents {
	c := ruleset.Contents{}
	for device, prefixes := range s.Allowed {
		for _, v := range []ruleset.Version{ruleset.V4, ruleset.V6} {
			c[v.Name(allowed)] = append(c[v.Name(allowed)], v.CoverOf(device, prefixes)...)
		}
	}
	if len(s.Routers) > 0 {
		c[routers] = slices.Clone(s.Routers)
		c[ruleset.V6.Name(cluster)] = ruleset.V6.Cover(s.Cluster, nil)
	}
	for _, list := range c {
		slices.Sort(list)
	}
	if s.VXLANPort != 0 {
		c[ports] = []string{strconv.Itoa(int(s.VXLANPort))}
	}
	if s.NoIPIP {
		c[protocols] = []string{ipip}
	}
	return c
}
