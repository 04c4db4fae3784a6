package cniserver

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tortie/felix/journal"
	"tortie/internal/control/cniwire"
	"tortie/ipam"
)

// TestAddRefusesNamesThatCannotBeStored: were the address assigned first, its
// endpoint could never be written, nor its release ever be done.
func TestAddRefusesNamesThatCannotBeStored(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		for args, key := range map[string]string{
			"K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=a/b":   "K8S_POD_NAME",
			"K8S_POD_NAMESPACE=n/s;K8S_POD_NAME=web-0": "K8S_POD_NAMESPACE",
			"K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=Web":   "K8S_POD_NAME",
		} {
			r := request("ADD", "c1")
			r.Args = args
			if msg := w.fails(r, cniwire.CodeInvalidEnvironment); !strings.Contains(msg, "CNI_ARGS: "+key+":") {
				t.Errorf("%s: message %q", args, msg)
			}
		}
		for _, name := range []string{"all", "default", ".", "..", "eth 0", "eth\u00a00", "lo", "ü", "eth%d"} {
			r := request("ADD", "c1")
			r.IfName = name
			if msg := w.fails(r, cniwire.CodeInvalidEnvironment); !strings.Contains(msg, "CNI_IFNAME") {
				t.Errorf("%s: message %q", name, msg)
			}
			r.Command = "DEL" // the runtime's, after the ADD has failed
			w.ok(r)
		}
		if w.next != 0 {
			t.Errorf("%d addresses were assigned", w.next)
		}
		w.wantNothing()
	})(t)
}

func TestAddFromPoolsThatAreNotThereDoesNotPassByItself(t *testing.T) {
	missing := ipam.Verdict{Pool: "gold", Reason: "requested, but there is no such pool"}
	disabled := ipam.Verdict{Pool: "silver", CIDR: "10.66.0.0/16", Reason: "disabled"}
	for _, tc := range []struct {
		requested string
		class     error
		pools     []ipam.Verdict
		code      uint
		says      string
	}{
		{`["gold"]`, ipam.ErrNoPool, []ipam.Verdict{disabled, missing}, cniwire.CodeInvalidConfig, `key "ipam.ipv4_pools": there is no IP pool gold`},
		{`["gold"]`, ipam.ErrNoPool, []ipam.Verdict{disabled, {Pool: "gold", Reason: "can't be read: broken JSON", Unread: true}}, cniwire.CodeTryAgainLater, "gold: can't be read: broken JSON"},
		{`["gold", "silver"]`, ipam.ErrNoPool, []ipam.Verdict{disabled, missing}, cniwire.CodeTryAgainLater, "silver"},
		{`["gold"]`, ipam.ErrPoolFull, nil, cniwire.CodeTryAgainLater, "no free address"},
		{`[]`, ipam.ErrNoPool, nil, cniwire.CodeTryAgainLater, "no usable IP pool"},
	} {
		t.Run(tc.requested, inWorld(func(t *testing.T, w *world) {
			w.fault = func(step string) error {
				if step == "assign" {
					return &ipam.ExhaustedError{Class: tc.class, Version: 4, Wanted: 1, Node: testNode, Pools: tc.pools}
				}
				return nil
			}
			r := request("ADD", "c1")
			r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam", "ipv4_pools": ` + tc.requested + `}}`)
			if msg := w.fails(r, tc.code); !strings.Contains(msg, tc.says) {
				t.Errorf("%s: message %q", tc.requested, msg)
			}
			w.wantNothing()
		}))
	}
}

// TestWhoNamedAPoolIsBlamed: the configuration, the pod, or its namespace.
func TestWhoNamedAPoolIsBlamed(t *testing.T) {
	for name, tc := range map[string]struct{ more, pod, namespace, says string }{
		"configuration": {`["gold"]`, "", "", `network configuration: key "ipam.ipv4_pools": there is no IP pool gold; see`},
		"pod":           {`["gold"]`, `["nosuch"]`, "", `annotation cni.projectcalico.org/ipv4pools of the pod: there is no IP pool nosuch; see`},
		"namespace":     {`["gold"]`, "", `["nosuch"]`, `annotation cni.projectcalico.org/ipv4pools of namespace ns1: there is no IP pool nosuch; see`},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			if tc.pod != "" {
				w.annotated("ipv4pools", tc.pod)
			} else {
				w.annotated("podIP", "10.0.0.1/32")
			}
			if tc.namespace != "" {
				w.namespaces = map[string]map[string]string{"ns1": {"cni.projectcalico.org/ipv4pools": tc.namespace}}
			}
			w.fault = func(step string) error {
				if step == "assign" {
					return &ipam.ExhaustedError{Class: ipam.ErrNoPool, Version: 4, Wanted: 1, Node: testNode, Pools: []ipam.Verdict{{Pool: "gold"}, {Pool: "nosuch"}}}
				}
				return nil
			}
			r := configured("ADD", "")
			r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam", "ipv4_pools": ` + tc.more + `}, "policy": {"type": "k8s"}}`)
			if msg := w.fails(r, cniwire.CodeInvalidConfig); !strings.HasPrefix(msg, tc.says) {
				t.Errorf("message %q", msg)
			}
			w.wantNothing()
		}))
	}
}

// TestMTUThatTheNodeCanNotSendIsRefused: a pod that has it keeps it.
func TestMTUThatTheNodeCanNotSendIsRefused(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		with := func(container, mtu string) cniwire.Request {
			r := request("ADD", container)
			r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "mtu": ` + mtu + `, "ipam": {"type": "calico-ipam"}}`)
			return r
		}
		const device = 1500
		known := false
		w.server.limit = func() (int, string, bool) { return device, "eth0", known }
		w.ok(with("c1", "9000")) // it is not known yet what the node can send
		known = true
		want := `network configuration: key "mtu": 1501 is more than the 1500 of the node's device eth0: lower it to that, less what an overlay in use takes, or leave it out and felix finds it`
		if msg := w.fails(with("c2", "1501"), cniwire.CodeInvalidConfig); msg != want {
			t.Errorf("message %q, want %q", msg, want)
		}
		w.ok(with("c1", "9000"))
	})(t)
}

// TestPodsWithIPv6HaveTheMTUThatItNeeds, whatever was asked for; others have what was.
func TestPodsWithIPv6HaveTheMTUThatItNeeds(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		for container, tt := range map[string]struct {
			families string
			want     int
		}{
			"c1": {`"assign_ipv4": "true", "assign_ipv6": "false"`, 1200},
			"c2": {`"assign_ipv4": "true", "assign_ipv6": "true"`, 1280},
			"c3": {`"assign_ipv4": "false", "assign_ipv6": "true"`, 1280},
		} {
			r := request("ADD", container)
			r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "mtu": 1200, "ipam": {"type": "calico-ipam", ` + tt.families + `}}`)
			var result struct{ Interfaces []struct{ MTU int } }
			if err := json.Unmarshal(w.ok(r), &result); err != nil || len(result.Interfaces) == 0 || result.Interfaces[0].MTU != tt.want {
				t.Errorf("with %s: %+v, %v, want MTU %d", tt.families, result, err, tt.want)
			}
		}
		if asked := w.server.AskedMTUs(); len(asked) != 1 || asked["net1"] != 1200 {
			t.Errorf("asked for were %v", asked)
		}
		w.ok(request("ADD", "c4"))
		if asked := w.server.AskedMTUs(); len(asked) != 0 {
			t.Errorf("still asked for are %v", asked)
		}
	})(t)
}

// TestReleaseOfAnEndpointThatCannotBeStored: a journal may have an entry that was
// written before such names were refused.
func TestReleaseOfAnEndpointThatCannotBeStored(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		id := idOf(request("ADD", "c1"))
		err := w.journal.Put(journal.Entry{
			ID: id, State: journal.StateReleasing, Plugin: pluginCalico,
			Namespace: "n/s", Endpoint: "node1-k8s-a/b-eth0", HostIf: "cali01234567890", MAC: newMAC(),
		})
		if err != nil {
			t.Fatal(err)
		}
		w.held[handleOf(id)] = []netip.Addr{netip.MustParseAddr("10.65.0.9")}
		w.restart()
		w.wantNothing()
	})(t)
}

// TestPoolsThatNothingCarriesAreAvoidedByNewPodsAlone: STATUS says nothing of it, or the
// whole node would count as not ready, and the pods that run on it as well.
func TestPoolsThatNothingCarriesAreAvoidedByNewPodsAlone(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		first := w.ok(request("ADD", "c1"))
		w.uncarried = map[netip.Prefix]string{netip.MustParsePrefix("10.65.0.0/16"): "nothing carries it"}
		w.fault = func(step string) error {
			if step == "assign" {
				t.Error("a pod that runs is assigned addresses")
			}
			return nil
		}
		if again := w.ok(request("ADD", "c1")); string(again) != string(first) {
			t.Errorf("a repeated ADD answers %s, want %s", again, first)
		}
		check := request("CHECK", "c1")
		check.Config = json.RawMessage(strings.TrimSuffix(string(check.Config), "}") + `, "prevResult": ` + string(first) + `}`)
		w.ok(check)
		w.ok(request("STATUS", ""))
		w.ok(request("DEL", "c1"))
		w.fault = nil
		w.ok(request("ADD", "c2"))
		if d := cmp.Diff(w.uncarried, w.asked.Avoid, cmpopts.EquateComparable(netip.Prefix{})); d != "" {
			t.Errorf("a new pod avoids (-want +got):\n%s", d)
		}
	})(t)
}
