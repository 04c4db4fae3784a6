// Package tunnelguard keeps strangers out of the tunnels between nodes: what is in a
// tunnel's packet has passed no check of the sender's, so the node takes encapsulated
// packets from nodes of the cluster alone.
//
// For each encapsulation it owns a chain and sets in the nftables table "inet
// tortie", which are there while the encapsulation is in use. Of VXLAN only packets of
// the cluster's own network (VNI) are looked at.
package tunnelguard

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
	"tortie/internal/overlay"
)

// State is who may send. Prefixes may be given in any order and with overlaps.
type State struct {
	// Used: there is, or soon will be, a device that takes such packets.
	Used bool
	// Nodes may send them.
	Nodes []netip.Prefix
	// Port and VNI are those of VXLAN.
	Port uint16
	VNI  uint32
}

// Config is what a Guard needs.
type Config struct {
	// By is the encapsulation.
	By overlay.Carrier
	// NFT is the table; nil for the real one of the network namespace that Apply is
	// called in, through the nft command.
	NFT knftables.Interface
	Log *slog.Logger // nil for no log
}

// Guard reconciles the rules with a State. Its methods may be called from any
// goroutine; while Apply runs the others wait.
type Guard struct {
	by    overlay.Carrier
	log   *slog.Logger
	rules *ruleset.Owner
}

// New makes a Guard of nothing. Nothing is read or written before the first Apply.
func New(cfg Config) *Guard {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Guard{
		by: cfg.By, log: cfg.Log,
		rules: ruleset.New(cfg.NFT, shape(cfg.By, State{}), fmt.Sprintf(", or do without %s in the IP pools", cfg.By)),
	}
}

// Set makes s the desired state.
func (g *Guard) Set(s State) { g.rules.Reshape(shape(g.by, s), contentsOf(g.by, s)) }

// QueueResync makes the next Apply read the kernel, and mend what differs.
func (g *Guard) QueueResync() { g.rules.QueueResync() }

// Apply makes the kernel's rules as desired; see [ruleset.Owner.Apply].
func (g *Guard) Apply(ctx context.Context) error {
	out, err := g.rules.Apply(ctx)
	if err != nil {
		return fmt.Errorf("keep strangers out of %s: %w", g.by, err)
	}
	switch {
	case out.Changed, out.First && len(out.Differed) > 0:
		g.log.Info("packets in tunnels are taken from nodes alone", "tunnel", g.by, "used", out.Contents != nil)
	case len(out.Differed) > 0:
		g.log.Warn("the rules for packets in tunnels were mended: someone had changed them", "tunnel", g.by, "differed", out.Differed)
	}
	return nil
}

// Check names what of the rules in the kernel is not as it was made to stand.
func (g *Guard) Check(ctx context.Context) (differences []string, err error) {
	return g.rules.Check(ctx, "packets of "+g.by.String())
}

// names of what is in the table.
func name(by overlay.Carrier, what string) string {
	return map[overlay.Carrier]string{overlay.VXLAN: "vxlan", overlay.IPIP: "ipip"}[by] + what
}

func versions(by overlay.Carrier) []ruleset.Version {
	if by == overlay.IPIP {
		return []ruleset.Version{ruleset.V4}
	}
	return []ruleset.Version{ruleset.V4, ruleset.V6}
}

// encapsulated matches what our device would take: of UDP the header has eight bytes,
// and the VNI is the three after the first four of VXLAN's.
func encapsulated(by overlay.Carrier, s State) string {
	if by == overlay.IPIP {
		return "ip protocol 4"
	}
	return fmt.Sprintf("udp dport %d @th,96,24 %d", s.Port, s.VNI)
}

// shape is our share of the table.
func shape(by overlay.Carrier, s State) ruleset.Shape {
	var out ruleset.Shape
	from := ruleset.Chain{Name: name(by, "-input"), Type: knftables.FilterType, Hook: knftables.InputHook, Priority: knftables.FilterPriority}
	for _, v := range versions(by) {
		nodes := v.Prefixes(name(by, "-nodes"))
		out.Sets = append(out.Sets, nodes)
		from.Rules = append(from.Rules, ruleset.Rule{
			Text: fmt.Sprintf("%s %s saddr != @%s drop", encapsulated(by, s), v.Keyword(), nodes.Name),
			Does: fmt.Sprintf("%s from others than nodes", by),
		})
	}
	out.Chains = []ruleset.Chain{from}
	return out
}

// contentsOf is nil while the encapsulation is not in use.
func contentsOf(by overlay.Carrier, s State) ruleset.Contents {
	if !s.Used {
		return nil
	}
	c := ruleset.Contents{}
	for _, v := range versions(by) {
		c[v.Name(name(by, "-nodes"))] = v.Cover(s.Nodes, nil)
	}
	return c
}
