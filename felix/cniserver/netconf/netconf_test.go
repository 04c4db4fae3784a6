package netconf

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/google/go-cmp/cmp"
)

// with is a valid configuration with more keys.
func with(keys string) []byte {
	if keys != "" {
		keys = ", " + keys
	}
	return []byte(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}` + keys + `}`)
}

func ipam(keys string) []byte {
	return []byte(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam", ` + keys + `}}`)
}

func TestParseTakesUpstreamsDefaults(t *testing.T) {
	got, err := Parse("calico", with(""))
	if err != nil {
		t.Fatal(err)
	}
	want := Conf{CNIVersion: "1.1.0", Name: "net1", NodeKey: "nodename", IPAM: IPAM{IPv4: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func TestParseReadsEveryServedKey(t *testing.T) {
	got, err := Parse("calico", []byte(`{
		"name": "net1", "type": "calico", "mtu": 1400, "num_queues": 4, "nodename": "node1", "datastore_type": "etcdv3",
		"felix_socket": "/run/x.sock", "include_default_routes": true,
		"ipam": {"type": "calico-ipam", "assign_ipv4": "false", "assign_ipv6": "true", "ipv4_pools": ["10.0.0.0/16", "pool-a"], "ipv6_pools": ["fd00::/48"]},
		"policy": {"type": "k8s", "k8s_api_root": "https://10.0.0.1"},
		"container_settings": {"allow_ip_forwarding": true},
		"dns": {"nameservers": ["10.0.0.10"]}, "runtimeConfig": {"dns": {"servers": ["10.0.0.11"], "searches": ["a.b"], "options": ["ndots:5"]}, "portMappings": []},
		"feature_control": {"ip_addrs_no_ipam": true, "floating_ips": true}, "example": {"kept": true},
		"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Conf{
		CNIVersion: "0.2.0", Name: "net1", NodeName: "node1", NodeKey: "nodename", MTU: 1400, NumQueues: 4, PolicyK8s: true, AllowIPForwarding: true,
		NoIPAM: true, FloatingIPs: true, Unread: []string{"example"},
		IPAM: IPAM{IPv6: true, Pools4: []string{"10.0.0.0/16", "pool-a"}, Pools6: []string{"fd00::/48"}},
		DNS:  types.DNS{Nameservers: []string{"10.0.0.11"}, Search: []string{"a.b"}, Options: []string{"ndots:5"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func TestParseRefusesByName(t *testing.T) {
	for _, tc := range []struct {
		conf []byte
		key  string
		says string
	}{
		{with(`"ipamm": {}`), "ipamm", `did you mean ipam?`},
		{with(`"numqueues": 2`), "numqueues", `did you mean num_queues?`},
		{with(`"Capabilities": {"ips": true}`), "Capabilities", `did you mean capabilities?`},
		{with(`"MTU": 1400`), "MTU", `did you mean mtu?`},
		{with(`"mut": 1400`), "mut", `did you mean mtu?`},
		{with(`"nodeName": "node1"`), "nodeName", `did you mean nodename?`},
		{with(`"mtu": 70000`), "mtu", "out of range"},
		{with(`"mtu": 20`), "mtu", "68"},
		{with(`"mtu": "1400"`), "mtu", "want a number, not string"},
		{with(`"num_queues": -1`), "num_queues", "out of range"},
		{with(`"feature_control": {"floating_ip": true}`), "feature_control.floating_ip", "did you mean floating_ips?"},
		{with(`"feature_control": {"floating_ips": "yes"}`), "feature_control.floating_ips", "want true or false, not string"},
		{with(`"feature_control": []`), "feature_control", "want an object"},
		{with(`"policy": {"type": "calico"}`), "policy.type", "want k8s"},
		{with(`"policy": {"typ": "k8s"}`), "policy.typ", "did you mean type?"},
		{with(`"policy": []`), "policy", "want an object"},
		{with(`"container_settings": {"allow_forwarding": true}`), "container_settings.allow_forwarding", "unknown key"},
		{with(`"runtimeConfig": {"ips": ["10.0.0"]}`), "runtimeConfig.ips", `"10.0.0" is no address`},
		{with(`"runtimeConfig": {"ips": ["10.0.0.1/24", "10.0.0.2/24"]}`), "runtimeConfig.ips", "second address of its IP version"},
		{with(`"runtimeConfig": {"mac": "ab:bb:cc:dd:ee:ff"}`), "runtimeConfig.mac", "not the MAC address of one interface"},
		{with(`"runtimeConfig": {"mac": "aa:bb"}`), "runtimeConfig.mac", `"aa:bb" is no MAC address`},
		{with(`"runtimeConfig": {"mac": "ee:ee:ee:ee:ee:ee"}`), "runtimeConfig.mac", "the node's end"},
		{with(`"args": {"cni": {"ips": ["ten"]}}`), "args.cni.ips", `"ten" is no address`},
		{with(`"args": {"cni": {"mac": "ten"}}`), "args.cni.mac", `"ten" is no MAC address`},
		{with(`"runtimeConfig": {"bandwidth": {"ingressRate": 999}}`), "runtimeConfig.bandwidth.ingressRate", `999: want 1k to 1P bits a second`},
		{with(`"runtimeConfig": {"bandwidth": {"egressRate": -1}}`), "runtimeConfig.bandwidth.egressRate", `-1: want 1k to 1P bits a second`},
		{with(`"runtimeConfig": {"bandwidth": {"egressBurst": 8000}}`), "runtimeConfig.bandwidth.egressBurst", `means nothing alone; give egressRate as well`},
		{with(`"capabilities": {"bandwidth": "yes"}`), "capabilities", "want"},
		{with(`"runtimeConfig": {"portMappings": [{"hostPort": 70000, "containerPort": 80}]}`), "runtimeConfig.portMappings[0].hostPort", "70000 is no port"},
		{with(`"runtimeConfig": {"portMappings": [{"containerPort": 81}, {"hostPort": 80}]}`), "runtimeConfig.portMappings[1].containerPort", "0 is no port"},
		{with(`"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}]}`), "runtimeConfig.portMappings[0].protocol", `"icmp" is not known; want tcp, udp or sctp`},
		{with(`"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "hostIP": "node1"}]}`), "runtimeConfig.portMappings[0].hostIP", `"node1" is no address`},
		{with(`"runtimeConfig": {"portMappings": "all"}`), "runtimeConfig.portMappings", "want a list, not string"},
		{with(`"prevResult": {"cniVersion": "9.9.9"}`), "prevResult", "is not a CNI result of version 1.1.0"},
		{with(`"prevResult": {}`), "prevResult", "is not a CNI result of version 1.1.0; give what ADD answered"},
		{with(`"prevResult": 5`), "prevResult", "want an object, not number"},
		{with(`"prevResult": []`), "prevResult", "want an object, not array"},
		{with(`"prevResult": {"cniVersion": "1.1.0", "ips": "x"}`), "prevResult", "ips: want a list, not string"},
		{with(`"prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "ten"}]}`), "prevResult", "is not a CNI result"},
		{with(`"prevResult": {"cniVersion": "1.1.0", "interfaces": [null]}`), "prevResult.interfaces", "an element that is null"},
		{with(`"prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.1/8"}, null]}`), "prevResult.ips", "an element that is null"},
		{with(`"prevResult": {"cniVersion": "1.1.0", "routes": [null]}`), "prevResult.routes", "an element that is null"},
		{[]byte(`[]`), "", "want an object, not array"},
		{[]byte(`5`), "", "want an object, not number"},
		{[]byte(`{"name": "a/b", "type": "calico", "ipam": {"type": "calico-ipam"}}`), "name", `"a/b"`},
		{ipam(`"assign_ipv4": "false"`), "ipam.assign_ipv4", "no address family"},
		{ipam(`"assign_ipv4": "maybe"`), "ipam.assign_ipv4", `"maybe" is not "true" or "false"`},
		{ipam(`"assign_ipv6": 1`), "ipam.assign_ipv6", `1 is not "true" or "false"`},
		{ipam(`"ipv4_pools": "gold"`), "ipam.ipv4_pools", "want a list, not string"},
		{with(`"args": 5`), "args", "want an object, not number"},
		{with(`"args": {"cni": 5}`), "args.cni", "want an object, not number"},
		{with(`"args": {"cni": {"ips": "10.65.0.9"}}`), "args.cni.ips", "want a list, not string"},
		{with(`"args": {"cni": {"mac": 7}}`), "args.cni.mac", "want a string, not number"},
		{with(`"cniVersions": [1, 2]`), "cniVersions", "want a string, not number"},
		{with(`"cniVersions": "1.0.0"`), "cniVersions", "want a list, not string"},
		{with(`"disableCheck": "x"`), "disableCheck", `"x" is not "true" or "false"`},
		{with(`"disableGC": 3`), "disableGC", `3 is not "true" or "false"`},
		{with(`"plugins": {}`), "plugins", "want a list, not object"},
		{with(`"dns": {"nameservers": ["notip"]}`), "dns.nameservers", `"notip" is no address`},
		{with(`"runtimeConfig": {"dns": {"servers": ["notip"]}}`), "runtimeConfig.dns.servers", `"notip" is no address`},
		{with(`"runtimeConfig": {"bandwidth": {"ingressRate": "10M"}}`), "runtimeConfig.bandwidth.ingressRate", "want a number, not string"},
		{with(`"mtu": 1.5`), "mtu", "want a whole number, not 1.5"},
		{with(`"mtu": 99999999999999999999`), "mtu", "99999999999999999999 is out of range"},
		{with(`"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}, {"hostPort": 8080, "containerPort": 81, "protocol": "TCP"}]}`), "runtimeConfig.portMappings[1].hostPort", "8080/tcp is to lead to the pod's port 80 and to 81; give one"},
		{with(`"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "hostIP": "0.0.0.0"}, {"hostPort": 8080, "containerPort": 81}]}`), "runtimeConfig.portMappings[1].hostPort", "give one"},
		{ipam(`"ipv4_pools": ["10.0.0.1/16"]`), "ipam.ipv4_pools", "did you mean 10.0.0.0/16?"},
		{ipam(`"ipv4_pools": ["10.0.0.0/99"]`), "ipam.ipv4_pools", "is not a CIDR"},
		{ipam(`"ipv4_pools": ["fd00::/48"]`), "ipam.ipv4_pools", "other address family"},
		{ipam(`"ipv6_pools": [""]`), "ipam.ipv6_pools", "empty entry"},
		{ipam(`"assign_ip4": "true"`), "ipam.assign_ip4", "did you mean assign_ipv4?"},
		{[]byte(`{"name": "net1", "type": "calico"}`), "ipam", "missing"},
		{[]byte(`{"name": "net1", "type": "calico", "ipam": {}}`), "ipam.type", "missing"},
		{[]byte(`{"name": "net1", "type": "calico", "ipam": {"type": "../host-local"}}`), "ipam.type", `can't be a plugin`},
		{[]byte(`{"name": "net1", "type": "calico", "ipam": {"type": "calico"}}`), "ipam.type", `"calico" is no IPAM plugin; use calico-ipam`},
		{[]byte(`{"name": "net1", "type": "calico", "ipam": {"type": "felix"}}`), "ipam.type", `is no IPAM plugin`},
		{[]byte(`{"name": "net1", "type": "calico", "ipam": {"type": "install-cni"}}`), "ipam.type", `is no IPAM plugin`},
		{[]byte(`{"name": "net1", "type": "calico", "ipam": {"type": "loopback"}}`), "ipam.type", `is no IPAM plugin`},
		{[]byte(`{"type": "calico", "ipam": {"type": "calico-ipam"}}`), "name", "missing"},
	} {
		t.Run(fmt.Sprintf("%s %s", tc.key, tc.says), func(t *testing.T) {
			_, err := Parse("calico", tc.conf)
			var wrong *Error
			if !errors.As(err, &wrong) || wrong.Key != tc.key || wrong.Unsupported || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v; want one about %q that says %q", err, tc.key, tc.says)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q has several lines", err)
			}
		})
	}
}

func TestParseToleratesWhatIsNotItsOwn(t *testing.T) {
	for _, keys := range []string{
		`"capabilities": {"portMappings": true}, "ipMasq": true, "args": {"cni": {}}, "disableCheck": true, "cniVersions": ["1.0.0"]`,
		`"cni.dev/attachments": [], "io.example/x": 1, "example.org": 2`,
		`"etcd_endpoints": "http://a:2379", "log_level": "info", "kubernetes": {"kubeconfig": "/x"}, "qps": 100`,
		`"policy": null, "container_settings": null, "prevResult": null, "feature_control": {"floating_ips": false}`,
		`"feature_control": null, "runtimeConfig": null, "args": null`,
		`"disableCheck": "true", "disableGC": false, "loadOnlyInlinedPlugins": "False", "plugins": [{}], "dns": {"nameservers": ["fe80::1%eth0"]}`,
		`"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80}, {"hostPort": 80, "containerPort": 80}, {"hostPort": 80, "containerPort": 81, "protocol": "udp"}, {"hostPort": 80, "containerPort": 81, "hostIP": "192.0.2.1"}]}`,
	} {
		if _, err := Parse("calico", with(keys)); err != nil {
			t.Errorf("%s: %v", keys, err)
		}
	}
}

// TestUnknownKeysAreKeptAndNamed: only one that must be a typing error is refused
// (TestParseRefusesByName).
func TestUnknownKeysAreKeptAndNamed(t *testing.T) {
	for _, tc := range []struct {
		conf []byte
		want string // as the log has them
	}{
		{with(`"zzzzzzzzzzz": 2, "vlan": {"id": 7}`), "[vlan zzzzzzzzzzz]"},
		{with(`"mac": "x", "ips": []`), "[ips mac]"},
		{with(`"policy": {"k8s_token": "x"}, "container_settings": {"hostname": "a"}, "feature_control": {"jumbo": true}`), "[policy.k8s_token container_settings.hostname feature_control.jumbo]"},
		{ipam(`"rangeStart": "10.0.0.9"`), "[ipam.rangeStart]"},
		{with(`"cni.dev/attachments": [], "example.org": 2`), "[]"}, // whose they are is clear
		{[]byte(`{"name": "n", "type": "calico", "ipam": {"type": "host-local", "asign_ipv4": 3}}`), "[]"},
	} {
		c, err := Parse("calico", tc.conf)
		if got := fmt.Sprint(c.Unread); err != nil || got != tc.want {
			t.Errorf("%s: unread %s, %v; want %s", tc.conf, got, err, tc.want)
		}
	}
}

// TestUnderAnotherMainPluginTheIPAMPartAloneIsRead: the outer object is that plugin's,
// whatever stands in it.
func TestUnderAnotherMainPluginTheIPAMPartAloneIsRead(t *testing.T) {
	conf := []byte(`{"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "eth0", "mode": "bridge", "policy": 3, "mtu": "large", "ipamm": {},
		"num_queues": -1, "capabilities": 5, "runtimeConfig": {"mac": 7, "portMappings": "all"}, "feature_control": [], "windows_loopback_DSR": true,
		"ipam": {"type": "calico-ipam", "assign_ipv6": true, "rangeStart": "10.0.0.9"}}`)
	got, err := Parse("calico-ipam", conf)
	if err != nil {
		t.Fatal(err)
	}
	want := Conf{CNIVersion: "1.0.0", Name: "lan", NodeKey: "nodename", IPAM: IPAM{IPv4: true, IPv6: true}, Unread: []string{"ipam.rangeStart"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

// TestWhatTheRuntimeAsksFor goes by CNI's conventions: its capability before args, each
// for itself; CNI_ARGS and annotations come behind them (felix/cniserver).
func TestWhatTheRuntimeAsksFor(t *testing.T) {
	const argsMAC, capMAC = "02:00:00:00:00:0a", "02:00:00:00:00:0c"
	for _, tc := range []struct{ name, runtime, args, addrs, mac string }{
		{"nothing", `{}`, `{}`, "[]", ""},
		{"capability", `{"ips": ["10.0.0.7/24", "fd00::7"], "mac": "` + capMAC + `"}`, `{}`, "[10.0.0.7 fd00::7]", capMAC},
		{"args", `{}`, `{"ips": ["10.0.0.8"], "mac": "` + argsMAC + `"}`, "[10.0.0.8]", argsMAC},
		{"both", `{"ips": ["10.0.0.7"], "mac": "` + capMAC + `"}`, `{"ips": ["10.0.0.8"], "mac": "` + argsMAC + `"}`, "[10.0.0.7]", capMAC},
		{"one by the capability", `{"mac": "` + capMAC + `"}`, `{"ips": ["10.0.0.8"], "mac": "` + argsMAC + `"}`, "[10.0.0.8]", capMAC},
		{"the other by the capability", `{"ips": ["10.0.0.7"]}`, `{"ips": ["10.0.0.8"], "mac": "` + argsMAC + `"}`, "[10.0.0.7]", argsMAC},
		{"an empty list", `{"ips": []}`, `{"ips": ["10.0.0.8"]}`, "[10.0.0.8]", ""},
	} {
		keys := `"runtimeConfig": ` + tc.runtime + `, "args": {"cni": ` + tc.args + `}`
		c, err := Parse("calico", with(keys))
		if got := fmt.Sprint(c.Addrs); err != nil || got != tc.addrs || c.MAC != tc.mac {
			t.Errorf("%s: %s, %q, %v", tc.name, got, c.MAC, err)
		}
		c, err = Parse("calico-ipam", with(keys))
		if got := fmt.Sprint(c.Addrs); err != nil || got != tc.addrs || c.MAC != "" {
			t.Errorf("%s, calico-ipam: %s, %q, %v", tc.name, got, c.MAC, err)
		}
	}
}

func TestParseAttachmentsGuessesNothing(t *testing.T) {
	const one = `[{"containerID": "c1", "ifname": "eth0"}]`
	for conf, want := range map[string][]ValidAttachment{
		`{"cni.dev/valid-attachments": ` + one + `}`:                            {{"c1", "eth0"}},
		`{"cni.dev/attachments": ` + one + `}`:                                  {{"c1", "eth0"}},
		`{"cni.dev/attachments": [], "cni.dev/valid-attachments": ` + one + `}`: {{"c1", "eth0"}},
		`{"cni.dev/valid-attachments": []}`:                                     {},
		`{"cni.dev/valid-attachments": null}`:                                   {},
	} {
		got, err := ParseAttachments([]byte(conf))
		if err != nil {
			t.Errorf("%s: %v", conf, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", conf, diff)
		}
	}
	for conf, key := range map[string]string{
		`{}`:                                    "cni.dev/valid-attachments",
		`{"cni.dev/valid-attachments": [{}]}`:   "cni.dev/valid-attachments[0].containerID",
		`{"cni.dev/valid-attachments": [null]}`: "cni.dev/valid-attachments[0].containerID",
		`{"cni.dev/attachments": [{"ifname": "eth0"}]}`:                              "cni.dev/attachments[0].containerID",
		`{"cni.dev/valid-attachments": [{"containerID": "g0"}]}`:                     "cni.dev/valid-attachments[0].ifname",
		`{"cni.dev/valid-attachments": [{"containerID": "g0", "ifname": ""}]}`:       "cni.dev/valid-attachments[0].ifname",
		`{"cni.dev/valid-attachments": [{"containerID": 7, "ifname": "eth0"}]}`:      "cni.dev/valid-attachments[0].containerID",
		`{"cni.dev/valid-attachments": {"containerID": "g0"}}`:                       "cni.dev/valid-attachments",
		`{"cni.dev/valid-attachments": "all"}`:                                       "cni.dev/valid-attachments",
		`{"cni.dev/valid-attachments": [{"containerID": "../x", "ifname": "eth0"}]}`: "cni.dev/valid-attachments[0].containerID",
		`{"cni.dev/valid-attachments": [{"containerID": "g0", "ifname": "et h0"}]}`:  "cni.dev/valid-attachments[0].ifname",
		`{"cni.dev/valid-attachments": ["g0"]}`:                                      "cni.dev/valid-attachments",
	} {
		_, err := ParseAttachments([]byte(conf))
		var wrong *Error
		if !errors.As(err, &wrong) || wrong.Key != key || strings.Contains(err.Error(), "Go ") {
			t.Errorf("%s: error %v, want one about %s", conf, err, key)
		}
	}
}

// TestNamesAreThoseOfCNI, as its library has them.
func TestNamesAreThoseOfCNI(t *testing.T) {
	for _, id := range []string{"", "a", "A-b_c.9", "9", ".a", "-a", "_a", "a/b", "../x", "a b", "ä", "aä", "a\x00"} {
		if got, want := CanBeContainer(id), utils.ValidateContainerID(id) == nil; got != want {
			t.Errorf("container %q: %t", id, got)
		}
	}
	for name, can := range map[string]struct{ be, pods bool }{
		"eth0": {true, true}, "eth0.1": {true, true}, "lo": {true, false}, "all": {true, false}, "default": {true, false},
		"": {}, ".": {}, "..": {}, "a/b": {}, "a:b": {}, "a b": {}, "a\u00a0b": {}, "eth%d": {}, "ü": {}, "abcdefghijklmnop": {},
	} {
		if CanBeInterface(name) != can.be || CanBePods(name) != can.pods {
			t.Errorf("interface %q: %t, %t", name, CanBeInterface(name), CanBePods(name))
		}
	}
}

func TestParseIdentityIgnoresWhatIsWrong(t *testing.T) {
	if id, err := ParseIdentity([]byte(`{"name": "net1", "ipam": {"type": "calico"}}`)); err != nil || id.Delegate() != "" {
		t.Errorf("the plugin itself has assigned addresses: %q, %v", id.Delegate(), err) // DEL would run it, and it felix
	}
	got, err := ParseIdentity(with(`"ipamm": {}, "mtu": "many"`))
	if err != nil || got.Name != "net1" {
		t.Errorf("identity %+v, %v", got, err)
	}
	if _, err := ParseIdentity([]byte(`{}`)); err == nil {
		t.Error("a configuration without a name was taken")
	}
}

func TestParseArgs(t *testing.T) {
	for _, tc := range []struct {
		args string
		want Args
		says string
	}{
		{"", Args{}, ""},
		{"IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=x;FOO=1", Args{K8sNamespace: "ns1", K8sPod: "web-0", K8sUID: "x"}, ""},
		{"FOO=1", Args{}, `unknown key "FOO"`},
		{"K8S_POD_NAME=web-0", Args{}, "give both"},
		{"K8S_POD_NAMESPACE=1;K8S_POD_NAME=a.b-c.0", Args{K8sNamespace: "1", K8sPod: "a.b-c.0"}, ""},
		{"K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=a/b", Args{}, `K8S_POD_NAME: "a/b" can't be`},
		{"K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=Web", Args{}, `K8S_POD_NAME: "Web" can't be`},
		{"K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=a..b", Args{}, `K8S_POD_NAME: "a..b" can't be`},
		{"K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=-a", Args{}, `K8S_POD_NAME: "-a" can't be`},
		{"K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=a_b", Args{}, `K8S_POD_NAME: "a_b" can't be`},
		{"K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=aäb", Args{}, `can't be`},
		{"K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=" + strings.Repeat("a", 253), Args{K8sNamespace: "ns1", K8sPod: strings.Repeat("a", 253)}, ""},
		{"K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=" + strings.Repeat("a", 254), Args{}, "can't be"},
		{"K8S_POD_NAMESPACE=n/s;K8S_POD_NAME=web-0", Args{}, `K8S_POD_NAMESPACE: "n/s" can't be`},
		{"K8S_POD_NAMESPACE=n.s;K8S_POD_NAME=web-0", Args{}, `K8S_POD_NAMESPACE: "n.s" can't be`},
		{"K8S_POD_NAMESPACE=" + strings.Repeat("a", 64) + ";K8S_POD_NAME=web-0", Args{}, "K8S_POD_NAMESPACE"},
		{"IP=10.0.0.1", Args{IP: netip.MustParseAddr("10.0.0.1")}, ""},
		{"IP=10.0.0", Args{}, "is no address"},
		{"rubbish", Args{}, "KEY=VALUE"},
	} {
		got, err := ParseArgs(tc.args)
		if tc.says == "" && (err != nil || got != tc.want) || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%q: %+v, %v", tc.args, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(with(`"ipamm": {}`))
	f.Add(ipam(`"ipv4_pools": ["10.0.0.1/16"]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		conf, err := Parse("calico", raw)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "network configuration: ") {
				t.Fatalf("error without its subject: %v", err)
			}
			return
		}
		if conf.Name == "" || conf.CNIVersion == "" || !conf.IPAM.IPv4 && !conf.IPAM.IPv6 && conf.IPAM.Delegate == "" {
			t.Fatalf("unusable configuration %+v from %s", conf, raw)
		}
		if id, err := ParseIdentity(raw); err != nil || id.Name != conf.Name {
			t.Fatalf("DEL would not find network %q: %v", conf.Name, err)
		}
	})
}
