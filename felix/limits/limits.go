// Package limits keeps pods within a rate of packets and a number of connections, and
// marks what they send out of the cluster with a DSCP, by rules in the nftables table
// "inet tortie". A pod's rules are in chains of its own, which maps of the pods' devices
// lead to: a packet of a pod without limits costs a look-up, and nothing at all while no
// pod of the node has any.
package limits

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
)

// Rates are one direction's; zero for none.
type Rates struct {
	Packets, PacketBurst int64 // a second, and at once
	Connections          int64 // of TCP, at a time
}

// Pod is a pod with limits.
type Pod struct {
	Interface      string // the node's end
	ToPod, FromPod Rates
	// DSCP is for what leaves the cluster; nil leaves it as the pod sends it.
	DSCP *uint8
}

// Config is what Limits needs.
type Config struct {
	// NFT is the table; nil for the real one of the network namespace that Apply is
	// called in, through the nft command.
	NFT knftables.Interface
	Log *slog.Logger // nil for no log
}

// Limits reconciles the rules with the limits of this node's pods. Its methods may be
// called from any goroutine; while Apply runs the others wait.
type Limits struct {
	log   *slog.Logger
	rules *ruleset.Owner
}

// New makes Limits of no pod yet. Nothing is read or written before the first Apply.
func New(cfg Config) *Limits {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Limits{log: cfg.Log, rules: ruleset.New(cfg.NFT, shape(), ", or take packet rates, connection limits and DSCP away from the pods")}
}

// Set declares all pods with limits, and the addresses that are within the cluster: of
// pods and of nodes.
func (l *Limits) Set(pods []Pod, cluster []netip.Prefix) {
	l.rules.SetWith(contentsOf(pods, cluster))
}

// QueueResync makes the next Apply read the kernel, and mend what differs.
func (l *Limits) QueueResync() { l.rules.QueueResync() }

// Apply makes the kernel's rules as declared; see [ruleset.Owner.Apply].
// ruleset.ErrNoNft when there are limits and nft is missing.
func (l *Limits) Apply(ctx context.Context) error {
	out, err := l.rules.Apply(ctx)
	if err != nil {
		return fmt.Errorf("limit packets and connections of pods: %w", err)
	}
	if len(out.Differed) > 0 && !out.Changed && !out.First {
		l.log.Warn("limits of pods mended: someone had changed their rules", "differed", out.Differed)
	}
	return nil
}

// Check names what of the rules in the kernel is not as declared.
func (l *Limits) Check(ctx context.Context) (differences []string, err error) {
	return l.rules.Check(ctx, "limits")
}

// The maps from pods' devices to the chains of their limits, and the set of the cluster's
// addresses, less the version of IP.
const (
	toPods   = "limits-to"
	fromPods = "limits-from"
	marked   = "limits-dscp"
	cluster  = "limits-cluster"
)

// ofPod begins the names of pods' chains.
const ofPod = "limit-"

// shape is our share of the table.
func shape() ruleset.Shape {
	from := ruleset.Rule{Text: "iifname vmap @" + fromPods, Does: "limits of what pods send"}
	to := ruleset.Rule{Text: "oifname vmap @" + toPods, Does: "limits of what comes to pods"}
	s := ruleset.Shape{
		Prefix: ofPod,
		Sets: []ruleset.Set{
			{Name: toPods, Map: true, Type: "ifname : verdict"},
			{Name: fromPods, Map: true, Type: "ifname : verdict"},
			{Name: marked, Map: true, Type: "ifname : verdict"},
		},
		Chains: []ruleset.Chain{
			base("limits-forward", knftables.ForwardHook, knftables.FilterPriority, from, to),
			base("limits-input", knftables.InputHook, knftables.FilterPriority, from),
			base("limits-output", knftables.OutputHook, knftables.FilterPriority, to),
		},
	}
	leaving := base("limits-leaving", knftables.ForwardHook, knftables.ManglePriority)
	for _, v := range []ruleset.Version{ruleset.V4, ruleset.V6} {
		s.Sets = append(s.Sets, v.Prefixes(cluster))
		leaving.Rules = append(leaving.Rules, ruleset.Rule{
			Text: fmt.Sprintf("%s daddr != @%s iifname vmap @%s", v.Keyword(), v.Name(cluster), marked),
			Does: "DSCP of what leaves the cluster",
		})
	}
	s.Chains = append(s.Chains, leaving)
	return s
}

func base(name string, hook knftables.BaseChainHook, priority knftables.BaseChainPriority, rules ...ruleset.Rule) ruleset.Chain {
	return ruleset.Chain{Name: name, Type: knftables.FilterType, Hook: hook, Priority: priority, Rules: rules}
}

// contentsOf is nil without limits. A device whose name has other characters than those
// of pods' devices is left out: it stands in a record that anybody may have written, and
// would be a part of nft's language.
func contentsOf(pods []Pod, within []netip.Prefix) (ruleset.Contents, []ruleset.Chain) {
	c, chains := ruleset.Contents{}, map[string]ruleset.Chain{}
	lead := func(set, iface string, chain ruleset.Chain) {
		if len(chain.Rules) > 0 {
			chains[chain.Name] = chain
			c[set] = append(c[set], iface+" : jump "+chain.Name)
		}
	}
	for _, p := range pods {
		if !plain(p.Interface) {
			continue
		}
		lead(toPods, p.Interface, p.ToPod.chain("to", p.Interface))
		lead(fromPods, p.Interface, p.FromPod.chain("from", p.Interface))
		if p.DSCP != nil {
			lead(marked, p.Interface, marking(*p.DSCP))
		}
	}
	if len(chains) == 0 {
		return nil, nil
	}
	for _, v := range []ruleset.Version{ruleset.V4, ruleset.V6} {
		if len(c[marked]) > 0 {
			c[v.Name(cluster)] = v.Cover(within, nil)
		}
	}
	var list []ruleset.Chain
	for _, chain := range chains {
		list = append(list, chain)
	}
	slices.SortFunc(list, func(a, b ruleset.Chain) int { return strings.Compare(a.Name, b.Name) })
	for _, set := range []string{toPods, fromPods, marked} {
		slices.Sort(c[set])
	}
	return c, list
}

func plain(iface string) bool {
	return strings.Trim(strings.ToLower(iface), "abcdefghijklmnopqrstuvwxyz0123456789-_") == "" && iface != ""
}

// chain is one direction's of a pod. The rate counts every packet. Connections are
// counted when they begin, and only those of TCP can be refused so that who asks knows.
func (r Rates) chain(way, iface string) ruleset.Chain {
	c := ruleset.Chain{Name: ofPod + way + "-" + iface}
	if r.Packets > 0 {
		c.Rules = append(c.Rules, ruleset.Rule{
			Text: fmt.Sprintf("limit rate over %d/second burst %d packets drop", r.Packets, r.PacketBurst), Does: "packet rate",
		})
	}
	if r.Connections > 0 {
		c.Rules = append(c.Rules, ruleset.Rule{
			Text: fmt.Sprintf("meta l4proto tcp ct state new ct count over %d reject with tcp reset", r.Connections), Does: "connections",
		})
	}
	return c
}

// marking is the chain of a DSCP, which pods share.
func marking(dscp uint8) ruleset.Chain {
	c := ruleset.Chain{Name: fmt.Sprintf("%sdscp-%d", ofPod, dscp)}
	for _, v := range []ruleset.Version{ruleset.V4, ruleset.V6} {
		c.Rules = append(c.Rules, ruleset.Rule{Text: fmt.Sprintf("meta nfproto ipv%d %s dscp set %d", v, v.Keyword(), dscp), Does: "DSCP"})
	}
	return c
}
