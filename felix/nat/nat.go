// Package nat hides pods behind their node's address when they talk to the world
// outside: packets from a pool with natOutgoing to a destination that is neither in
// a pool nor an excluded node of the cluster are masqueraded.
//
// It owns one chain and eight sets in the nftables table "inet tortie" and touches
// nothing else. A pod keeps its own address towards every other pod, on this node
// or another, and towards every node, but for the nodes that only a tunnel leads to
// from its pool: the network between them need not know pods' addresses. A node keeps
// its own towards pods.
package nat

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
)

// chainName is the one chain.
const chainName = "nat-outgoing"

// State is what is to be masqueraded. It may be given in any order and with
// overlaps.
type State struct {
	// MasqueradeCIDRs are the pools with natOutgoing.
	MasqueradeCIDRs []netip.Prefix
	// ExemptCIDRs are destinations that see the pod's own address: all pools,
	// disabled ones included, and, where it is asked for, the cluster's nodes.
	ExemptCIDRs []netip.Prefix
	// TunnelPools are the pools with natOutgoing whose pods reach other nodes' pods
	// through a tunnel; TunnelNodes the addresses of the nodes at its other ends.
	TunnelPools, TunnelNodes []netip.Prefix
	How                      How
}

// How packets are hidden. The zero value is behind the address of the device that they
// leave by, and any port.
type How struct {
	// Ports are those of the node that connections of TCP, UDP and SCTP get.
	Ports Ports
	// Address is the source that packets of IPv4 get instead. It need not be on a device:
	// the network must lead it here. Towards the nodes behind a tunnel it does not count.
	Address netip.Addr
	// Node4 and Node6 are what the nodes behind a tunnel see instead: this node's own
	// addresses, where the device that leads there has another. Invalid: that of the device.
	Node4, Node6 netip.Addr
	// Device: only what leaves by this one is hidden; a name may end in * for all that
	// begin so. Empty for all but the loopback.
	Device string
}

// Ports is a range, both ends included; the zero value is any.
type Ports struct{ First, Last uint16 }

// Config is what a Masquerade needs.
type Config struct {
	// NFT is the table; nil for the real one of the network namespace that
	// Apply is called in, through the nft command.
	NFT knftables.Interface
	// Forget ends what the kernel remembers of datagrams (UDP) between networks: a flow that
	// began under the pod's own address keeps it, and its answers would come by a tunnel and
	// from the tunnel's address. nil for nothing.
	Forget func(from, to []netip.Prefix) error
	Log    *slog.Logger // nil for no log
}

// Masquerade reconciles the rules with a State. Its methods may be called from
// any goroutine; while Apply runs the others wait.
type Masquerade struct {
	log    *slog.Logger
	rules  *ruleset.Owner
	forget func(from, to []netip.Prefix) error

	mu      sync.Mutex
	desired State
	// tunneled are the nodes that the kernel's rules are for, and nil before the first Apply.
	tunneled map[netip.Prefix]bool
}

// New makes a Masquerade with nothing to masquerade. Nothing is read or written
// before the first Apply.
func New(cfg Config) *Masquerade {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Masquerade{log: cfg.Log, forget: cfg.Forget, rules: ruleset.New(cfg.NFT, shape(How{}), ", or set natOutgoing: false in the IP pools")}
}

// Set makes s the desired state.
func (m *Masquerade) Set(s State) {
	m.mu.Lock()
	m.desired = s
	m.mu.Unlock()
	m.rules.Reshape(shape(s.How), contentsOf(s))
}

// QueueResync makes the next Apply read the kernel, and mend what differs.
func (m *Masquerade) QueueResync() { m.rules.QueueResync() }

// InSync reports that the kernel has what is desired, as far as is known.
func (m *Masquerade) InSync() bool { return m.rules.InSync() }

// Apply makes the kernel's rules as desired; see [ruleset.Owner.Apply].
// ruleset.ErrNoNft when masquerading is wanted and nft is missing.
func (m *Masquerade) Apply(ctx context.Context) error {
	m.mu.Lock()
	desired := m.desired
	m.mu.Unlock()
	out, err := m.rules.Apply(ctx)
	if err != nil {
		return fmt.Errorf("masquerade traffic that leaves the pools: %w", err)
	}
	m.report(out)
	m.begin(desired)
	return nil
}

// Check names what of the rules in the kernel is not as it was made to stand.
func (m *Masquerade) Check(ctx context.Context) (differences []string, err error) {
	return m.rules.Check(ctx, "natOutgoing")
}

// begin has the datagrams to nodes masqueraded that are at a tunnel's other end as of now.
// It does without what fails: only who goes on from one and the same port misses answers,
// and not for long.
func (m *Masquerade) begin(desired State) {
	m.mu.Lock()
	before := m.tunneled
	m.tunneled = make(map[netip.Prefix]bool, len(desired.TunnelNodes))
	var more []netip.Prefix
	for _, node := range desired.TunnelNodes {
		if m.tunneled[node] = true; before != nil && !before[node] {
			more = append(more, node)
		}
	}
	m.mu.Unlock()
	if len(more) == 0 || m.forget == nil {
		return
	}
	if err := m.forget(desired.TunnelPools, more); err != nil {
		m.log.Warn("datagrams from pods to nodes may miss their answers until their senders use another port", "err", err)
	}
}

// report logs what became of an Apply.
func (m *Masquerade) report(out ruleset.Outcome) {
	cidrs := []any{"cidrs", out.Contents[ruleset.V4.Name(masqueraded)], "cidrs-ipv6", out.Contents[ruleset.V6.Name(masqueraded)]}
	switch {
	case out.Changed, out.First && len(out.Differed) > 0:
		m.log.Info("masquerading changed", cidrs...)
	case len(out.Differed) > 0:
		m.log.Warn("masquerading mended: someone had changed it", "differed", out.Differed)
	case out.First && out.Contents != nil:
		m.log.Info("masquerading found as it should be", cidrs...)
	}
}

// Cleanup removes what is ours, and the table when nothing else is in it. What is
// desired stays and is written again by the next Apply.
func (m *Masquerade) Cleanup(ctx context.Context) error {
	if err := m.rules.Cleanup(ctx); err != nil {
		return fmt.Errorf("remove masquerading: %w", err)
	}
	return nil
}

// rules are Calico's, from a pool with natOutgoing to a destination in no pool, less
// the nodes of the cluster where that is asked for: a host they know should see who is
// talking to it. What a node says to itself over the loopback stays as it is. Source
// ports are drawn at random, because those of many pods would collide.
//
// The tunnel's are for what the first ones exempt: a packet to a node itself goes outside
// of the tunnel.
func (h How) rules(v ruleset.Version) []ruleset.Rule {
	device := `oifname != "lo"`
	if h.Device != "" {
		device = fmt.Sprintf("oifname %q", h.Device)
	}
	leaving := fmt.Sprintf("%s %s saddr @%s %s daddr != @%s", device, v.Keyword(), v.Name(masqueraded), v.Keyword(), v.Name(exempt))
	tunneled := fmt.Sprintf(`oifname != "lo" %s saddr @%s %s daddr @%s`, v.Keyword(), v.Name(tunnelPools), v.Keyword(), v.Name(tunnelNodes))
	source := "masquerade"
	if v == ruleset.V4 && h.Address.IsValid() {
		source = "snat ip to " + h.Address.String()
	}
	toNodes := "masquerade"
	switch {
	case v == ruleset.V4 && h.Node4.IsValid():
		toNodes = "snat ip to " + h.Node4.String()
	case v == ruleset.V6 && h.Node6.IsValid():
		toNodes = "snat ip6 to [" + h.Node6.String() + "]"
	}
	return slices.Concat(
		h.translate(leaving, source, "from a pool with natOutgoing to neither a pool nor an excluded node"),
		h.translate(tunneled, toNodes, "from a pool with natOutgoing and an overlay to a node at the other end"))
}

// translate is one rule, or two where only some protocols have the ports that are asked for.
func (h How) translate(match, source, does string) []ruleset.Rule {
	whole := ruleset.Rule{Text: match + " " + source + " fully-random", Does: does}
	if h.Ports == (Ports{}) {
		return []ruleset.Rule{whole}
	}
	to := " to "
	if source != "masquerade" {
		to = "" // it says so already
	}
	ported := fmt.Sprintf("%s meta l4proto { tcp, udp, sctp } %s%s:%d-%d fully-random", match, source, to, h.Ports.First, h.Ports.Last)
	return []ruleset.Rule{{Text: ported, Does: does + ", by its ports"}, whole}
}

// The names of the sets, less the version.
const (
	masqueraded = "nat-outgoing"
	exempt      = "exempt"
	tunnelPools = "tunnel-pools"
	tunnelNodes = "tunnel-nodes"
)

// shape is our share of the table.
func shape(h How) ruleset.Shape {
	chain := ruleset.Chain{
		Name: chainName, Type: knftables.NATType, Hook: knftables.PostroutingHook, Priority: knftables.SNATPriority,
	}
	s := ruleset.Shape{}
	for _, v := range []ruleset.Version{ruleset.V4, ruleset.V6} {
		s.Sets = append(s.Sets, v.Prefixes(masqueraded), v.Prefixes(exempt), v.Prefixes(tunnelPools), v.Prefixes(tunnelNodes))
		chain.Rules = append(chain.Rules, h.rules(v)...)
	}
	s.Chains = []ruleset.Chain{chain}
	return s
}

// contentsOf gives every set the fewest prefixes that cover its addresses, for
// nft refuses overlaps.
func contentsOf(s State) ruleset.Contents {
	if len(s.MasqueradeCIDRs) == 0 {
		return nil
	}
	c := ruleset.Contents{}
	for _, v := range []ruleset.Version{ruleset.V4, ruleset.V6} {
		c[v.Name(masqueraded)] = v.Cover(s.MasqueradeCIDRs, nil)
		// A pool that is masqueraded is a pool.
		c[v.Name(exempt)] = v.Cover(slices.Concat(s.ExemptCIDRs, s.MasqueradeCIDRs), nil)
		c[v.Name(tunnelPools)] = v.Cover(s.TunnelPools, nil)
		c[v.Name(tunnelNodes)] = v.Cover(s.TunnelNodes, nil)
	}
	return c
}
