package ruleset

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/knftables"

	"tortie/internal/kernel/kerneltest"
)

// countNft puts a program before nft that keeps its arguments, and gives them.
func countNft(t *testing.T) (calls func() []string) {
	t.Helper()
	program, err := exec.LookPath("nft")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	script := fmt.Sprintf("#!/bin/sh\necho \"$*\" >>%s\nexec %s \"$@\"\n", log, program)
	if err := os.WriteFile(filepath.Join(dir, "nft"), []byte(script), 0o755); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() []string {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(log); err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
}

// TestTableIsReadByOneProcess, and what it says is what was written: a restart or resync
// over chains, sets and maps of every kind that is used writes nothing.
func TestTableIsReadByOneProcess(t *testing.T) {
	kerneltest.Require(t, kerneltest.Nftables)
	shape := Shape{
		Sets: []Set{
			V4.Prefixes("a"), V6.Prefixes("a"), V4.PrefixesByDevice("d"),
			{Name: "ports", Map: true, Type: "inet_proto . inet_service : ipv4_addr . inet_service"},
			{Name: "chains", Map: true, Type: "ifname : verdict"},
		},
		Chains: []Chain{
			{Name: "one", Type: knftables.FilterType, Hook: knftables.ForwardHook, Priority: knftables.FilterPriority, Rules: []Rule{{Text: "ip saddr @a-ipv4 drop", Does: "drop"}, {Text: "iifname vmap @chains", Does: "on"}}},
			{Name: "two", Type: knftables.FilterType, Hook: knftables.InputHook, Priority: knftables.FilterPriority, Rules: []Rule{{Text: "counter", Does: "count"}}},
		},
		Prefix: "of-",
	}
	contents := Contents{
		"a-ipv4": {"10.0.0.0/8", "192.0.2.1/32"}, "a-ipv6": {"::/0"}, "d-ipv4": {"eth0 . 10.0.0.0/8", "eth0 . 192.0.2.1"},
		"ports": {"17 . 53 : 10.0.0.1 . 5353", "6 . 80 : 10.0.0.1 . 8080"}, "chains": {"eth0 : jump of-eth0"},
	}
	chains := []Chain{{Name: "of-eth0", Rules: []Rule{{Text: "drop", Does: "all"}}}}
	calls := countNft(t)
	err := kerneltest.NewNetns(t).Do(func() error {
		for _, name := range []string{"first", "after a restart"} {
			o := New(nil, shape, "")
			o.SetWith(contents, chains)
			out, err := o.Apply(t.Context())
			if err != nil {
				return err
			}
			if (len(out.Differed) > 0) != (name == "first") {
				t.Errorf("%s: differed %v", name, out.Differed)
			}
			calls()
			o.QueueResync()
			if out, err := o.Apply(t.Context()); err != nil || len(out.Differed) > 0 {
				t.Errorf("%s: at a resync differed %v, %v", name, out.Differed, err)
			}
			if got, want := calls(), []string{"--json list table inet tortie"}; !slices.Equal(got, want) {
				t.Errorf("%s: a resync calls nft with %q, want %q", name, got, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
