package netconf

import (
	"strings"

	"tortie/internal/suggest"
)

// support says what becomes of a key of the network configuration.
type support int

const (
	// used: read here.
	used support = iota + 1
	// ignored: harmless, because felix does itself what the key asks the plugin
	// for, or because it concerns another program.
	ignored
	// refused: it asks for something this version does not do. Accepting it would
	// give a pod another network than its operator wrote.
	refused
)

// mainKeys are the keys of the plugin's own object: those of the CNI
// specification and upstream's.
func mainKeys() map[string]support {
	return map[string]support{
		// CNI 1.1.0, sections 1 and 3, with what runtimes add.
		"cniVersion": used, "cniVersions": ignored, "name": used, "type": used, "ipam": used, "dns": used,
		"disableCheck": ignored, "disableGC": ignored, "loadOnlyInlinedPlugins": ignored, "plugins": ignored,
		"capabilities": ignored, "runtimeConfig": used, "prevResult": used, "args": used, "ipMasq": ignored,

		"mtu": used, "num_queues": used, "policy": used, "container_settings": used, "felix_socket": used,
		"nodename": used,

		// The plugin has no datastore connection, no credentials and no log file: felix does.
		"nodename_file": ignored, "nodename_file_optional": ignored, "hostname": ignored,
		"etcd_endpoints": ignored, "etcd_discovery_srv": ignored, "etcd_authority": ignored, "etcd_scheme": ignored,
		"etcd_key_file": ignored, "etcd_cert_file": ignored, "etcd_ca_cert_file": ignored,
		"ipam_lock_file": ignored, "log_level": ignored, "log_file_path": ignored, "log_file_max_size": ignored,
		"log_file_max_age": ignored, "log_file_max_count": ignored, "kubernetes": ignored, "qps": ignored, "burst": ignored,
		"calico_api_group": ignored, "require_mtu_file": ignored,
		// ADD returns when the route is in the kernel: there is nothing more to wait for.
		"policy_setup_timeout_seconds": ignored, "endpoint_status_dir": ignored,

		"datastore_type": used, // checked: etcdv3 alone
		"mode":           refused, "vxlan_mac_prefix": refused, "vxlan_vni": refused,
		"feature_control":        used, // refused when it asks for something
		"include_default_routes": used, "readiness_gates": refused, "dataplane_options": refused,
		"windows_use_single_network": refused, "windows_disable_host_subnet_nat_exclusion": refused,
		"windows_pause_container_hns": refused, "windows_loopback_DSR": refused,
	}
}

// ipamKeys are the keys of the ipam object of calico-ipam.
func ipamKeys() map[string]support {
	return map[string]support{
		"type": used, "assign_ipv4": used, "assign_ipv6": used, "ipv4_pools": used, "ipv6_pools": used,
		"name": ignored, "subnet": refused,
	}
}

// policyKeys are the keys of the policy object. felix reads Kubernetes itself,
// so the access data is ignored.
func policyKeys() map[string]support {
	return map[string]support{
		"type": used, "k8s_api_root": ignored, "k8s_auth_token": ignored, "k8s_client_certificate": ignored,
		"k8s_client_key": ignored, "k8s_certificate_authority": ignored,
	}
}

// containerKeys are the keys of the container_settings object.
func containerKeys() map[string]support { return map[string]support{"allow_ip_forwarding": used} }

// checkKeys refuses keys that are unknown or ask for what is not done. where is
// the object they stand in, empty for the outermost.
func checkKeys(where string, present []string, known map[string]support) error {
	for _, key := range present {
		path := key
		if where != "" {
			path = where + "." + key
		}
		switch known[key] {
		case used, ignored:
		case refused:
			return &Error{Key: path, Reason: "not supported by this version; remove it"}
		default:
			if foreign(key) {
				continue
			}
			reason := "unknown key"
			if near := suggest.Nearest(key, usedKeys(known)); near != "" {
				reason += "; did you mean " + near + "?"
			} else {
				reason += "; remove it"
			}
			return &Error{Key: path, Reason: reason}
		}
	}
	return nil
}

// foreign reports whether a key is of someone else's name space, such as
// "cni.dev/valid-attachments" or "io.kubernetes.cri.pod-annotations".
func foreign(key string) bool { return strings.ContainsAny(key, "./") }

// usedKeys are the keys worth suggesting.
func usedKeys(known map[string]support) []string {
	var keys []string
	for key, s := range known {
		if s == used {
			keys = append(keys, key)
		}
	}
	return keys
}
