package cniserver

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"tortie/internal/control/cniwire"
)

// TestGCSaysAllThatFailed, on one line: it goes on past each failure.
func TestGCSaysAllThatFailed(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(delegatedRequest("ADD", "c1"))
		w.ok(delegatedRequest("ADD", "c2"))
		w.fault = func(step string) error {
			switch step {
			case "unwire":
				return errInjected
			case "release":
				return &cniwire.Error{Code: 117, Msg: "IPAM plugin host-local: GC: no", Details: "its own"}
			}
			return nil
		}
		if err := w.journal.Close(); err != nil {
			t.Fatal(err)
		}
		e := w.call(delegatedRequest("GC", "")).Error
		if e == nil || e.Code != cniwire.CodeInternal || strings.Count(e.Msg, "write journal: ") != 2 || !strings.Contains(e.Msg, "; IPAM plugin host-local: GC: no") || strings.Contains(e.Msg, "\n") {
			t.Errorf("error %+v", e)
		}
	})(t)
}

// TestGCWithAListThatCanNotBeTouchesNothing; null is what CNI's library writes for none.
func TestGCWithAListThatCanNotBeTouchesNothing(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(request("ADD", "c1"))
		gc := func(list string) cniwire.Request {
			r := request("GC", "")
			r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}, "cni.dev/valid-attachments": ` + list + `}`)
			return r
		}
		if msg := w.fails(gc(`[{"containerID": "c2", "ifname": "eth0"}, {"containerID": "../x", "ifname": "eth0"}]`), cniwire.CodeInvalidConfig); !strings.Contains(msg, `key "cni.dev/valid-attachments[1].containerID": "../x" can't be a container's ID; nothing was removed`) {
			t.Errorf("message %q", msg)
		}
		if len(w.devices) != 1 || len(w.owner) != 1 {
			t.Errorf("left are devices %v, addresses %v", w.devices, w.owner)
		}
		w.ok(gc("null"))
		w.wantNothing()
	})(t)
}

// TestCalicoIPAMNamedDirectly: GC and STATUS as a runtime sends them to the plugin of a
// network by the name calico-ipam.
func TestCalicoIPAMNamedDirectly(t *testing.T) {
	direct := func(command, container, more string) cniwire.Request {
		r := request(command, container)
		r.Plugin = pluginIPAM
		r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico-ipam", "ipam": {"type": "calico-ipam"}` + more + `}`)
		return r
	}
	inWorld(func(t *testing.T, w *world) {
		w.ok(direct("STATUS", "", ""))
		for _, container := range []string{"kept", "gone"} {
			w.ok(direct("ADD", container, ""))
		}
		w.ok(request("ADD", "pod")) // another plugin's attachment to the network of that name
		w.ok(direct("GC", "", `, "cni.dev/valid-attachments": [{"containerID": "kept", "ifname": "eth0"}]`))
		w.settled()
		var left []string
		for _, e := range w.journal.Entries() {
			left = append(left, e.ContainerID)
		}
		if slices.Sort(left); !slices.Equal(left, []string{"kept", "pod"}) || len(w.owner) != 2 {
			t.Errorf("left are %v, addresses %v", left, w.owner)
		}
		w.ok(direct("CHECK", "kept", ""))
		if msg := w.fails(direct("CHECK", "gone", ""), cniwire.CodeUnknownContainer); !strings.Contains(msg, "container gone has no interface eth0 in network net1") {
			t.Errorf("CHECK: %s", msg)
		}
		w.ok(direct("GC", "", `, "cni.dev/valid-attachments": []`))
		w.ok(request("DEL", "pod"))
		w.wantNothing()
		if msg := w.fails(direct("STATUS", "", `, "ipam": {"type": "calico-ipam", "ipv4_pools": ["gold"]}`), cniwire.CodeNotAvailable); !strings.Contains(msg, "of the IP pools that the network configuration names, gold, none is there") {
			t.Errorf("STATUS: %s", msg)
		}
	})(t)
}
