package netconf

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// keyCase is what becomes of one key: with value, a configuration is read otherwise than
// without (works), in the same way (ignored), or refused by name (refused).
type keyCase struct{ key, state, value string }

// everyKey has the keys of upstream's plugin in etcd mode, those of the specification, and
// our own.
func everyKey() []keyCase {
	const works, ignored, refused = "works", "ignored", "refused"
	return []keyCase{
		{"cniVersion", works, `"0.4.0"`},
		{"name", works, `"net2"`},
		{"dns", works, `{"nameservers": ["192.0.2.53"]}`},
		{"prevResult", works, `{"cniVersion": "1.1.0"}`},
		{"capabilities", works, `{"bandwidth": true}`},
		{"args.cni", works, `{"ips": ["10.0.0.9"]}`},
		{"args.org.apache.mesos", ignored, `{"network_info": {"labels": {"labels": [{"key": "a", "value": "b"}]}}}`},
		{"cniVersions", ignored, `["1.0.0"]`},
		{"disableCheck", ignored, `true`},
		{"disableGC", ignored, `true`},
		{"loadOnlyInlinedPlugins", ignored, `true`},
		{"plugins", ignored, `[]`},
		{"ipMasq", ignored, `true`},

		{"runtimeConfig.dns", works, `{"servers": ["192.0.2.53"], "searches": ["a.b"]}`},
		{"runtimeConfig.ips", works, `["10.0.0.9"]`},
		{"runtimeConfig.mac", works, `"02:00:00:00:00:09"`},
		{"runtimeConfig.bandwidth", works, `{"ingressRate": 1000000}`},
		{"runtimeConfig.portMappings", works, `[{"hostPort": 80, "containerPort": 80}]`},
		{"runtimeConfig.io.kubernetes.cri.pod-annotations", works, `{"a": "b"}`},
		{"runtimeConfig.ipRanges", refused, `[[{"subnet": "10.0.0.0/24"}]]`},

		{"ipam.type", works, `"host-local"`},
		{"ipam.assign_ipv4", works, `"false"`},
		{"ipam.assign_ipv6", works, `"true"`},
		{"ipam.ipv4_pools", works, `["gold"]`},
		{"ipam.ipv6_pools", works, `["gold"]`},
		{"ipam.subnet", refused, `"usePodCidr"`},
		{"ipam.name", ignored, `"x"`},

		{"mtu", works, `1400`},
		{"num_queues", works, `4`},
		{"container_settings.allow_ip_forwarding", works, `true`},
		{"feature_control.ip_addrs_no_ipam", works, `true`},
		{"feature_control.floating_ips", works, `true`},
		{"policy.type", works, `"k8s"`},
		{"nodename", works, `"node2"`},
		{"hostname", works, `"node2"`},
		{"datastore_type", works, `"kubernetes"`},
		{"include_default_routes", works, `false`},

		{"nodename_file", ignored, `"/nowhere"`},
		{"nodename_file_optional", ignored, `true`},
		{"require_mtu_file", ignored, `true`},
		{"etcd_endpoints", ignored, `"http://a:2379"`},
		{"etcd_discovery_srv", ignored, `"example.org"`},
		{"etcd_authority", ignored, `"a:2379"`},
		{"etcd_scheme", ignored, `"https"`},
		{"etcd_key_file", ignored, `"/nowhere"`},
		{"etcd_cert_file", ignored, `"/nowhere"`},
		{"etcd_ca_cert_file", ignored, `"/nowhere"`},
		{"ipam_lock_file", ignored, `"/nowhere"`},
		{"log_level", ignored, `"debug"`},
		{"log_file_path", ignored, `"/nowhere"`},
		{"log_file_max_size", ignored, `1`},
		{"log_file_max_age", ignored, `1`},
		{"log_file_max_count", ignored, `1`},
		{"kubernetes.k8s_api_root", ignored, `"https://a"`},
		{"kubernetes.kubeconfig", ignored, `"/nowhere"`},
		{"kubernetes.node_name", ignored, `"node2"`},
		{"policy.k8s_api_root", ignored, `"https://a"`},
		{"policy.k8s_auth_token", ignored, `"x"`},
		{"policy.k8s_client_certificate", ignored, `"/nowhere"`},
		{"policy.k8s_client_key", ignored, `"/nowhere"`},
		{"policy.k8s_certificate_authority", ignored, `"/nowhere"`},
		{"qps", ignored, `100`},
		{"burst", ignored, `100`},
		{"calico_api_group", ignored, `"projectcalico.org/v3"`},
		{"policy_setup_timeout_seconds", ignored, `10`},
		{"endpoint_status_dir", ignored, `"/nowhere"`},

		{"mode", refused, `"vxlan"`},
		{"vxlan_mac_prefix", refused, `"EE-EE"`},
		{"vxlan_vni", refused, `4096`},
		{"dataplane_options", refused, `{"type": "grpc"}`},
		{"readiness_gates", refused, `["http://localhost:9099"]`},
		{"windows_use_single_network", refused, `true`},
		{"windows_disable_default_deny_all_policy", refused, `true`},
		{"windows_pod_deletion_timestamp_timeout", refused, `600`},
		{"windows_loopback_DSR", refused, `true`},
	}
}

// conf is a configuration with the key, at its place.
func (k keyCase) conf() []byte {
	object, key, nested := strings.Cut(k.key, ".")
	switch {
	case object == "ipam" && key == "type":
		return []byte(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": ` + k.value + `}}`)
	case object == "ipam":
		both := `"assign_ipv6": "true", `
		if key == "assign_ipv6" {
			both = ""
		}
		return ipam(both + fmt.Sprintf("%q: %s", key, k.value))
	case nested:
		return with(fmt.Sprintf("%q: {%q: %s}", object, key, k.value))
	}
	return with(fmt.Sprintf("%q: %s", k.key, k.value)) // of two keys of one name the last holds
}

// without is the same without it.
func (k keyCase) without() []byte {
	if strings.HasPrefix(k.key, "ipam.") && k.key != "ipam.type" && k.key != "ipam.assign_ipv6" {
		return ipam(`"assign_ipv6": "true"`)
	}
	return with("")
}

func TestEveryKeyOfTheNetworkConfigurationHasItsPlace(t *testing.T) {
	for _, k := range everyKey() {
		t.Run(k.key, func(t *testing.T) {
			plain, err := Parse("calico", k.without())
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse("calico", k.conf())
			diff := cmp.Diff(plain, got, sameAddr)
			wrong, refused := errors.AsType[*Error](err)
			switch k.state {
			case "works":
				if diff == "" && err == nil {
					t.Errorf("%s changes nothing", k.conf())
				}
			case "ignored":
				if diff != "" || err != nil {
					t.Errorf("%s: %v (-without +with):\n%s", k.conf(), err, diff)
				}
			case "refused":
				begins := k.value[:min(len(k.value), 8)]
				if !refused || !wrong.Unsupported || wrong.Key != k.key || !strings.Contains(strings.ReplaceAll(wrong.Error(), " ", ""), strings.ReplaceAll(begins, " ", "")) {
					t.Errorf("%s: %v", k.conf(), err)
				}
			}
			if len(got.Unread) > 0 {
				t.Errorf("%s is unknown", k.key)
			}
		})
	}
}

// TestThePageHasEveryKey, with what becomes of it, and no other.
func TestThePageHasEveryKey(t *testing.T) {
	page, err := os.ReadFile("../../../docs/cni.md")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for line := range strings.Lines(string(page)) {
		columns := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(columns) != 3 || !slices.Contains([]string{"works", "ignored", "refused"}, strings.TrimSpace(columns[1])) {
			continue
		}
		for i, word := range strings.Split(columns[0], "`") {
			if i%2 == 1 {
				said[word] = strings.TrimSpace(columns[1])
			}
		}
	}
	want := map[string]string{}
	for _, k := range everyKey() {
		if strings.HasPrefix(k.key, "windows_") {
			k.key = "windows_…"
		}
		want[k.key] = k.state
	}
	// What concerns the plugin and the runtime alone is read by them.
	for _, key := range []string{"type", "felix_socket"} {
		want[key] = "works"
	}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Errorf("docs/cni.md (-want +page):\n%s", diff)
	}
	for known := range maps.Keys(mainKeys()) {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(want)), func(key string) bool { return key == known || strings.HasPrefix(key, known+".") }) {
			t.Errorf("the key %s is in no table", known)
		}
	}
}
