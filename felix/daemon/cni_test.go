package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/kubeapi/apitest"
)

// TestPodCIDRsOfTheNodeAreHostLocalsSubnets, with the real plugin and what Kubernetes says
// of the node.
func TestPodCIDRsOfTheNodeAreHostLocalsSubnets(t *testing.T) {
	n := newNode(t)
	n.plugins = "/usr/lib/cni" // where Debian's containernetworking-plugins puts them
	n.kubernetes = apitest.New(true)
	defer n.kubernetes.Close()
	n.start(true)
	defer func() { n.stop() }()
	data := filepath.Join(n.dir, "host-local")
	conf := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "net1", "type": "calico",
		"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "usePodCidr"}], [{"subnet": "usePodCidrIPv6"}]]}}`, data)
	p := n.newPod("c1")
	var early cniError
	if out, err := n.cni("ADD", p, conf); err == nil || json.Unmarshal([]byte(out), &early) != nil || early.Code != 11 || !strings.Contains(early.Msg, "no such podCIDR of this node") {
		t.Errorf("ADD before Kubernetes has given any: %v, %s", err, out)
	}
	n.kubernetes.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-1"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24", "fd44:1::/64"}}})
	n.await("Kubernetes has told felix of them", func() bool { return len(n.felix.kubernetes.node.PodCIDRs()) == 2 })
	out, err := n.cni("ADD", p, conf)
	if err != nil || !strings.Contains(out, `"10.244.1.2/32"`) || !strings.Contains(out, `"fd44:1::2/128"`) {
		t.Fatalf("ADD: %v, %s", err, out)
	}
	for _, addr := range []string{"10.244.1.2", "fd44:1::2"} {
		if _, err := os.Stat(filepath.Join(data, "net1", addr)); err != nil {
			t.Errorf("host-local has not assigned %s: %v", addr, err)
		}
	}
	for _, command := range []string{"CHECK", "DEL"} {
		if out, err := n.cni(command, p, conf); err != nil {
			t.Errorf("%s: %v, %s", command, err, out)
		}
	}
	n.await("the addresses are given back", func() bool {
		_, err := os.Stat(filepath.Join(data, "net1", "10.244.1.2"))
		return errors.Is(err, os.ErrNotExist)
	})
}

// TestFullDiskUnderTheJournalIsToldAndPasses: code 5, with what to do, and nothing stays
// behind; with room the next ADD succeeds. A DEL is served all the same.
func TestFullDiskUnderTheJournalIsToldAndPasses(t *testing.T) {
	n := newNode(t)
	disk := filepath.Join(n.dir, "journal")
	if err := errors.Join(os.Mkdir(disk, 0o700), syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=64k")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	n.start(true)
	defer func() { n.stop() }()
	stays, p := n.newPod("stays"), n.newPod("c1")
	n.ok("ADD", stays)
	rest := filepath.Join(disk, "rest")
	if err := os.WriteFile(rest, make([]byte, 64<<10), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	var failed cniError
	n.await("there is no room for one more entry", func() bool {
		out, err := n.cni("ADD", p, testConf)
		if err == nil {
			n.ok("DEL", p)
			return false
		}
		return json.Unmarshal([]byte(out), &failed) == nil && failed.Msg != ""
	})
	if failed.Code != 5 || !strings.Contains(failed.Msg, "no space left on device") || strings.Contains(failed.Msg, "\n") || !strings.Contains(failed.Details, "FELIX_JOURNALDIR") {
		t.Errorf("ADD: %+v", failed)
	}
	if got := len(n.routes()); got != 2 {
		t.Errorf("%d routes, want those of one pod", got)
	}
	n.ok("CHECK", stays)
	n.ok("DEL", stays)
	if err := os.Remove(rest); err != nil {
		t.Fatal(err)
	}
	n.ok("ADD", p)
	n.ok("CHECK", p)
	n.ok("DEL", p)
}
