// Package nat hides pods behind their node's address when they talk to the world
// outside: packets from a pool with natOutgoing to a destination that is neither in
// a pool nor a node of the cluster are masqueraded.
//
// It owns one chain and eight sets in the nftables table "inet tortie" and touches
// nothing else. A pod keeps its own address towards every other pod, on this node
// or another, and towards every node, but for the nodes that only a tunnel leads to
// from its pool: the network between them need not know pods' addresses. A node keeps
// its own towards pods.
package nat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"sync"

	"go4.org/netipx"
	"sigs.k8s.io/knftables"
)

// The names of what is ours in the kernel.
const (
	family    = knftables.InetFamily
	tableName = "tortie"
	chainName = "nat-outgoing"
)

// ErrNoNft says that the nft command, or the kernel's side of it, is missing.
var ErrNoNft = errors.New("nftables is not available")

// State is what is to be masqueraded. It may be given in any order and with
// overlaps.
type State struct {
	// MasqueradeCIDRs are the pools with natOutgoing.
	MasqueradeCIDRs []netip.Prefix
	// ExemptCIDRs are destinations that see the pod's own address: all pools,
	// disabled ones included, and the addresses of the cluster's nodes.
	ExemptCIDRs []netip.Prefix
	// TunnelPools are the pools with natOutgoing whose pods reach other nodes' pods
	// through a tunnel; TunnelNodes the addresses of the nodes at its other ends.
	TunnelPools, TunnelNodes []netip.Prefix
}

// Config is what a Masquerade needs.
type Config struct {
	// NFT is the table; nil for the real one of the network namespace that
	// Apply is called in, through the nft command.
	NFT knftables.Interface
	Log *slog.Logger // nil for no log
}

// Masquerade reconciles the rules with a State. Its methods may be called from
// any goroutine; while Apply runs the others wait.
type Masquerade struct {
	log *slog.Logger

	mu      sync.Mutex
	nft     knftables.Interface // nil until the nft command was needed
	desired contents
	// applied is what was last made to stand in the kernel; begun is false before
	// the first time.
	applied contents
	begun   bool
	// known: applied is what the kernel has, as far as nobody else changed it. It
	// is not after a failure, and when a resync is asked for.
	known bool
}

// contents are the elements of every set, by its name; nil when there is nothing
// to masquerade and so neither chain nor sets.
type contents map[string][]netip.Prefix

// New makes a Masquerade with nothing to masquerade. Nothing is read or written
// before the first Apply.
func New(cfg Config) *Masquerade {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Masquerade{nft: cfg.NFT, log: cfg.Log}
}

// Set makes s the desired state.
func (m *Masquerade) Set(s State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.desired = contentsOf(s)
}

// QueueResync makes the next Apply read the kernel, and mend what differs.
func (m *Masquerade) QueueResync() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known = false
}

// InSync reports that the kernel has what is desired, as far as is known.
func (m *Masquerade) InSync() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inSync()
}

func (m *Masquerade) inSync() bool { return m.known && m.applied.equal(m.desired) }

// Apply makes the kernel's rules as desired, in one transaction: every packet
// meets the old rules or the new ones. What is right is not written again, also
// after a restart or resync. An error leaves the old rules in force and the next
// Apply starts from reading the kernel. ErrNoNft when masquerading is wanted and
// nft is missing.
func (m *Masquerade) Apply(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inSync() {
		return nil
	}
	differed, err := m.apply(ctx, m.desired)
	if err != nil {
		m.known = false
		return fmt.Errorf("masquerade traffic that leaves the pools: %w", err)
	}
	m.report(differed)
	m.applied, m.begun, m.known = m.desired, true, true
	return nil
}

// report logs what became of an Apply that found differed.
func (m *Masquerade) report(differed []string) {
	cidrs := []any{"cidrs", m.desired[masqueradeSet(v4)], "cidrs-ipv6", m.desired[masqueradeSet(v6)]}
	switch {
	case m.begun && !m.applied.equal(m.desired), !m.begun && len(differed) > 0:
		m.log.Info("masquerading changed", cidrs...)
	case len(differed) > 0:
		m.log.Warn("masquerading mended: someone had changed it", "differed", differed)
	case !m.begun && m.desired != nil:
		m.log.Info("masquerading found as it should be", cidrs...)
	}
}

// Cleanup removes what is ours, and the table when nothing else is in it. What is
// desired stays and is written again by the next Apply.
func (m *Masquerade) Cleanup(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known = false
	if _, err := m.apply(ctx, nil); err != nil {
		return fmt.Errorf("remove masquerading: %w", err)
	}
	m.applied = nil
	return nil
}

// apply brings the kernel to want and returns what differed there.
func (m *Masquerade) apply(ctx context.Context, want contents) (differed []string, err error) {
	if err := m.open(); err != nil {
		if want == nil && errors.Is(err, ErrNoNft) {
			return nil, nil // then there is nothing of ours to remove
		}
		return nil, err
	}
	tx := m.nft.NewTransaction()
	if want != nil && m.applied != nil && m.known {
		for _, name := range setNames() {
			if !slices.Equal(want[name], m.applied[name]) {
				differed = append(differed, "elements of set "+name)
				tx.Flush(&knftables.Set{Name: name})
				addElements(tx, name, want[name])
			}
		}
	} else {
		there, err := m.read(ctx)
		if err != nil {
			return nil, fmt.Errorf("read table %s %s: %w", family, tableName, err)
		}
		if differed = there.differences(want); len(differed) > 0 {
			rebuild(tx, there, want)
		}
	}
	if tx.NumOperations() == 0 {
		return nil, nil
	}
	return differed, m.nft.Run(ctx, tx)
}

// open finds the nft command when it is first needed.
func (m *Masquerade) open() error {
	if m.nft != nil {
		return nil
	}
	nft, err := knftables.New(family, tableName)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%w: install the nft command (apt-get install nftables, dnf install nftables), "+
			"or set natOutgoing: false in the IP pools: %w", ErrNoNft, err)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNoNft, err)
	}
	m.nft = nft
	return nil
}

// version is one of the two versions of IP.
type version int

const (
	v4 version = 4
	v6 version = 6
)

// keyword is the version's name in nft's expressions.
func (v version) keyword() string {
	if v == v4 {
		return "ip"
	}
	return "ip6"
}

// setType is the type of the version's sets.
func (v version) setType() string { return fmt.Sprintf("ipv%d_addr", v) }

// rule is Calico's, from a pool with natOutgoing to a destination in no pool, less
// the nodes of the cluster: a host they know should see who is talking to it.
// What a node says to itself over the loopback stays as it is. Source ports are
// drawn at random, because those of many pods would collide.
func (v version) rule() string {
	return fmt.Sprintf(`oifname != "lo" %s saddr @%s %s daddr != @%s masquerade fully-random`,
		v.keyword(), masqueradeSet(v), v.keyword(), exemptSet(v))
}

// tunnelRule is for what the first one exempts: a packet to a node itself goes
// outside of the tunnel.
func (v version) tunnelRule() string {
	return fmt.Sprintf(`oifname != "lo" %s saddr @%s %s daddr @%s masquerade fully-random`,
		v.keyword(), tunnelPoolSet(v), v.keyword(), tunnelNodeSet(v))
}

func tunnelPoolSet(v version) string { return fmt.Sprintf("tunnel-pools-ipv%d", v) }
func tunnelNodeSet(v version) string { return fmt.Sprintf("tunnel-nodes-ipv%d", v) }
func masqueradeSet(v version) string { return fmt.Sprintf("nat-outgoing-ipv%d", v) }
func exemptSet(v version) string     { return fmt.Sprintf("exempt-ipv%d", v) }

func setNames() []string {
	return slices.Concat(v4.sets(), v6.sets())
}

func (v version) sets() []string {
	return []string{masqueradeSet(v), exemptSet(v), tunnelPoolSet(v), tunnelNodeSet(v)}
}

// contentsOf gives every set the fewest prefixes that cover its addresses, for
// nft refuses overlaps.
func contentsOf(s State) contents {
	if len(s.MasqueradeCIDRs) == 0 {
		return nil
	}
	c := contents{}
	for _, v := range []version{v4, v6} {
		c[masqueradeSet(v)] = v.cover(s.MasqueradeCIDRs)
		// A pool that is masqueraded is a pool.
		c[exemptSet(v)] = v.cover(slices.Concat(s.ExemptCIDRs, s.MasqueradeCIDRs))
		c[tunnelPoolSet(v)] = v.cover(s.TunnelPools)
		c[tunnelNodeSet(v)] = v.cover(s.TunnelNodes)
	}
	return c
}

// cover is the fewest prefixes of the version with the same addresses, in order.
func (v version) cover(prefixes []netip.Prefix) []netip.Prefix {
	var b netipx.IPSetBuilder
	for _, p := range prefixes {
		if p.IsValid() && p.Addr().Is4() == (v == v4) {
			b.AddPrefix(p.Masked())
		}
	}
	// The builder fails on invalid prefixes only, and those are left out.
	set, err := b.IPSet()
	if err != nil {
		return nil
	}
	return set.Prefixes()
}

func (c contents) equal(o contents) bool {
	if (c == nil) != (o == nil) {
		return false
	}
	for name, prefixes := range c {
		if !slices.Equal(prefixes, o[name]) {
			return false
		}
	}
	return true
}
