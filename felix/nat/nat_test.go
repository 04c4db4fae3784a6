package nat

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
)

func prefixes(s ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(s))
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func apply(t *testing.T, m *Masquerade) {
	t.Helper()
	if err := m.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !m.InSync() {
		t.Error("not in sync after Apply")
	}
}

func elements(t *testing.T, nft knftables.Interface, set string) []string {
	t.Helper()
	list, err := nft.ListElements(t.Context(), "set", set)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Key...)
	}
	return out
}

func diff(t *testing.T, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s: want -, got +\n%s", what, d)
	}
}

func TestSetsHoldTheFewestPrefixesOfEachFamily(t *testing.T) {
	nft := knftables.NewFake(ruleset.Family, ruleset.Table)
	m := New(Config{NFT: nft})
	m.Set(State{
		MasqueradeCIDRs: prefixes("10.65.7.9/16", "10.65.1.0/24", "fd00:65::/64"),
		ExemptCIDRs:     prefixes("10.65.0.0/16", "10.66.0.0/16", "fd00:66::/64"),
	})
	apply(t, m)
	diff(t, "IPv4 masqueraded", []string{"10.65.0.0/16"}, elements(t, nft, "nat-outgoing-ipv4"))
	diff(t, "IPv4 pools", []string{"10.65.0.0/16", "10.66.0.0/16"}, elements(t, nft, "exempt-ipv4"))
	diff(t, "IPv6 masqueraded", []string{"fd00:65::/64"}, elements(t, nft, "nat-outgoing-ipv6"))
	diff(t, "IPv6 pools", []string{"fd00:65::/64", "fd00:66::/64"}, elements(t, nft, "exempt-ipv6"))
}

// TestTunnelsCostPoolsAndNodesNotTheirProduct: a thousand nodes, or pools, more are as
// many elements more.
func TestTunnelsCostPoolsAndNodesNotTheirProduct(t *testing.T) {
	many := func(a netip.Addr, n int) (out []netip.Prefix) {
		for range n {
			a = a.Next().Next() // so that no two make one prefix
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
		return out
	}
	pools, nodes := many(netip.MustParseAddr("10.65.0.0"), 20), many(netip.MustParseAddr("192.0.2.0"), 1000)
	n := 0
	for _, list := range contentsOf(State{MasqueradeCIDRs: pools, ExemptCIDRs: nodes, TunnelPools: pools, TunnelNodes: nodes}) {
		n += len(list)
	}
	if want := len(pools) + (len(pools) + len(nodes)) + len(pools) + len(nodes); n != want {
		t.Errorf("%d elements, want %d", n, want)
	}
}

func TestResultDependsOnTheStateOnly(t *testing.T) {
	states := []State{
		{},
		{ExemptCIDRs: prefixes("10.65.0.0/16")},
		{MasqueradeCIDRs: prefixes("10.65.0.0/16"), ExemptCIDRs: prefixes("10.65.0.0/16")},
		{MasqueradeCIDRs: prefixes("10.65.0.0/16", "fd00::/64"), ExemptCIDRs: prefixes("10.66.0.0/16")},
		{MasqueradeCIDRs: prefixes("10.67.0.0/16")},
		{MasqueradeCIDRs: prefixes("10.67.0.0/16"), How: How{Ports: Ports{1, 2}, Address: netip.MustParseAddr("192.0.2.1"), Device: "eth*"}},
	}
	for _, from := range states {
		for _, to := range states {
			fresh, moved := knftables.NewFake(ruleset.Family, ruleset.Table), knftables.NewFake(ruleset.Family, ruleset.Table)
			once := New(Config{NFT: fresh})
			once.Set(to)
			apply(t, once)

			twice := New(Config{NFT: moved})
			twice.Set(from)
			apply(t, twice)
			twice.Set(to)
			apply(t, twice)
			diff(t, "table", dumpWithoutHandles(fresh), dumpWithoutHandles(moved))
		}
	}
}

func dumpWithoutHandles(f *knftables.Fake) string {
	if f.Table == nil {
		return ""
	}
	return f.Dump()
}

// countingNFT counts the transactions and can refuse them.
type countingNFT struct {
	knftables.Interface
	runs int
	fail error
}

func (c *countingNFT) Run(ctx context.Context, tx *knftables.Transaction) error {
	c.runs++
	if c.fail != nil {
		return c.fail
	}
	return c.Interface.Run(ctx, tx)
}

func TestApplyWithoutChangeWritesNothing(t *testing.T) {
	nft := &countingNFT{Interface: knftables.NewFake(ruleset.Family, ruleset.Table)}
	m := New(Config{NFT: nft})
	state := State{MasqueradeCIDRs: prefixes("10.65.0.0/16", "10.66.0.0/16")}
	m.Set(state)
	apply(t, m)
	m.Set(State{MasqueradeCIDRs: prefixes("10.66.0.0/16", "10.65.0.0/16", "10.65.4.0/24")})
	apply(t, m)
	if nft.runs != 1 {
		t.Errorf("%d transactions for one state, want 1", nft.runs)
	}
}

func TestFailedApplyStaysPending(t *testing.T) {
	refused := errors.New("refused")
	nft := &countingNFT{Interface: knftables.NewFake(ruleset.Family, ruleset.Table), fail: refused}
	m := New(Config{NFT: nft})
	m.Set(State{MasqueradeCIDRs: prefixes("10.65.0.0/16")})
	if err := m.Apply(t.Context()); !errors.Is(err, refused) {
		t.Fatalf("error is %v, want the kernel's", err)
	}
	if m.InSync() {
		t.Error("in sync after a failure")
	}
	nft.fail = nil
	apply(t, m)
	diff(t, "masqueraded", []string{"10.65.0.0/16"}, elements(t, nft, "nat-outgoing-ipv4"))
}

func TestResyncMendsWhatOthersChanged(t *testing.T) {
	nft := knftables.NewFake(ruleset.Family, ruleset.Table)
	m := New(Config{NFT: nft})
	m.Set(State{MasqueradeCIDRs: prefixes("10.65.0.0/16")})
	apply(t, m)
	whole := nft.Dump()

	for name, damage := range map[string]func(*knftables.Transaction){
		"rules gone":    func(tx *knftables.Transaction) { tx.Flush(&knftables.Chain{Name: chainName}) },
		"element added": func(tx *knftables.Transaction) { addElements(tx, "exempt-ipv4", prefixes("0.0.0.0/0")) },
		"table gone":    func(tx *knftables.Transaction) { tx.Delete(&knftables.Table{}) },
		"rule added": func(tx *knftables.Transaction) {
			tx.Add(&knftables.Rule{Chain: chainName, Rule: "accept"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			tx := nft.NewTransaction()
			damage(tx)
			if err := nft.Run(t.Context(), tx); err != nil {
				t.Fatal(err)
			}
			m.QueueResync()
			apply(t, m)
			diff(t, "table", whole, nft.Dump())
		})
	}
}

func TestCleanupLeavesWhatIsNotOurs(t *testing.T) {
	nft := knftables.NewFake(ruleset.Family, ruleset.Table)
	tx := nft.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Add(&knftables.Chain{Name: "policy"})
	if err := nft.Run(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	before := nft.Dump()
	m := New(Config{NFT: nft})
	m.Set(State{MasqueradeCIDRs: prefixes("10.65.0.0/16")})
	apply(t, m)
	if err := m.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	diff(t, "table", before, nft.Dump())
}

func TestCleanupRemovesTheTableWhenItIsEmpty(t *testing.T) {
	nft := knftables.NewFake(ruleset.Family, ruleset.Table)
	m := New(Config{NFT: nft})
	m.Set(State{MasqueradeCIDRs: prefixes("10.65.0.0/16")})
	apply(t, m)
	for range 2 {
		if err := m.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		if nft.Table != nil {
			t.Errorf("the table is still there:\n%s", nft.Dump())
		}
	}
}

func TestMissingNftSaysWhatToInstall(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	m := New(Config{})
	if err := m.Apply(t.Context()); err != nil {
		t.Errorf("nothing to masquerade, and yet: %v", err)
	}
	m.Set(State{MasqueradeCIDRs: prefixes("10.65.0.0/16")})
	err := m.Apply(t.Context())
	if !errors.Is(err, ruleset.ErrNoNft) {
		t.Fatalf("error is %v, want ErrNoNft", err)
	}
	for _, word := range []string{"install", "nftables", "natOutgoing"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error does not mention %q: %v", word, err)
		}
	}
}

// addElements is somebody else's doing.
func addElements(tx *knftables.Transaction, set string, prefixes []netip.Prefix) {
	for _, p := range prefixes {
		tx.Add(&knftables.Element{Set: set, Key: []string{p.String()}})
	}
}
