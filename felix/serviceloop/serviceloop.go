// Package serviceloop ends what would go in circles: bgpd announces ranges of service
// addresses, so that a router sends the node packets to addresses that no service has,
// and the node, whose service proxy knows nothing of them either, sends them back.
//
// It owns one chain and two sets in the nftables table "inet tortie". What a service
// proxy has translated is not addressed to a service any more when it gets there.
package serviceloop

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
)

// Mode is what becomes of such a packet: upstream's ServiceLoopPrevention.
type Mode string

// The modes.
const (
	Drop     Mode = "Drop"
	Reject   Mode = "Reject"
	Disabled Mode = "Disabled"
)

// verdict is the mode in a rule.
func (m Mode) verdict() string {
	if m == Reject {
		return "reject with icmpx port-unreachable"
	}
	return "drop"
}

// State is what is known of addresses. It may be given in any order and with overlaps.
type State struct {
	Mode Mode
	// Services are the ranges that every node announces.
	Services []netip.Prefix
	// Others are addresses of pods and nodes, which are let through wherever they lie.
	Others []netip.Prefix
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

// New makes a Guard of nothing. Nothing is read or written before the first Apply.
func New(cfg Config) *Guard {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Guard{
		log:   cfg.Log,
		rules: ruleset.New(cfg.NFT, shape(Drop), ", or set serviceLoopPrevention: Disabled in the FelixConfiguration"),
	}
}

// Set makes s the desired state.
func (g *Guard) Set(s State) {
	var desired ruleset.Contents
	if s.Mode != Disabled {
		desired = contentsOf(s)
	}
	g.rules.Reshape(shape(s.Mode), desired)
}

// QueueResync makes the next Apply read the kernel, and mend what differs.
func (g *Guard) QueueResync() { g.rules.QueueResync() }

// Apply makes the kernel's rules as desired; see [ruleset.Owner.Apply].
func (g *Guard) Apply(ctx context.Context) error {
	out, err := g.rules.Apply(ctx)
	if err != nil {
		return fmt.Errorf("keep packets to unused service addresses from going in circles: %w", err)
	}
	now := []any{"ranges", out.Contents[ruleset.V4.Name(ranges)], "ranges-ipv6", out.Contents[ruleset.V6.Name(ranges)]}
	switch {
	case out.Changed, out.First && len(out.Differed) > 0:
		g.log.Info("service addresses that no service has end here", now...)
	case len(out.Differed) > 0:
		g.log.Warn("the rules for service addresses were mended: someone had changed them", "differed", out.Differed)
	}
	return nil
}

// Check names what of the rules in the kernel is not as it was made to stand.
func (g *Guard) Check(ctx context.Context) (differences []string, err error) {
	return g.rules.Check(ctx, "service addresses")
}

const ranges = "service-ranges"

// shape is our share of the table.
func shape(mode Mode) ruleset.Shape {
	chain := ruleset.Chain{Name: "service-loops", Type: knftables.FilterType, Hook: knftables.ForwardHook, Priority: knftables.FilterPriority}
	var s ruleset.Shape
	for _, v := range []ruleset.Version{ruleset.V4, ruleset.V6} {
		s.Sets = append(s.Sets, v.Prefixes(ranges))
		chain.Rules = append(chain.Rules, ruleset.Rule{
			Text: fmt.Sprintf("%s daddr @%s %s", v.Keyword(), v.Name(ranges), mode.verdict()), Does: "to an announced service address that no service has",
		})
	}
	s.Chains = []ruleset.Chain{chain}
	return s
}

// contentsOf is nil when no range is announced.
func contentsOf(s State) ruleset.Contents {
	c := ruleset.Contents{}
	for _, v := range []ruleset.Version{ruleset.V4, ruleset.V6} {
		if list := v.Cover(s.Services, s.Others); len(list) > 0 {
			c[v.Name(ranges)] = list
		}
	}
	if len(c) == 0 {
		return nil
	}
	return c
}
