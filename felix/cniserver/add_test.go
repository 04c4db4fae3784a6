package cniserver

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/calc"
	"tortie/felix/podnet"
	"tortie/internal/api"
	"tortie/internal/control/cniwire"
	"tortie/internal/datastore"
)

func TestAddGivesContainerAddressRouteAndEndpoint(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(request("ADD", "cont0123456789abcdef"))

		wep := w.endpoint("default", "node1-cni-cont0123456789abcdef-eth0")
		mac := wep.Spec.MAC
		want := api.WorkloadEndpointSpec{
			Orchestrator: "cni", Node: "node1", ContainerID: "cont0123456789abcdef", Endpoint: "eth0",
			IPNetworks: []string{"10.65.0.1/32"}, Profiles: []string{"net1"}, InterfaceName: wep.Spec.InterfaceName, MAC: mac,
		}
		if diff := cmp.Diff(want, wep.Spec); diff != "" {
			t.Errorf("endpoint (-want +got):\n%s", diff)
		}
		labels := map[string]string{"projectcalico.org/namespace": "default", "projectcalico.org/orchestrator": "cni"}
		if diff := cmp.Diff(labels, wep.Labels); diff != "" {
			t.Errorf("labels (-want +got):\n%s", diff)
		}
		device, ok := w.devices[wep.Spec.InterfaceName]
		if !ok || !podnet.IsDeviceName(wep.Spec.InterfaceName) || device.Netns != "/run/netns/cont0123456789abcdef" || device.MTU != 1450 {
			t.Errorf("device %s: %+v", wep.Spec.InterfaceName, device)
		}
		route := w.routes[calc.EndpointID{Namespace: "default", Name: wep.Name}]
		if len(route.Addrs) != 1 || route.Interface != wep.Spec.InterfaceName {
			t.Errorf("route %+v", route)
		}
		profile, err := w.store.Get(context.Background(), api.Key{Kind: api.KindProfile, Name: "net1"})
		if err != nil {
			t.Fatal(err)
		}
		spec := profile.Object.(*v3.Profile).Spec
		if len(spec.Ingress) != 1 || spec.Ingress[0].Source.Selector != "has(net1)" || len(spec.Egress) != 1 || spec.LabelsToApply["net1"] != "" || len(spec.LabelsToApply) != 1 {
			t.Errorf("profile %+v", spec)
		}

		w.ok(request("DEL", "cont0123456789abcdef"))
		w.wantNothing()
	})(t)
}

func TestAddOfPodUsesUpstreamsNames(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		r := podRequest("ADD", "sandbox1", "my-pod")
		r.Config = json.RawMessage(`{"cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico", "ipam": {"type": "calico-ipam", "assign_ipv6": "true"}, "policy": {"type": "k8s"}}`)
		w.ok(r)
		wep := w.endpoint("ns1", "node1-k8s-my--pod-eth0")
		want := api.WorkloadEndpointSpec{
			Orchestrator: "k8s", Node: "node1", ContainerID: "sandbox1", Pod: "my-pod", Endpoint: "eth0",
			// The first 11 hex digits of SHA-1 of "ns1.my-pod".
			InterfaceName: "cali21f984b8c6d",
			IPNetworks:    []string{"10.65.0.1/32", "fd00::2/128"}, Profiles: []string{"kns.ns1"}, MAC: wep.Spec.MAC,
		}
		if diff := cmp.Diff(want, wep.Spec); diff != "" {
			t.Errorf("endpoint (-want +got):\n%s", diff)
		}
		if held := w.held["k8s-pod-network.sandbox1"]; len(held) != 2 {
			t.Errorf("addresses of the handle: %v", held)
		}
		if _, err := w.store.Get(context.Background(), api.Key{Kind: api.KindProfile, Name: "k8s-pod-network"}); err == nil {
			t.Error("a profile was written though the policy type is k8s")
		}
	})(t)
}

// TestEndpointOfAnAddIsEncodedTheQuickWay: the JSON encoder, which takes what the quick
// way doesn't, takes more than one piece of memory.
func TestEndpointOfAnAddIsEncodedTheQuickWay(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(request("ADD", "cont1"))
		r := podRequest("ADD", "sandbox1", "my-pod")
		r.Config = json.RawMessage(`{"cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico", "ipam": {"type": "calico-ipam", "assign_ipv6": "true"}, "policy": {"type": "k8s"}}`)
		w.ok(r)
		for _, wep := range []*api.WorkloadEndpoint{w.endpoint("default", "node1-cni-cont1-eth0"), w.endpoint("ns1", "node1-k8s-my--pod-eth0")} {
			least := math.Inf(1)
			for range 10 { // felix' own goroutines are counted, too, where they run meanwhile
				least = min(least, testing.AllocsPerRun(20, func() { _, _ = w.reg.Encode(wep, api.Unknown{}) }))
			}
			if least > 1 {
				t.Errorf("%s is encoded in %v pieces of memory", wep.Name, least)
			}
		}
	})(t)
}

func TestAddResultInEveryVersion(t *testing.T) {
	for _, v := range version.All.SupportedVersions() {
		t.Run(v, inWorld(func(t *testing.T, w *world) {
			r := request("ADD", "c1")
			r.Config = json.RawMessage(fmt.Sprintf(`{"cniVersion": %q, "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}, "dns": {"nameservers": ["10.0.0.10"]}}`, v))
			raw := w.ok(r)
			var head struct{ CNIVersion string }
			if err := json.Unmarshal(raw, &head); err != nil || head.CNIVersion != v {
				t.Fatalf("cniVersion %q, %v", head.CNIVersion, err)
			}
			result, err := version.NewResult(v, raw)
			if err != nil {
				t.Fatal(err)
			}
			got, err := types100.NewResultFromResult(result)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.IPs) != 1 || got.IPs[0].Address.String() != "10.65.0.1/32" || got.IPs[0].Gateway.String() != "169.254.1.1" {
				t.Errorf("ips %+v", got.IPs)
			}
			if len(got.Routes) != 1 || got.Routes[0].Dst.String() != "0.0.0.0/0" || len(got.DNS.Nameservers) != 1 {
				t.Errorf("routes %v, dns %v", got.Routes, got.DNS)
			}
			if v < "0.3.0" {
				return // no interfaces in those
			}
			if len(got.Interfaces) != 2 || got.Interfaces[0].Mac != hostMAC || got.Interfaces[0].Sandbox != "" ||
				got.Interfaces[1].Name != "eth0" || got.Interfaces[1].Sandbox != r.Netns || *got.IPs[0].Interface != 1 {
				t.Errorf("interfaces %s", raw)
			}
			if v == "1.1.0" && (got.Interfaces[0].Mtu != 1450 || got.Interfaces[1].Mtu != 1450) {
				t.Errorf("MTU missing: %s", raw)
			}
		}))
	}
}

func TestRepeatedAddAnswersTheSame(t *testing.T) {
	for _, plugin := range []string{"calico", "calico-ipam"} {
		t.Run(plugin, inWorld(func(t *testing.T, w *world) {
			r := request("ADD", "c1")
			r.Plugin = plugin
			first := w.ok(r)
			if diff := cmp.Diff(string(first), string(w.ok(r))); diff != "" {
				t.Errorf("second result (-first +second):\n%s", diff)
			}
			w.kill()
			w.restart()
			if diff := cmp.Diff(string(first), string(w.ok(r))); diff != "" {
				t.Errorf("result after a restart (-first +third):\n%s", diff)
			}
			if len(w.held["net1.c1"]) != 1 {
				t.Errorf("addresses %v", w.held)
			}
		}))
	}
}

func TestFailedRepetitionOfAddLeavesTheRunningPodAlone(t *testing.T) {
	for _, step := range []string{"wire", "wired", "write", "route", "routed"} {
		t.Run(step, inWorld(func(t *testing.T, w *world) {
			first := w.ok(request("ADD", "c1"))
			w.fault = failAt(step)
			w.fails(request("ADD", "c1"), cniwire.CodeInternal)
			w.fault = nil
			if len(w.devices) != 1 || len(w.routes) != 1 || len(w.held) != 1 || w.server.PendingReleases() != 0 {
				t.Errorf("devices %v, routes %v, addresses %v", w.devices, w.routes, w.held)
			}
			if diff := cmp.Diff(string(first), string(w.ok(request("ADD", "c1")))); diff != "" {
				t.Errorf("result (-first +later):\n%s", diff)
			}
		}))
	}
}

// failAt fails a step the first time it is reached.
func failAt(step string) func(string) error {
	var once sync.Once
	return func(s string) (err error) {
		if s == step {
			once.Do(func() { err = errInjected })
		}
		return err
	}
}

// addSteps are the points of an ADD, before and after each effect.
func addSteps() []string {
	return []string{"assign", "assigned", "wire", "wired", "write", "written", "route", "routed"}
}

func TestFailedAddLeavesNothingBehind(t *testing.T) {
	for _, step := range addSteps() {
		for _, undo := range []string{"", "unroute", "unwire", "release", "released"} {
			t.Run(step+" "+undo, inWorld(func(t *testing.T, w *world) {
				first, second := failAt(step), failAt(undo)
				w.fault = func(s string) error {
					if err := first(s); err != nil {
						return err
					}
					return second(s)
				}
				msg := w.fails(request("ADD", "c1"), cniwire.CodeInternal)
				if !strings.Contains(msg, "ADD: ") || !strings.Contains(msg, "injected failure") {
					t.Errorf("message %q", msg)
				}
				w.wantNothing()
				w.ok(request("ADD", "c1"))
			}))
		}
	}
}

func TestKillDuringAddLeavesNothingBehindAfterRestart(t *testing.T) {
	for _, step := range addSteps() {
		t.Run(step, inWorld(func(t *testing.T, w *world) {
			w.fault = w.killAt(step)
			w.call(request("ADD", "c1"))
			w.restart()
			w.wantNothing()
			w.ok(request("ADD", "c1"))
		}))
	}
}

func TestAddAnswersTryAgainLater(t *testing.T) {
	t.Run("before the datastore has been read", inWorld(func(t *testing.T, w *world) {
		w.store.SetUnavailable(true)
		w.kill()
		w.stop()
		w.dead = false
		w.start()
		w.server.health = func() error { return errInjected }
		if msg := w.fails(request("ADD", "c1"), cniwire.CodeTryAgainLater); !strings.Contains(msg, "node1") || !strings.Contains(msg, errInjected.Error()) {
			t.Errorf("message %q", msg)
		}
	}))
	t.Run("while the datastore is locked", inWorld(func(t *testing.T, w *world) {
		info := v3.NewClusterInformation()
		ready := false
		info.Name, info.Spec.DatastoreReady = "default", &ready
		w.put(info)
		w.await("the lock is seen", func() bool { return w.state.Ready() != nil })
		if msg := w.fails(request("ADD", "c1"), cniwire.CodeTryAgainLater); !strings.Contains(msg, "datastoreReady") {
			t.Errorf("message %q", msg)
		}
	}))
	t.Run("when the datastore is lost meanwhile", inWorld(func(t *testing.T, w *world) {
		w.fault = func(s string) error {
			if s == "write" {
				return datastore.ErrUnavailable
			}
			return nil
		}
		w.fails(request("ADD", "c1"), cniwire.CodeTryAgainLater)
	}))
}

func TestAddRefusesBadCalls(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		for name, tc := range map[string]struct {
			change func(*cniwire.Request)
			code   uint
		}{
			"other protocol version": {func(r *cniwire.Request) { r.Version = 99 }, cniwire.CodeInternal},
			"unknown plugin":         {func(r *cniwire.Request) { r.Plugin = "flannel" }, cniwire.CodeInvalidEnvironment},
			"unknown command":        {func(r *cniwire.Request) { r.Command = "ADDD" }, cniwire.CodeInvalidEnvironment},
			"no container":           {func(r *cniwire.Request) { r.ContainerID = "" }, cniwire.CodeInvalidEnvironment},
			"slash in container":     {func(r *cniwire.Request) { r.ContainerID = "a/b" }, cniwire.CodeInvalidEnvironment},
			"long interface":         {func(r *cniwire.Request) { r.IfName = "abcdefghijklmnop" }, cniwire.CodeInvalidEnvironment},
			"no namespace":           {func(r *cniwire.Request) { r.Netns = "" }, cniwire.CodeInvalidEnvironment},
			"requested address":      {func(r *cniwire.Request) { r.Args = "IP=ten" }, cniwire.CodeInvalidEnvironment},
			"broken JSON":            {func(r *cniwire.Request) { r.Config = json.RawMessage(`{"name":`) }, cniwire.CodeDecodingFailure},
			"unknown key":            {func(r *cniwire.Request) { r.Config = json.RawMessage(`{"name": "n", "type": "calico", "ipamm": {}}`) }, cniwire.CodeInvalidConfig},
			"other node": {func(r *cniwire.Request) {
				r.Config = json.RawMessage(`{"name": "n", "type": "calico", "nodename": "x", "ipam": {"type": "calico-ipam"}}`)
			}, cniwire.CodeInvalidConfig},
		} {
			r := request("ADD", "c1")
			tc.change(&r)
			resp := w.call(r)
			if resp.Error == nil || resp.Error.Code != tc.code || strings.Contains(resp.Error.Msg, "\n") {
				t.Errorf("%s: %+v, want code %d in one line", name, resp.Error, tc.code)
			}
		}
		w.wantNothing()
	})(t)
}

func TestNewSandboxTakesOverThePodsEndpoint(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(podRequest("ADD", "old", "web-0"))
		before := w.endpoint("ns1", "node1-k8s-web--0-eth0")
		w.await("the endpoint is seen", func() bool { return len(w.state.own()) == 1 })
		w.ok(podRequest("ADD", "new", "web-0"))
		w.ok(podRequest("DEL", "old", "web-0"))
		w.settled()

		wep := w.endpoint("ns1", "node1-k8s-web--0-eth0")
		if wep.Spec.ContainerID != "new" || wep.UID != before.UID || wep.Spec.IPNetworks[0] != "10.65.0.2/32" {
			t.Errorf("endpoint %+v", wep)
		}
		if len(w.held["net1.old"]) != 0 || len(w.held["net1.new"]) != 1 || len(w.devices) != 1 || len(w.routes) != 1 {
			t.Errorf("addresses %v, devices %v, routes %v", w.held, w.devices, w.routes)
		}
		w.ok(podRequest("DEL", "new", "web-0"))
		w.wantNothing()
	})(t)
}

func TestNewSandboxDeletedBeforeTheOldOne(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(podRequest("ADD", "old", "web-0"))
		w.ok(podRequest("ADD", "new", "web-0"))
		w.ok(podRequest("DEL", "new", "web-0"))
		w.settled()
		if len(w.devices) != 0 || len(w.routes) != 0 || len(w.held["net1.new"]) != 0 || len(w.held["net1.old"]) != 1 {
			t.Errorf("devices %v, routes %v, addresses %v", w.devices, w.routes, w.held)
		}
		w.kill()
		w.restart()
		w.ok(podRequest("DEL", "old", "web-0"))
		w.wantNothing()
	})(t)
}

func TestFailedAddOfNewSandboxLeavesTheOldDevice(t *testing.T) {
	for _, step := range []string{"assign", "wire"} {
		t.Run(step, inWorld(func(t *testing.T, w *world) {
			w.ok(podRequest("ADD", "old", "web-0"))
			w.fault = failAt(step)
			w.fails(podRequest("ADD", "new", "web-0"), cniwire.CodeInternal)
			w.settled()
			if len(w.devices) != 1 || len(w.held["net1.new"]) != 0 {
				t.Errorf("devices %v, addresses %v", w.devices, w.held)
			}
			w.ok(podRequest("DEL", "old", "web-0"))
			w.wantNothing()
		}))
	}
}

func TestStormOfAddsAndDels(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		var wg sync.WaitGroup
		for n := range 40 {
			wg.Go(func() {
				container := fmt.Sprintf("c%d", n)
				for range 5 {
					if resp := w.call(request("ADD", container)); resp.Error != nil {
						t.Errorf("ADD: %s", resp.Error.Msg)
					}
					if n%4 == 0 {
						wg.Go(func() { w.call(request("DEL", container)) })
					}
					if resp := w.call(request("DEL", container)); resp.Error != nil {
						t.Errorf("DEL: %s", resp.Error.Msg)
					}
				}
			})
		}
		wg.Wait()
		w.wantNothing()
	})(t)
}

func TestStormOfSandboxesOfOnePod(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		var wg sync.WaitGroup
		for n := range 16 {
			wg.Go(func() {
				container := fmt.Sprintf("s%d", n)
				if resp := w.call(podRequest("ADD", container, "web-0")); resp.Error != nil {
					t.Errorf("ADD: %s", resp.Error.Msg)
				}
				if resp := w.call(podRequest("DEL", container, "web-0")); resp.Error != nil {
					t.Errorf("DEL: %s", resp.Error.Msg)
				}
			})
		}
		wg.Wait()
		w.wantNothing()
	})(t)
}
