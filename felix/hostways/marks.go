package hostways

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
	"tortie/internal/kernel"
)

// State is whose packets may go by WireGuard.
type State struct {
	// Device4 and Device6 are WireGuard's, which send from Port4 and Port6.
	Device4, Device6 string
	Port4, Port6     uint16
	// Peers are the addresses of the nodes that packets may go to; none: there are no rules.
	Peers []netip.Addr
	// Own are the sources that those nodes take from this one: its own address, its
	// tunnel's, its pods'.
	Own []netip.Prefix
}

// Marks reconciles the packet rules, in the nftables tables "inet tortie" and "arp
// tortie". Its methods may
// be called from any goroutine; while Apply runs the others wait.
//
// Each packet that they mark goes by the other routes of the node, in clear:
//   - one that came so from another node, so that a strict check of the reverse path does
//     not take it for forged: that node may not have heard of this one's key yet;
//   - what belongs to a connection that such a packet has begun, until its other end
//     encrypts: who has lost its keys, and asks this node for the datastore, is answered.
//     One that this node has begun, or that was encrypted, is never answered in clear;
//   - one of WireGuard itself, whose device gives it the mark, unless somebody has taken that
//     from the device: it would be led into the device again, and again, longer each time;
//   - one under an address that the other node does not take from this one: a service's,
//     or that of another network.
type Marks struct {
	log   *slog.Logger
	rules *ruleset.Owner
	arp   *ruleset.Owner

	mu     sync.Mutex
	wanted []netip.Addr
	stand  map[netip.Addr]bool // the peers of the rules in the kernel
	// idle: there are no rules, and are to be none.
	idle bool
}

// NewMarks makes Marks of nothing. Nothing is read or written before the first Apply, which
// is for the network namespace that it is called in.
func NewMarks(log *slog.Logger) *Marks {
	const advice = ", or set wireguardHostEncryptionEnabled: false"
	return &Marks{log: log, rules: ruleset.New(nil, shape(State{}), advice), arp: ruleset.NewARP(nil, arpShape(), advice)}
}

// Set makes s the desired state.
func (m *Marks) Set(s State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted, m.idle = s.Peers, m.idle && len(s.Peers) == 0
	m.rules.Reshape(shape(s), contentsOf(s))
	if len(s.Peers) == 0 {
		m.arp.Set(nil)
	} else {
		m.arp.Set(ruleset.Contents{})
	}
}

// QueueResync makes the next Apply read the kernel, and mend what differs.
func (m *Marks) QueueResync() {
	m.rules.QueueResync()
	m.arp.QueueResync()
}

// Apply makes the kernel's rules as desired; see [ruleset.Owner.Apply].
func (m *Marks) Apply(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.idle {
		return nil
	}
	for _, rules := range []*ruleset.Owner{m.arp, m.rules} {
		out, err := rules.Apply(ctx)
		if err != nil {
			return fmt.Errorf("tell packets to other nodes that go by WireGuard: %w", err)
		}
		if len(out.Differed) > 0 && !out.Changed && !out.First {
			m.log.Warn("the rules for packets to other nodes were mended: someone had changed them", "differed", out.Differed)
		}
	}
	m.idle = len(m.wanted) == 0
	m.stand = make(map[netip.Addr]bool, len(m.wanted))
	for _, a := range m.wanted {
		m.stand[a] = true
	}
	return nil
}

// Check names what of the rules in the kernel is not as it was made to stand.
func (m *Marks) Check(ctx context.Context) (differences []string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.idle {
		return nil, nil
	}
	for _, rules := range []*ruleset.Owner{m.arp, m.rules} {
		wrong, err := rules.Check(ctx, "packets to other nodes")
		if err != nil {
			return nil, err
		}
		differences = append(differences, wrong...)
	}
	return differences, nil
}

// Know reports whether the rules for a peer's address stand.
func (m *Marks) Know(peer netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stand[peer]
}

// The names of the sets, less the version.
const (
	peers = "wireguard-nodes"
	own   = "wireguard-own"
)

// shape is our share of the table.
func shape(s State) ruleset.Shape {
	var out ruleset.Shape
	in := ruleset.Chain{Name: "wireguard-hosts-in", Type: knftables.FilterType, Hook: knftables.PreroutingHook, Priority: knftables.ManglePriority}
	sent := ruleset.Chain{Name: "wireguard-hosts-out", Type: knftables.RouteType, Hook: knftables.OutputHook, Priority: knftables.ManglePriority}
	for _, v := range []ruleset.Version{ruleset.V4, ruleset.V6} {
		device, port := s.Device4, s.Port4
		if v == ruleset.V6 {
			device, port = s.Device6, s.Port6
		}
		ip, to := v.Keyword(), v.Name(peers)
		out.Sets = append(out.Sets, ruleset.Set{Name: to, Type: fmt.Sprintf("ipv%d_addr", v)}, v.Prefixes(own))
		mark := fmt.Sprintf("meta mark set meta mark | %#x", kernel.MarkClear)
		answers := ruleset.Rule{Text: fmt.Sprintf("%s daddr @%s ct mark & %#x == %#x %s", ip, to, kernel.MarkClear, kernel.MarkClear, mark), Does: "answers to a node that asked in clear"}
		others := ruleset.Rule{Text: fmt.Sprintf("%s daddr @%s %s saddr != @%s %s", ip, to, ip, v.Name(own), mark), Does: "to a node that would not take it by WireGuard"}
		in.Rules = append(in.Rules,
			ruleset.Rule{Text: fmt.Sprintf("iifname %q %s saddr @%s ct mark & %#x == %#x ct mark set ct mark & %#x", device, ip, to, kernel.MarkClear, kernel.MarkClear, ^uint32(kernel.MarkClear)), Does: "from a node that encrypts from now on"},
			ruleset.Rule{Text: fmt.Sprintf("iifname != %q %s saddr @%s ct state new ct mark set ct mark | %#x", device, ip, to, kernel.MarkClear), Does: "from a node that begins in clear"},
			ruleset.Rule{Text: fmt.Sprintf("iifname != %q %s saddr @%s %s", device, ip, to, mark), Does: "from a node past WireGuard"},
			answers, others)
		sent.Rules = append(sent.Rules,
			ruleset.Rule{Text: fmt.Sprintf("%s daddr @%s udp sport %d %s", ip, to, port, mark), Does: "what WireGuard sends"}, answers, others)
	}
	out.Chains = []ruleset.Chain{in, sent}
	return out
}

// arpShape is our share of ARP's table: who asks for an address of this node is checked for
// a reverse path, too.
func arpShape() ruleset.Shape {
	return ruleset.Shape{Chains: []ruleset.Chain{{
		Name: "wireguard-hosts-in", Type: knftables.FilterType, Hook: knftables.InputHook, Priority: knftables.FilterPriority,
		Rules: []ruleset.Rule{{Text: fmt.Sprintf("meta mark set meta mark | %#x", kernel.MarkClear), Does: "neighbours are found past WireGuard"}},
	}}}
}

// contentsOf is nil while there is nobody to encrypt for.
func contentsOf(s State) ruleset.Contents {
	if len(s.Peers) == 0 {
		return nil
	}
	c := ruleset.Contents{}
	for _, v := range []ruleset.Version{ruleset.V4, ruleset.V6} {
		for _, a := range s.Peers {
			if a.Is4() == (v == ruleset.V4) {
				c[v.Name(peers)] = append(c[v.Name(peers)], a.String())
			}
		}
		slices.Sort(c[v.Name(peers)])
		c[v.Name(own)] = v.Cover(s.Own, nil)
	}
	return c
}
