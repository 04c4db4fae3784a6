package fv

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"tortie/tests/lab"
)

// setBorrowingPools gives the two pools, which have one block each, a mode.
func setBorrowingPools(t *testing.T, l *lab.Lab, mode string) {
	t.Helper()
	spec := l.Spec()
	apply(t, l, manifestHead+"kind: IPPool\nmetadata: {name: pool-v4}\nspec: {cidr: "+spec.PoolV4.String()+", blockSize: 26, natOutgoing: true, vxlanMode: "+mode+"}\n---\n"+
		manifestHead+"kind: IPPool\nmetadata: {name: pool-v6}\nspec: {cidr: '"+spec.PoolV6.String()+"', blockSize: 122, natOutgoing: true, vxlanMode: "+mode+"}\n")
}

// TestPodsWithBorrowedAddressesAreReached: pools with a single block, from which two of
// three nodes borrow all they have. Every path works with BGP and with VXLAN, through
// changes of the mode and killed daemons, without a lost packet; also when the daemons
// that come back are the first to know of loans.
func TestPodsWithBorrowedAddressesAreReached(t *testing.T) {
	l := upWith(t, "borrow", 3, func(s *lab.Spec) {
		s.PoolV4, s.PoolV6 = netip.MustParsePrefix("10.65.0.0/26"), netip.MustParsePrefix("fd65::/122")
	})
	addPods(t, l, 6, 1)
	mustConverge(t, l)
	waitStoreSound(t, l, 6)
	if out := run(t, l, "", "calicoctl", "ipam", "show", "--show-borrowed"); strings.Count(out, "10.65.0.") < 4 {
		t.Fatalf("nothing is borrowed:\n%s", out)
	}
	everyNode := []string{"node1", "node2", "node3"}
	for _, mode := range []string{"Always", "CrossSubnet", "Never"} {
		changed := t.Run("the mode becomes "+mode, func(t *testing.T) {
			tr := startTraffic(t, l)
			setBorrowingPools(t, l, mode)
			mustConverge(t, l)
			time.Sleep(500 * time.Millisecond) // whatever is taken away late goes in this time
			tr.stopAndDemandNoLoss(t)
		})
		if !changed {
			t.FailNow() // streams run
		}
		if mode == "Always" {
			time.Sleep(11 * time.Second) // what the change leaves in the kernel is gone by then
			t.Run("felix and bgpd killed", func(t *testing.T) { demandNoLossWhileKilled(t, l, []string{"felix", "bgpd"}, everyNode) })
		}
	}
	t.Run("an older version wrote no loans", func(t *testing.T) {
		tr := startTraffic(t, l)
		for _, n := range everyNode {
			for _, p := range []string{"felix", "bgpd"} {
				if err := l.KillDaemon(p, n, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		deleteBelow(t, l, "/calico/tortie/v1/loans/")
		for _, p := range []string{"bgpd", "felix"} { // the worse order
			for _, n := range everyNode {
				if err := l.StartDaemon(p, n); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(2 * time.Second) // bgpd is alone for a while
		}
		if err := l.WaitReady(t.Context()); err != nil {
			t.Error(err)
		}
		mustConverge(t, l)
		tr.stopAndDemandNoLoss(t)
		until(t, "the loans are there again", func() (bool, string) {
			report, err := l.Store()
			return err == nil && len(report.Problems) == 0, fmt.Sprint(report.Problems, err)
		})
	})
	t.Run("pods come and go", func(t *testing.T) {
		for _, p := range l.Pods() {
			if err := l.DelPod(t.Context(), p.Name); err != nil {
				t.Fatal(err)
			}
		}
		waitStoreSound(t, l, 0)
		for _, n := range everyNode {
			until(t, "no single address is announced on "+n, func() (bool, string) {
				routes, err := l.Routes(n)
				return err == nil && !strings.Contains(routes, "/32 via") && !strings.Contains(routes, "10.65.0.1 via"), routes
			})
		}
		addPods(t, l, 6, 1)
		mustConverge(t, l)
		waitStoreSound(t, l, 6)
	})
}

// deleteBelow removes keys of the store by etcd's HTTP interface.
func deleteBelow(t *testing.T, l *lab.Lab, prefix string) {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return l.Dial(ctx, "node1", network, addr)
	}}}
	end := prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]+1)
	body := fmt.Sprintf(`{"key":%q,"range_end":%q}`, base64.StdEncoding.EncodeToString([]byte(prefix)), base64.StdEncoding.EncodeToString([]byte(end)))
	resp, err := client.Post(l.EtcdEndpoint()+"/v3/kv/deleterange", "application/json", bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(answer.String(), "deleted") {
		t.Fatalf("delete what is below %s: %s %s %v", prefix, resp.Status, answer.String(), err)
	}
}
