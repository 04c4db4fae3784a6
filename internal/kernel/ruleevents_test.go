package kernel_test

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"tortie/internal/kernel/kerneltest"
)

// TestChangesOfRulesAreToldOfOneTable: the changes of others wake nobody, which shows
// here in that what is told first is ours.
func TestChangesOfRulesAreToldOfOneTable(t *testing.T) {
	kerneltest.Require(t, kerneltest.Nftables)
	ns := kerneltest.NewNetns(t)
	h := kerneltest.Open(t, ns)
	told, err := h.RuleChanges(t.Context(), "ours", nil)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := h.RuleChanges(t.Context(), "theirs", nil)
	if err != nil {
		t.Fatal(err)
	}
	nft := func(script string) {
		t.Helper()
		if err := ns.Do(func() error { return exec.Command("nft", script).Run() }); err != nil {
			t.Fatal(err)
		}
	}
	comes := func(what string, from <-chan struct{}) {
		t.Helper()
		select {
		case <-from:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s is not told", what)
		}
	}
	nft("add table inet theirs; add chain inet theirs c; add rule inet theirs c accept")
	comes("another table, to who asks for it,", theirs)
	select {
	case <-told:
		t.Error("another table is told")
	default:
	}
	nft("add table inet ours")
	comes("the table", told)
	for _, script := range []string{
		"add chain inet ours c", "add rule inet ours c accept", "add set inet ours s { type ipv4_addr; }", "add element inet ours s { 192.0.2.1 }",
		"delete element inet ours s { 192.0.2.1 }", "flush chain inet ours c", "delete table inet ours",
	} {
		for len(told) > 0 {
			<-told
		}
		nft(script)
		comes(script, told)
	}
}

// TestOwnChangesOfRulesAreNotTold: who made one is known by its process.
func TestOwnChangesOfRulesAreNotTold(t *testing.T) {
	kerneltest.Require(t, kerneltest.Nftables)
	ns := kerneltest.NewNetns(t)
	h := kerneltest.Open(t, ns)
	asked := make(chan uint32, 100)
	told, err := h.RuleChanges(t.Context(), "ours", func(port uint32) bool { asked <- port; return true })
	if err != nil {
		t.Fatal(err)
	}
	var nft *exec.Cmd
	if err := ns.Do(func() error {
		nft = exec.Command("nft", "add table inet ours")
		return nft.Run()
	}); err != nil {
		t.Fatal(err)
	}
	select {
	case port := <-asked:
		if int(port) != nft.Process.Pid {
			t.Errorf("the change is said to be of %d, and is of %d", port, nft.Process.Pid)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the change is not told")
	}
	select {
	case <-told:
		t.Error("an own change is told")
	default:
	}
}

func TestChangesOfRulesEndWithTheirContext(t *testing.T) {
	kerneltest.Require(t, kerneltest.Nftables)
	h := kerneltest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	told, err := h.RuleChanges(ctx, "ours", nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for range told {
		t.Error("something was told")
	}
}
