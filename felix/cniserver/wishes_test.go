package cniserver

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"tortie/internal/api"
	"tortie/internal/control/cniwire"
)

// annotated makes pod web-0 one that asks for something.
func (w *world) annotated(annotation, value string) {
	pod := kubernetesPod("", "sa")
	pod.Annotations = map[string]string{"cni.projectcalico.org/" + annotation: value}
	w.pods = map[string]*corev1.Pod{"ns1/web-0": pod}
}

// configured is a request for web-0 with more in its configuration.
func configured(command, more string) cniwire.Request {
	r := kubernetesRequest(command, "c1", "u1")
	r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"}` + more + `}`)
	return r
}

func TestAddGivesWhatAPodAsksFor(t *testing.T) {
	const mac, noIPAM = "02:00:00:00:00:07", `, "feature_control": {"ip_addrs_no_ipam": true}`
	for name, tc := range map[string]struct {
		annotation, value, more, args string
		addr, mac                     string
		free                          bool // assigned by nobody
	}{
		"hwAddr":              {annotation: "hwAddr", value: mac, addr: "10.65.0.1/32", mac: mac},
		"ipAddrs":             {annotation: "ipAddrs", value: `["10.65.3.3"]`, addr: "10.65.3.3/32"},
		"ipAddrsNoIpam":       {annotation: "ipAddrsNoIpam", value: `["192.0.2.9"]`, more: noIPAM, addr: "192.0.2.9/32", free: true},
		"ipFamilies":          {annotation: "ipFamilies", value: `["IPv6"]`, addr: "fd00::1/128"},
		"capability ips":      {more: `, "runtimeConfig": {"ips": ["10.65.3.4/24"]}`, addr: "10.65.3.4/32"},
		"capability mac":      {more: `, "runtimeConfig": {"mac": "` + mac + `"}`, addr: "10.65.0.1/32", mac: mac},
		"args of CNI":         {more: `, "args": {"cni": {"ips": ["10.65.3.6"], "mac": "` + mac + `", "labels": []}}`, addr: "10.65.3.6/32", mac: mac},
		"args of others":      {more: `, "args": {"org.apache.mesos": {"network_info": 1}, "cni": {"labels": 5}}`, addr: "10.65.0.1/32"},
		"CNI_ARGS":            {args: ";IP=10.65.3.5", addr: "10.65.3.5/32"},
		"runtime's":           {more: `, "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"cni.projectcalico.org/hwAddr": "` + mac + `"}}`, addr: "10.65.0.1/32", mac: mac},
		"capability is first": {annotation: "ipAddrs", value: `["10.65.3.3"]`, more: `, "runtimeConfig": {"ips": ["10.65.3.4"]}`, addr: "10.65.3.4/32"},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			if tc.annotation != "" {
				w.annotated(tc.annotation, tc.value)
			}
			add := configured("ADD", tc.more)
			add.Args += tc.args
			result := string(w.ok(add))
			spec := w.endpoint("ns1", "node1-k8s-web--0-eth0").Spec
			if !slices.Equal(spec.IPNetworks, []string{tc.addr}) || !strings.Contains(result, `"`+tc.addr+`"`) || tc.mac != "" && (spec.MAC != tc.mac || !strings.Contains(result, tc.mac)) {
				t.Errorf("endpoint %+v, result %s", spec, result)
			}
			if assigned := len(w.owner) == 1; assigned == tc.free {
				t.Errorf("assigned: %v", w.owner)
			}
			w.pods = nil // a repeated ADD asks nobody again
			if again := string(w.ok(add)); again != result {
				t.Errorf("a repeated ADD answers %s", again)
			}
			w.ok(configured("CHECK", tc.more))
			w.ok(configured("DEL", ""))
			w.wantNothing()
		}))
	}
}

func TestPoolsOfAPodsAnnotationReplaceTheConfigurations(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.annotated("ipv4pools", `["pool-a"]`)
		w.ok(configured("ADD", ""))
		if !slices.Equal(w.asked.Pools4, []string{"pool-a"}) {
			t.Errorf("pools %v", w.asked.Pools4)
		}
	})(t)
}

// TestNamespaceAsksForItsPods: a pod's own annotations go before it, and what can't be is
// named as the namespace's.
func TestNamespaceAsksForItsPods(t *testing.T) {
	const prefix = "cni.projectcalico.org/"
	for name, tc := range map[string]struct {
		namespace, pod map[string]string
		pools          []string
		addrs          int
		says           string
	}{
		"none":               {nil, nil, nil, 0, ""},
		"namespace":          {map[string]string{prefix + "ipv4pools": `["ns-pool"]`}, nil, []string{"ns-pool"}, 0, ""},
		"pod first":          {map[string]string{prefix + "ipv4pools": `["ns-pool"]`}, map[string]string{prefix + "ipv4pools": `["pod-pool"]`}, []string{"pod-pool"}, 0, ""},
		"pod asks otherwise": {map[string]string{prefix + "ipv4pools": `["ns-pool"]`}, map[string]string{prefix + "ipAddrs": `["10.65.3.3"]`}, nil, 1, ""},
		"wrong":              {map[string]string{prefix + "ipv4pools": `ns-pool`}, nil, nil, 0, `annotation cni.projectcalico.org/ipv4pools of namespace ns1: "ns-pool": want a list`},
		"wrong, empty":       {nil, map[string]string{prefix + "ipv4pools": ``}, nil, 0, `annotation cni.projectcalico.org/ipv4pools of the pod: "": want a list`},
		"wrong in the pod":   {map[string]string{prefix + "ipv4pools": `["ns-pool"]`}, map[string]string{prefix + "hwAddr": `x`}, nil, 0, `annotation cni.projectcalico.org/hwAddr of the pod: "x" is no MAC`},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			pod := kubernetesPod("", "sa")
			pod.Annotations = tc.pod
			w.pods, w.namespaces = map[string]*corev1.Pod{"ns1/web-0": pod}, map[string]map[string]string{"ns1": tc.namespace}
			if tc.says != "" {
				if msg := w.fails(configured("ADD", ""), cniwire.CodeInvalidConfig); !strings.HasPrefix(msg, tc.says) || strings.Contains(msg, "\n") {
					t.Errorf("message %q", msg)
				}
				return
			}
			w.ok(configured("ADD", ""))
			if !slices.Equal(w.asked.Pools4, tc.pools) || len(w.asked.Addrs) != tc.addrs {
				t.Errorf("asked for %+v", w.asked)
			}
		}))
	}
}

// TestNamespaceThatWasNotToldOfInTimeIsNamed: felix waits for nobody.
func TestNamespaceThatWasNotToldOfInTimeIsNamed(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.pods, w.namespaces = map[string]*corev1.Pod{"ns1/web-0": kubernetesPod("", "sa")}, nil
		w.ok(configured("ADD", ""))
		if lines := w.server.Unheeded(); len(lines) > 0 {
			t.Errorf("before Kubernetes has told: %v", lines)
		}
		w.namespaces = map[string]map[string]string{"ns1": {"cni.projectcalico.org/ipv4pools": `["gold"]`}}
		if line := w.server.Unheeded()["ns1/web-0"]; !strings.Contains(line, "or its namespace's, cni.projectcalico.org/ipv4pools") {
			t.Errorf("line %q", line)
		}
	})(t)
}

// TestPodThatCameTooLateToBeHeededIsNamed, and only that.
func TestPodThatCameTooLateToBeHeededIsNamed(t *testing.T) {
	for name, tc := range map[string]struct{ annotation, value, named string }{
		"address": {"ipAddrs", `["10.65.3.3"]`, "ipAddrs"}, "pool": {"ipv4pools", `["gold"]`, "ipv4pools"}, "refused": {"floatingIPs", `["10.65.3.3"]`, "floatingIPs"},
		"MAC address": {"hwAddr", "02:00:00:00:00:07", "hwAddr"}, "family": {"ipFamilies", `["IPv6"]`, "ipFamilies"}, "free address": {"ipAddrsNoIpam", `["192.0.2.9"]`, "ipAddrsNoIpam"},
		"its own address": {"ipAddrs", `["10.65.0.1"]`, ""}, "its own pool": {"ipv4pools", `["pool1"]`, ""}, "its own family": {"ipFamilies", `["IPv4"]`, ""},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			w.ok(configured("ADD", ""))
			if lines := w.server.Unheeded(); len(lines) > 0 {
				t.Errorf("before Kubernetes has told: %v", lines)
			}
			w.annotated(tc.annotation, tc.value)
			line := w.server.Unheeded()["ns1/web-0"]
			if tc.named == "" && line != "" || !strings.Contains(line, tc.named) {
				t.Errorf("line %q, want one about %q", line, tc.named)
			}
			w.ok(configured("DEL", ""))
			if lines := w.server.Unheeded(); len(lines) > 0 {
				t.Errorf("after DEL: %v", lines)
			}
		}))
	}
}

// TestAddRefusesWhatItCanNotGive, before anything is assigned.
func TestAddRefusesWhatItCanNotGive(t *testing.T) {
	for name, tc := range map[string]struct{ annotation, value, says string }{
		"floating":       {"floatingIPs", `["10.65.0.9"]`, `annotation cni.projectcalico.org/floatingIPs of the pod: the network configuration does not allow it; add "feature_control": {"floating_ips": true}`},
		"sources":        {"allowedSourcePrefixes", `["10.0.0.0/8"]`, "annotation cni.projectcalico.org/allowedSourcePrefixes of the pod: set workloadSourceSpoofing: Any"},
		"not allowed":    {"ipAddrsNoIpam", `["192.0.2.9"]`, `add "feature_control": {"ip_addrs_no_ipam": true}`},
		"no MAC address": {"hwAddr", "x", `"x" is no MAC address`},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			w.annotated(tc.annotation, tc.value)
			if msg := w.fails(configured("ADD", ""), cniwire.CodeInvalidConfig); !strings.Contains(msg, tc.says) || strings.Contains(msg, "\n") {
				t.Errorf("message %q", msg)
			}
			w.wantNothing()
		}))
	}
	t.Run("address of another plugin", inWorld(func(t *testing.T, w *world) {
		w.annotated("ipAddrs", `["192.0.2.8"]`)
		r := delegatedRequest("ADD", "c1")
		r.Args = kubernetesRequest("ADD", "c1", "u1").Args
		if msg := w.fails(r, cniwire.CodeInvalidConfig); !strings.Contains(msg, "ask it by the capability ips") {
			t.Errorf("message %q", msg)
		}
		w.wantNothing()
	}))
}

const floatingAllowed = `, "feature_control": {"floating_ips": true}`

// TestAddGivesWhatIsPermittedBesidesAddresses, and returns when the packet rules stand.
func TestAddGivesWhatIsPermittedBesidesAddresses(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.permits = permits{sources: true, floating: true}
		w.annotated("allowedSourcePrefixes", `["192.0.2.1/24"]`)
		w.pods["ns1/web-0"].Annotations["cni.projectcalico.org/floatingIPs"] = `["10.65.9.9"]`
		var settled atomic.Bool
		w.fault = func(step string) error {
			if step == "settled" {
				settled.Store(true)
			}
			return nil
		}
		w.ok(configured("ADD", floatingAllowed))
		check := func(when string, want api.WorkloadEndpointSpec) {
			t.Helper()
			got := w.endpoint("ns1", "node1-k8s-web--0-eth0").Spec
			if !slices.Equal(got.AllowSpoofedSourcePrefixes, want.AllowSpoofedSourcePrefixes) || !slices.Equal(got.IPNATs, want.IPNATs) {
				t.Errorf("%s: %+v", when, got)
			}
		}
		asked := api.WorkloadEndpointSpec{
			AllowSpoofedSourcePrefixes: []string{"192.0.2.0/24"}, IPNATs: []api.IPNAT{{InternalIP: "10.65.0.1", ExternalIP: "10.65.9.9"}},
		}
		check("after ADD", asked)
		if device := w.devices[podDevice(t, w)]; !device.ManySources || !settled.Load() {
			t.Errorf("device %+v, rules awaited: %v", device, settled.Load())
		}
		// What an operator changes since is kept by a repeated ADD, and not for the next pod.
		wep := w.endpoint("ns1", "node1-k8s-web--0-eth0").DeepCopyObject().(*api.WorkloadEndpoint)
		wep.Spec.AllowSpoofedSourcePrefixes, wep.Spec.IPNATs = nil, nil
		w.put(wep)
		w.ok(configured("ADD", floatingAllowed))
		check("after an operator's change and ADD again", api.WorkloadEndpointSpec{})
		next := kubernetesRequest("ADD", "c2", "u1")
		next.Config = configured("ADD", floatingAllowed).Config
		w.ok(next)
		asked.IPNATs[0].InternalIP = "10.65.0.2"
		check("after a new sandbox", asked)
	})(t)
}

func podDevice(t *testing.T, w *world) string {
	t.Helper()
	return w.endpoint("ns1", "node1-k8s-web--0-eth0").Spec.InterfaceName
}

func TestAddWithAFloatingAddressOfAnotherVersionLeavesNothing(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.permits = permits{floating: true}
		w.annotated("floatingIPs", `["fd00::9"]`)
		if msg := w.fails(configured("ADD", floatingAllowed), cniwire.CodeInvalidConfig); !strings.Contains(msg, "fd00::9 is of an IP version that the pod has no address of") {
			t.Errorf("message %q", msg)
		}
		w.wantNothing()
	})(t)
}

func TestAddRefusesAFloatingAddressByName(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.annotated("floatingIPs", `["10.65.9.9"]`)
		if msg := w.fails(configured("ADD", floatingAllowed), cniwire.CodeInvalidConfig); !strings.Contains(msg, "annotation cni.projectcalico.org/floatingIPs of the pod: 10.65.9.9: set floatingIPs: Enabled") {
			t.Errorf("message %q", msg)
		}
		w.wantNothing()
	})(t)
}

// TestCalicoIPAMGivesWhatIsAskedFor under another main plugin: what the runtime says there
// is not lost (TestWhatTheRuntimeAsksFor has the order).
func TestCalicoIPAMGivesWhatIsAskedFor(t *testing.T) {
	for name, tc := range map[string]struct{ more, args, want string }{
		"capability":        {`, "runtimeConfig": {"ips": ["10.65.3.4"]}, "args": {"cni": {"ips": ["10.65.3.5"]}}`, ";IP=10.65.3.6", "10.65.3.4"},
		"args of CNI":       {`, "args": {"cni": {"ips": ["10.65.3.5"]}}`, ";IP=10.65.3.6", "10.65.3.5"},
		"CNI_ARGS":          {``, ";IP=10.65.3.6", "10.65.3.6"},
		"none":              {``, "", "10.65.0.1"},
		"the MAC is others": {`, "runtimeConfig": {"mac": "02:00:00:00:00:07"}`, "", "10.65.0.1"},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			r := request("ADD", "c1")
			r.Plugin, r.Args = pluginIPAM, r.Args+tc.args
			r.Config = json.RawMessage(`{"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "ipam": {"type": "calico-ipam"}` + tc.more + `}`)
			if result := string(w.ok(r)); !strings.Contains(result, `"`+tc.want+`/26"`) {
				t.Errorf("result %s, want %s", result, tc.want)
			}
			r.Command = "DEL"
			w.ok(r)
			w.wantNothing()
		}))
	}
	t.Run("ranges are of others", inWorld(func(t *testing.T, w *world) {
		r := request("ADD", "c1")
		r.Plugin = pluginIPAM
		r.Config = json.RawMessage(`{"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "ipam": {"type": "calico-ipam"}, "runtimeConfig": {"ipRanges": [[{"subnet": "10.0.0.0/24"}]]}}`)
		if msg := w.fails(r, cniwire.CodeUnsupportedField); !strings.Contains(msg, "calico-ipam has IP pools") {
			t.Errorf("message %q", msg)
		}
		w.wantNothing()
	}))
}

// TestWhoseWishGoesFirst: the runtime's, by CNI's conventions, then the pod's, then the
// configuration's.
func TestWhoseWishGoesFirst(t *testing.T) {
	const mac = `"mac": "02:00:00:00:00:07"`
	const capability, args, cniArgs, annotation = `"runtimeConfig": {"ips": ["10.65.3.1"]}`, `"args": {"cni": {"ips": ["10.65.3.2"], "mac": "02:00:00:00:00:08"}}`, "IP=10.65.3.3", `["10.65.3.4"]`
	for _, tc := range []struct{ name, capability, args, cniArgs, annotation, want, mac string }{
		{"capability", capability, args, cniArgs, annotation, "10.65.3.1", "02:00:00:00:00:08"},
		{"capability for the MAC address alone", `"runtimeConfig": {` + mac + `}`, args, cniArgs, annotation, "10.65.3.2", "02:00:00:00:00:07"},
		{"args of CNI", "", args, cniArgs, annotation, "10.65.3.2", "02:00:00:00:00:08"},
		{"CNI_ARGS", "", "", cniArgs, annotation, "10.65.3.3", ""},
		{"annotation", "", "", "", annotation, "10.65.3.4", ""},
		{"configuration", "", "", "", "", "10.65.0.1", ""},
	} {
		t.Run(tc.name, inWorld(func(t *testing.T, w *world) {
			if tc.annotation != "" {
				w.annotated("ipAddrs", tc.annotation)
			}
			more := ""
			for _, key := range []string{tc.capability, tc.args} {
				if key != "" {
					more += ", " + key
				}
			}
			r := configured("ADD", more)
			r.Args += ";" + tc.cniArgs
			w.ok(r)
			spec := w.endpoint("ns1", "node1-k8s-web--0-eth0").Spec
			if !slices.Equal(spec.IPNetworks, []string{tc.want + "/32"}) || tc.mac != "" && spec.MAC != tc.mac {
				t.Errorf("endpoint %+v", spec)
			}
		}))
	}
	t.Run("capability before addresses that nobody assigns", inWorld(func(t *testing.T, w *world) {
		w.annotated("ipAddrsNoIpam", `["192.0.2.9"]`)
		w.ok(configured("ADD", `, "feature_control": {"ip_addrs_no_ipam": true}, `+capability))
		addr := netip.MustParseAddr("10.65.3.1")
		if e := w.journal.Entries()[0]; e.Given || !slices.Equal(e.Addrs, []netip.Addr{addr}) || w.owner[addr] == "" {
			t.Errorf("entry %+v", e)
		}
	}))
	t.Run("CNI_ARGS of another IPAM plugin's is that one's", inWorld(func(t *testing.T, w *world) {
		r := delegatedRequest("ADD", "c1")
		r.Args += ";IP=192.0.2.8"
		w.ok(r)
		if !strings.Contains(w.delegated.Args, "IP=192.0.2.8") {
			t.Errorf("it got %q", w.delegated.Args)
		}
	}))
}
