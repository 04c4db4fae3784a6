package nat

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/kernel/kerneltest/podworld"
)

// messages are the log's lines without their time.
func messages(log *bytes.Buffer) []string {
	var out []string
	for line := range strings.Lines(log.String()) {
		level, rest, _ := strings.Cut(strings.TrimPrefix(line, "level="), " ")
		message, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(rest), `msg="`), `"`)
		out = append(out, level+" "+message)
	}
	return out
}

func logTo(log *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func TestResyncAndRestartOfWhatIsRightWriteNothing(t *testing.T) {
	kerneltest.Require(t, kerneltest.IPv6, kerneltest.Nftables, kerneltest.NftNAT)
	for name, state := range map[string]State{
		"pools": podState(),
		// nft writes such elements in other forms.
		"whole address space": {MasqueradeCIDRs: prefixes("0.0.0.0/0", "::/0")},
		"single addresses":    {MasqueradeCIDRs: prefixes("10.1.2.3/32", "fd00::1/128"), ExemptCIDRs: prefixes("255.255.255.255/32")},
		"as configured":       {MasqueradeCIDRs: prefixes("10.65.0.0/16", "fd00:65::/64"), How: How{Ports: Ports{1024, 65535}, Address: netip.MustParseAddr("192.0.2.1"), Device: "eth*"}},
		"neighbours":          {MasqueradeCIDRs: prefixes("10.65.0.0/16", "10.66.0.0/15"), ExemptCIDRs: prefixes("128.0.0.0/1", "ffff::/16")},
	} {
		t.Run(name, func(t *testing.T) {
			node := kerneltest.NewNetns(t)
			podworld.Check(t, node.Do(func() error {
				inner, err := knftables.New(ruleset.Family, ruleset.Table)
				if err != nil {
					return err
				}
				nft := &countingNFT{Interface: inner}
				for range 2 {
					m := New(Config{NFT: nft})
					m.Set(state)
					apply(t, m)
					m.QueueResync()
					apply(t, m)
				}
				if nft.runs != 1 {
					t.Errorf("%d transactions, want the first alone", nft.runs)
				}
				return nil
			}))
		})
	}
}

func TestLogTellsOwnChangesFromForeignOnes(t *testing.T) {
	var log bytes.Buffer
	nft := knftables.NewFake(ruleset.Family, ruleset.Table)
	m := New(Config{NFT: nft, Log: logTo(&log)})
	expect := func(what string, want ...string) {
		t.Helper()
		apply(t, m)
		diff(t, what, want, messages(&log))
		log.Reset()
	}
	expect("nothing desired")
	m.Set(State{MasqueradeCIDRs: prefixes("10.65.0.0/16")})
	expect("first pool", "INFO masquerading changed")
	m.QueueResync()
	expect("resync")
	m.Set(State{MasqueradeCIDRs: prefixes("10.65.0.0/16", "10.66.0.0/16")})
	m.QueueResync()
	expect("second pool, at a resync", "INFO masquerading changed")
	m.Set(State{MasqueradeCIDRs: prefixes("10.65.0.0/16", "10.66.0.0/16"), How: How{Ports: Ports{1024, 2048}}})
	expect("by other ports", "INFO masquerading changed")
	m.Set(State{MasqueradeCIDRs: prefixes("10.65.0.0/16", "10.66.0.0/16")})
	expect("by all ports again", "INFO masquerading changed")

	tx := nft.NewTransaction()
	tx.Flush(&knftables.Chain{Name: chainName})
	addElements(tx, "exempt-ipv4", prefixes("192.0.2.0/24"))
	podworld.Check(t, nft.Run(t.Context(), tx))
	m.QueueResync()
	apply(t, m)
	for _, want := range []string{"level=WARN", "masquerading mended", "rules of chain nat-outgoing", "elements of set exempt-ipv4"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log does not say %q: %s", want, log.String())
		}
	}
	log.Reset()

	m = New(Config{NFT: nft, Log: logTo(&log)})
	m.Set(State{MasqueradeCIDRs: prefixes("10.65.0.0/16", "10.66.0.0/16")})
	expect("restart", "INFO masquerading found as it should be")
	m.Set(State{})
	expect("no pool any more", "INFO masquerading changed")
}
