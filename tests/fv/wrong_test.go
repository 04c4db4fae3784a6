package fv

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tortie/internal/api"
	"tortie/internal/control/cniwire"
	"tortie/internal/kernel/kerneltest"
	"tortie/tests/lab"
)

// wrongConfiguration is one that can't be carried out.
type wrongConfiguration struct {
	name string
	node string // where it is told
	// make makes it, and returns how to undo it.
	make func() (undo func())
	// says is in the log and in calicoctl node status.
	says string
	// ADD gets this code and words, with this configuration of the network; nil: the lab's.
	code    uint
	refusal string
	network func(map[string]any)
}

// TestWrongConfigurationIsSaidInThreePlaces, the log, calicoctl node status and the CNI error, and what
// worked before goes on working: no packet is lost, pods can be deleted, and pods are made
// again when it is undone.
func TestWrongConfigurationIsSaidInThreePlaces(t *testing.T) {
	l := up(t, "wrongadd", 3)
	apply(t, l, wrongHead+"{vxlanVNI: 4096}\n")
	setVXLANMode(t, l, "CrossSubnet")
	for _, node := range []string{"node1", "node3"} { // node2 is the one whose Node is lost
		mustAdd(t, l, node, "on-"+node)
	}
	mustConverge(t, l)
	for _, tt := range wrongConfigurations(t, l) {
		t.Run(tt.name, func(t *testing.T) {
			tr := startTraffic(t, l)
			mustAdd(t, l, tt.node, "going")
			undo := tt.make()
			statusOfSays(t, l, tt.node, tt.says, true)
			logOfSays(t, l, tt.node, tt.says)
			mustBeRefused(t, l, tt)
			if err := l.DelPod(t.Context(), "going"); err != nil {
				t.Errorf("DEL: %v", err)
			}
			if strings.HasPrefix(tt.name, "unknown") {
				othersServe(t, l)
			}
			undo()
			statusOfSays(t, l, tt.node, tt.says, false)
			mustAdd(t, l, tt.node, "after")
			if err := l.DelPod(t.Context(), "after"); err != nil {
				t.Error(err)
			}
			mustConverge(t, l)
			tr.stopAndDemandNoLoss(t)
		})
	}
}

const wrongHead = manifestHead + "kind: FelixConfiguration\nmetadata: {name: default}\nspec: "

func wrongConfigurations(t *testing.T, l *lab.Lab) []wrongConfiguration {
	store := newRawStore(t, l)
	noIPIP := "IPIP device tunl0: the kernel doesn't do IPIP (CONFIG_NET_IPIP): load the module (modprobe ipip)"
	if kerneltest.Has(kerneltest.IPIP) { // then somebody else has the device
		noIPIP = "IPIP device tunl0: another device of IPIP without a remote end is there already (ip -d link show type ipip): remove it"
	}
	const unknown = `spec.vxlanMode: "Crosssubnet" is none of Never, CrossSubnet and Always`
	const vni = `FelixConfiguration default: spec.vxlanVNI: "16777216" is not within 1 to 16777215`
	const twin = "its address 10.10.1.2 is that of node twin already; give one of them another address, or delete the node that is gone: calicoctl delete node twin"
	return []wrongConfiguration{
		{
			"unknown overlay mode", "node1",
			func() func() { return store.change(api.KindIPPool, "pool-v4", "", `"CrossSubnet"`, `"Crosssubnet"`) },
			unknown, cniwire.CodeTryAgainLater, "pool-v4 (10.65.0.0/16): new pods would not be reached from other nodes: " + unknown, nil,
		},
		{
			"MTU too large", "node1",
			func() func() {
				apply(t, l, wrongHead+"{vxlanVNI: 4096, vxlanMTU: 9000}\n")
				return func() { apply(t, l, wrongHead+"{vxlanVNI: 4096}\n") }
			},
			"vxlanMTU 9000 is more than the node's device eth0 carries whole (MTU 1500, less 50 for VXLAN): 1450 is used",
			cniwire.CodeInvalidConfig, `key "mtu": 9000 is more than the 1500 of the node's device eth0: lower it`,
			func(c map[string]any) { c["mtu"] = 9000 },
		},
		{
			"VNI out of range", "node1",
			func() func() { return store.change(api.KindFelixConfiguration, "default", "", "4096", "16777216") },
			vni, cniwire.CodeTryAgainLater, "pool-v4 (10.65.0.0/16): new pods would not be reached from other nodes: " + vni, nil,
		},
		{
			"a mode that the kernel can't do", "node1",
			func() func() {
				if kerneltest.Has(kerneltest.IPIP) {
					run(t, l, "", "sh", "-c", "ip link show tunl0 >/dev/null 2>&1 || ip link add tunl0 type ipip; ip link set tunl0 name another0")
				}
				setMode(t, l, "ipipMode: Always")
				return func() { setVXLANMode(t, l, "CrossSubnet") }
			},
			noIPIP, cniwire.CodeTryAgainLater, "pool-v4 (10.65.0.0/16): new pods would not be reached from other nodes: " + noIPIP, nil,
		},
		{
			"two nodes with one address", "node2",
			func() func() {
				if err := l.KillDaemon("felix", "node2", 9); err != nil {
					t.Fatal(err)
				}
				before := store.value(api.KindNode, "node2")
				store.change(api.KindNode, "node2", "twin", "node2", "twin")
				store.remove(api.KindNode, "node2")
				if err := l.StartDaemon("felix", "node2"); err != nil {
					t.Fatal(err)
				}
				return func() {
					store.put(api.KindNode, "node2", before)
					store.remove(api.KindNode, "twin")
				}
			},
			twin, cniwire.CodeTryAgainLater, twin, nil,
		},
	}
}

// mustAdd makes a pod, at the latest when what kept it from being made has been undone.
func mustAdd(t *testing.T, l *lab.Lab, node, name string) *lab.Pod {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		pod, err := l.AddPod(t.Context(), lab.PodSpec{Name: name, Node: node, Containers: 1})
		if err == nil {
			return pod
		}
		if time.Now().After(end) {
			t.Fatalf("no pod can be made: %v", err)
		}
	}
}

func mustBeRefused(t *testing.T, l *lab.Lab, tt wrongConfiguration) {
	t.Helper()
	pod, err := l.Sandbox(lab.PodSpec{Name: "new", Node: tt.node})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.DelPod(t.Context(), "new"); err != nil { // as a runtime does after a failed ADD
			t.Error(err)
		}
	}()
	change := tt.network
	if change == nil {
		change = func(map[string]any) {}
	}
	_, err = l.CNIWith(t.Context(), "ADD", pod, changed(t, change))
	cniErr := (*lab.CNIError)(nil)
	if !errors.As(err, &cniErr) || cniErr.Code != tt.code || !strings.Contains(cniErr.Msg, tt.refusal) || strings.Contains(strings.TrimSpace(cniErr.Msg), "\n") {
		t.Errorf("ADD: %v, want code %d and one line with %q", err, tt.code, tt.refusal)
	}
	t.Log(err)
}

// othersServe makes a pool that needs no overlay: it serves in the place of the one that
// can't be carried.
func othersServe(t *testing.T, l *lab.Lab) {
	t.Helper()
	apply(t, l, manifestHead+"kind: IPPool\nmetadata: {name: spare}\nspec: {cidr: 10.66.0.0/24}\n")
	pod := mustAdd(t, l, "node1", "elsewhere")
	if addr := pod.Addr(false); !strings.HasPrefix(addr.String(), "10.66.0.") {
		t.Errorf("the pod has the address %s", addr)
	}
	if err := l.DelPod(t.Context(), "elsewhere"); err != nil {
		t.Error(err)
	}
	run(t, l, "", "calicoctl", "delete", "ippool", "spare")
}
