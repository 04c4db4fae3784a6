package cniserver

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tortie/felix/calc"
	"tortie/felix/podnet"
	"tortie/internal/api"
	"tortie/internal/control/cniwire"
	"tortie/internal/datastore"
)

func TestDelOfWhatNeverWasSucceeds(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		for _, r := range []cniwire.Request{request("DEL", "c1"), podRequest("DEL", "c2", "web-0")} {
			r.Netns = ""
			for range 3 {
				w.ok(r)
			}
		}
		r := request("DEL", "c3")
		r.Config = json.RawMessage(`{"name": "net1", "type": "calico", "ipamm": {}, "mtu": "many"}`)
		r.Args = "rubbish"
		w.ok(r)
		w.wantNothing()
	})(t)
}

func TestDelWorksWhileTheDatastoreIsAway(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(request("ADD", "c1"))
		w.store.SetUnavailable(true)
		w.fault = func(s string) error {
			if s == "release" {
				return datastore.ErrUnavailable
			}
			return nil
		}
		w.ok(request("DEL", "c1"))
		if len(w.devices) != 0 || len(w.routes) != 0 {
			t.Errorf("still there: devices %v, routes %v", w.devices, w.routes)
		}
		if len(w.held) != 1 {
			t.Error("the address was released without the datastore")
		}
		w.ok(request("DEL", "c1"))

		// The release survives a kill.
		w.kill()
		w.store.SetUnavailable(false)
		w.restart()
		w.wantNothing()
	})(t)
}

func TestDelOfAnUpstreamEndpointAfterAColdStartWithoutDatastore(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		// Attached by upstream's plugin: no journal knows it.
		id := calc.EndpointID{Namespace: "ns1", Name: "node1-k8s-web--0-eth0"}
		w.put(upstreamEndpoint(id, "old", "cali0123456789a"))
		w.devices["cali0123456789a"] = podnet.Attachment{HostIf: "cali0123456789a"}
		w.kill()
		w.store.SetUnavailable(true)
		w.stop()
		w.dead = false
		w.start()

		w.ok(podRequest("DEL", "old", "web-0"))
		if len(w.devices) != 1 {
			t.Error("a device was removed though nobody could tell whose it is")
		}
		w.store.SetUnavailable(false)
		w.wantNothing()
	})(t)
}

func TestDelOfAPodWithoutItsArguments(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(podRequest("ADD", "c1", "web-0"))
		w.ok(request("DEL", "c1"))
		w.wantNothing()
	})(t)
}

func TestDelRemovesTheDeviceThatUpstreamNamed(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		id := endpointID(testNode, argsOf(t, ""), idOf(request("DEL", "0123456789abcdef")))
		w.put(upstreamEndpoint(id, "0123456789abcdef", "cali0123456789a"))
		w.devices["cali0123456789a"] = podnet.Attachment{HostIf: "cali0123456789a"}
		w.await("the endpoint is seen", func() bool { return len(w.state.own()) == 1 })
		w.ok(request("DEL", "0123456789abcdef"))
		w.wantNothing()
	})(t)
}

func TestKillDuringDelIsFinishedAfterRestart(t *testing.T) {
	for _, step := range []string{"unroute", "unrouted", "unwire", "unwired", "release", "released", "write", "written"} {
		t.Run(step, inWorld(func(t *testing.T, w *world) {
			w.ok(request("ADD", "c1"))
			died := make(chan struct{})
			w.fault = func(s string) error {
				if s == step {
					w.kill()
					select {
					case <-died:
					default:
						close(died)
					}
					return errDead
				}
				return nil
			}
			w.call(request("DEL", "c1"))
			<-died
			w.restart()
			// A runtime that got no answer asks again.
			w.ok(request("DEL", "c1"))
			w.wantNothing()
		}))
	}
}

func TestFailedStepsOfDelAreTriedAgain(t *testing.T) {
	for _, step := range []string{"unroute", "unwire", "release", "released", "write", "written"} {
		t.Run(step, inWorld(func(t *testing.T, w *world) {
			w.ok(request("ADD", "c1"))
			w.fault = failAt(step)
			w.ok(request("DEL", "c1"))
			w.wantNothing()
		}))
	}
}

func TestAddressIsKeptWhileTheDeviceCannotBeRemoved(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(request("ADD", "c1"))
		stuck := func(s string) error {
			if s == "unwire" || s == "unroute" {
				return errInjected
			}
			return nil
		}
		w.mu.Lock()
		w.fault = stuck
		w.mu.Unlock()
		w.ok(request("DEL", "c1"))
		if len(w.held) != 1 || w.server.PendingReleases() != 1 {
			t.Errorf("addresses %v, %d pending", w.held, w.server.PendingReleases())
		}
		w.mu.Lock()
		w.fault = nil
		w.mu.Unlock()
		w.wantNothing()
	})(t)
}

func TestOneInterfaceOfTwoKeepsTheHandle(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		second := request("ADD", "c1")
		second.IfName = "net1"
		w.ok(request("ADD", "c1"))
		w.ok(second)
		if len(w.devices) != 2 {
			t.Fatalf("devices %v", w.devices)
		}
		w.ok(request("DEL", "c1"))
		w.settled()
		if len(w.held["net1.c1"]) != 2 || len(w.devices) != 1 {
			t.Errorf("addresses %v, devices %v", w.held, w.devices)
		}
		second.Command = "DEL"
		w.ok(second)
		w.wantNothing()
	})(t)
}

func TestDelReleasesTheHandleOfOldUpstreamVersions(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.held["c1"] = nil
		w.ok(request("DEL", "c1"))
		w.wantNothing()
	})(t)
}

func TestIPAMPluginAssignsAndReleases(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		r := request("ADD", "c1")
		r.Plugin, r.Netns = "calico-ipam", ""
		r.Config = json.RawMessage(`{"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br0", "ipam": {"type": "calico-ipam"}}`)
		var result struct {
			IPs []struct{ Address string }
		}
		if err := json.Unmarshal(w.ok(r), &result); err != nil || len(result.IPs) != 1 || result.IPs[0].Address != "10.65.0.1/26" {
			t.Fatalf("result %+v, %v", result, err)
		}
		if len(w.devices)+len(w.routes)+len(w.endpoints()) != 0 {
			t.Error("the IPAM plugin made more than an address")
		}
		r.Command = "CHECK"
		w.ok(r)
		r.Command = "DEL"
		w.ok(r)
		w.wantNothing()
		r.Command = "CHECK"
		w.fails(r, cniwire.CodeUnknownContainer)
	})(t)
}

func TestCheckNamesEachDifference(t *testing.T) {
	for name, tc := range map[string]struct {
		tamper func(w *world)
		says   string
	}{
		"nothing": {func(*world) {}, ""},
		"device":  {func(w *world) { clear(w.devices) }, "the node's device is missing"},
		"route":   {func(w *world) { clear(w.routes) }, "the node has no route to the pod"},
		"address": {func(w *world) { clear(w.held) }, "address 10.65.0.1 is not assigned to handle net1.c1"},
		"endpoint": {func(w *world) {
			key := api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "default", Name: "node1-cni-c1-eth0"}
			if _, err := w.store.Txn(context.Background(), datastore.DeleteAny(key)); err != nil {
				w.t.Fatal(err)
			}
		}, "is missing"},
		"endpoint's address": {func(w *world) {
			wep := w.endpoint("default", "node1-cni-c1-eth0")
			wep.Spec.IPNetworks, wep.Spec.InterfaceName = []string{"10.65.9.9/32"}, "cali00000000000"
			w.put(wep)
		}, "lacks address 10.65.0.1"},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			result := w.ok(request("ADD", "c1"))
			tc.tamper(w)
			r := request("CHECK", "c1")
			r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}, "prevResult": ` + string(result) + `}`)
			if tc.says == "" {
				w.ok(r)
				return
			}
			if msg := w.fails(r, cniwire.CodeInternal); !strings.Contains(msg, tc.says) {
				t.Errorf("message %q, want %q", msg, tc.says)
			}
		}))
	}
}

func TestStatusSaysWhyNot(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(request("STATUS", ""))
		node := api.Key{Kind: api.KindNode, Name: testNode}
		stored, err := w.store.Get(context.Background(), node)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Txn(context.Background(), datastore.DeleteAny(node)); err != nil {
			t.Fatal(err)
		}
		w.await("the node is gone", func() bool { return !w.state.HasNode() })
		if msg := w.fails(request("STATUS", ""), cniwire.CodeNotAvailable); !strings.Contains(msg, "no Node resource named node1") {
			t.Errorf("message %q", msg)
		}
		w.put(stored.Object)
		w.await("the node is back", w.state.HasNode)
		if _, err := w.store.Txn(context.Background(), datastore.DeleteAny(api.Key{Kind: api.KindIPPool, Name: "pool1"})); err != nil {
			t.Fatal(err)
		}
		w.await("the pool is gone", func() bool { return len(w.state.poolsOf(4, nil)) == 0 })
		if msg := w.fails(request("STATUS", ""), cniwire.CodeNotAvailable); !strings.Contains(msg, "no enabled IP pool") {
			t.Errorf("message %q", msg)
		}
		w.server.health = func() error { return datastore.ErrUnavailable }
		if msg := w.fails(request("STATUS", ""), cniwire.CodeNotAvailable); !strings.Contains(msg, "datastore") {
			t.Errorf("message %q", msg)
		}
	})(t)
}

func TestGCReleasesWhatTheRuntimeDoesNotKnow(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		other := request("ADD", "elsewhere")
		other.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net2", "type": "calico", "ipam": {"type": "calico-ipam"}}`)
		w.ok(request("ADD", "kept"))
		w.ok(request("ADD", "gone"))
		w.ok(other)
		w.putBlock(map[string]string{"net1.orphan": testNode, "net1.kept": testNode, "net1.far": "node2", "net1.x.y": testNode})
		w.held["net1.orphan"], w.held["net1.far"], w.held["net1.x.y"] = nil, nil, nil

		r := request("GC", "")
		r.IfName, r.Netns = "", ""
		r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"},
		"cni.dev/valid-attachments": [{"containerID": "kept", "ifname": "eth0"}]}`)
		w.ok(r)
		w.settled()
		for handle, want := range map[string]bool{
			"net1.kept": true, "net1.gone": false, "net2.elsewhere": true,
			"net1.orphan": false, "net1.far": true, "net1.x.y": true,
		} {
			if _, got := w.held[handleID(handle)]; got != want {
				t.Errorf("handle %s held: %t, want %t", handle, got, want)
			}
		}
		if len(w.devices) != 2 || len(w.routes) != 2 || len(w.endpoints()) != 2 {
			t.Errorf("devices %v, routes %v, endpoints %v", w.devices, w.routes, w.endpoints())
		}
	})(t)
}

func TestGCWithoutAProperListTouchesNothing(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(request("ADD", "g0"))
		w.ok(podRequest("ADD", "g1", "pod1"))
		r := request("GC", "")
		r.IfName, r.Netns = "", ""
		for _, list := range []string{
			`"type": "calico"`,
			`"cni.dev/valid-attachments": [{}]`,
			`"cni.dev/valid-attachments": [null]`,
			`"cni.dev/valid-attachments": [{"containerID": "g0"}]`,
			`"cni.dev/valid-attachments": "none"`,
		} {
			r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}, ` + list + `}`)
			if msg := w.fails(r, cniwire.CodeInvalidConfig); !strings.Contains(msg, "cni.dev/valid-attachments") {
				t.Errorf("%s: message %q", list, msg)
			}
		}
		w.settled()
		if len(w.devices) != 2 || len(w.routes) != 2 || len(w.held) != 2 || len(w.endpoints()) != 2 {
			t.Errorf("devices %v, routes %v, addresses %v, endpoints %v", w.devices, w.routes, w.held, w.endpoints())
		}
		r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}, "cni.dev/attachments": []}`)
		w.ok(r)
		w.wantNothing()
	})(t)
}

func TestListenReplacesAStaleSocketOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calico", "felix-cni.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another felix") {
		t.Errorf("a second listener: %v", err)
	}
	// As a killed felix leaves it: the name without a listener.
	if err := l.(*listener).UnixListener.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket's name stays after closing")
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in the way: %v", err)
	}
}
