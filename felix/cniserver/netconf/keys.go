package netconf

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
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
		"capabilities": used, "runtimeConfig": used, "prevResult": used, "args": used, "ipMasq": ignored,

		"mtu": used, "num_queues": used, "policy": used, "container_settings": used, "felix_socket": used,
		"nodename": used, "hostname": used,

		// The plugin has no datastore connection, no credentials and no log file: felix
		// does, and it knows the node's name and MTU.
		"nodename_file": ignored, "nodename_file_optional": ignored,
		"etcd_endpoints": ignored, "etcd_discovery_srv": ignored, "etcd_authority": ignored, "etcd_scheme": ignored,
		"etcd_key_file": ignored, "etcd_cert_file": ignored, "etcd_ca_cert_file": ignored,
		"ipam_lock_file": ignored, "log_level": ignored, "log_file_path": ignored, "log_file_max_size": ignored,
		"log_file_max_age": ignored, "log_file_max_count": ignored, "kubernetes": ignored, "qps": ignored, "burst": ignored,
		"calico_api_group": ignored, "require_mtu_file": ignored,
		// ADD returns when the route is in the kernel: there is nothing more to wait for.
		"policy_setup_timeout_seconds": ignored, "endpoint_status_dir": ignored,

		"datastore_type": used, // checked: etcdv3 alone
		"mode":           refused, "vxlan_mac_prefix": refused, "vxlan_vni": refused,
		"feature_control": used, "include_default_routes": used,
		"readiness_gates": refused, "dataplane_options": refused, // and whatever begins with windows_
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

// featureKeys are the keys of the feature_control object.
func featureKeys() map[string]support {
	return map[string]support{"ip_addrs_no_ipam": used, "floating_ips": used}
}

// checkKeys refuses keys that ask for what is not done, and those that must be misspelt;
// others that it does not know it returns. where is the object they stand in, empty for
// the outermost.
func checkKeys(where string, raw json.RawMessage, known map[string]support) (unread []string, err error) {
	if isNull(raw) {
		return nil, nil
	}
	var object map[string]json.RawMessage
	if err := decode(where, raw, &object); err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		path := key
		if where != "" {
			path = where + "." + key
		}
		state := known[key]
		if where == "" && strings.HasPrefix(key, "windows_") {
			state = refused
		}
		switch {
		case state == refused:
			return nil, unsupported(path, object[key], "remove it")
		case state != 0, foreign(key):
		default:
			if meant := misspelt(key, known); meant != "" {
				return nil, &Error{Key: path, Reason: "unknown key; did you mean " + meant + "?"}
			}
			unread = append(unread, path)
		}
	}
	return unread, nil
}

// misspelt is the known key that another can hardly but stand for, with a typing error;
// empty for none. Such a one is refused, for it would give a pod another network than its
// operator wrote, and nobody would be told.
func misspelt(key string, known map[string]support) string {
	near := suggest.Nearest(key, usedKeys(known))
	plain := func(s string) string { return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(s)) }
	a, b := plain(key), plain(near)
	if near != "" && (suggest.Distance(a, b) <= min(len(a)/7, 2)+1 || swapped(a, b)) {
		return near
	}
	return ""
}

// swapped reports whether two words differ by the order of two neighbours alone.
func swapped(a, b string) bool {
	for i := range len(a) - 1 {
		if a[:i]+a[i+1:i+2]+a[i:i+1]+a[i+2:] == b {
			return true
		}
	}
	return false
}

// maxShown is how much of a value an error shows.
const maxShown = 80

// unsupported refuses a value that asks for what this version doesn't do, as CNI wants it:
// with the key and the value.
func unsupported(path string, value json.RawMessage, instead string) *Error {
	return &Error{Key: path, Reason: shown(value) + " is not supported by this version; " + instead, Unsupported: true}
}

// shown is a value on one line, or the beginning of it.
func shown(value json.RawMessage) string {
	var line bytes.Buffer
	if json.Compact(&line, value) != nil {
		line.Write(value)
	}
	text := line.String()
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "…"
	}
	return text
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
