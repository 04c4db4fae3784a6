package fv

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"tortie/internal/kernel"
)

// wishesUnder has calico-ipam under another main plugin give the addresses that the runtime
// asks for, in each way that CNI has for it, and refuse what it has not.
func (r runtime) wishesUnder(main string) {
	r.apply("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: gold}\nspec: {cidr: 10.98.0.0/24, ipipMode: Never, vxlanMode: Never}\n")
	defer r.onNode("calicoctl delete ippool gold")
	plugin := "{" + main + `, "ipam": {"type": "calico-ipam"}, "capabilities": {"ips": true, "ipRanges": true}`
	list, static := r.list("lan", "1.0.0", plugin+"}"), r.list("lan", "1.0.0", plugin+`, "args": {"cni": {"ips": ["10.98.0.8"]}}}`)
	const capability, cniArgs = "10.98.0.7", "10.98.0.9"
	for name, tc := range map[string]struct {
		list              *libcni.NetworkConfigList
		ips, args, wanted string
	}{
		"capability": {static, capability, cniArgs, capability},
		"args-cni":   {static, "", cniArgs, "10.98.0.8"},
		"cni-args":   {list, "", cniArgs, cniArgs},
	} {
		c := r.sandbox("lan-" + name)
		if tc.ips != "" {
			c.rt.CapabilityArgs = map[string]any{"ips": []string{tc.ips}}
		}
		c.rt.Args = append(c.rt.Args, [2]string{"IP", tc.args})
		result := r.add(tc.list, c)
		if got := result.IPs[0].Address.String(); len(result.IPs) != 1 || got != tc.wanted+"/26" || !strings.Contains(r.inPod(c, "ip addr show dev eth0"), got) {
			r.Errorf("%s: result %v, want %s", name, result, tc.wanted)
		}
		other := r.sandbox("lan-again-" + name)
		other.rt.CapabilityArgs, other.rt.Args = c.rt.CapabilityArgs, c.rt.Args
		_, err := r.cni.AddNetworkList(r.Context(), tc.list, other.rt)
		r.wantCode(err, 11, "address is in use")
		r.del(tc.list, c)
	}
	ranges := r.sandbox("lan-ranges")
	ranges.rt.CapabilityArgs = map[string]any{"ipRanges": [][]map[string]string{{{"subnet": "10.98.0.0/24"}}}}
	_, err := r.cni.AddNetworkList(r.Context(), list, ranges.rt)
	r.wantCode(err, 2, `key "runtimeConfig.ipRanges": [[{"subnet":"10.98.0.0/24"}]] is not supported`)
}

// answerThrough has a server in the container say who calls it, and calls it from
// elsewhere, at an address that leads to it.
func (r runtime) answerThrough(c sandbox, listen, from, to string) (caller string) {
	r.Helper()
	ns, err := kernel.OpenNetns(c.Pause.Netns())
	r.must(err)
	defer func() { _ = ns.Close() }()
	var server net.Listener
	r.must(ns.Do(func() (err error) {
		server, err = (&net.ListenConfig{}).Listen(r.Context(), "tcp4", listen)
		return err
	}))
	defer func() { _ = server.Close() }()
	go func() {
		conn, err := server.Accept()
		if err != nil {
			return // the caller tells
		}
		host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		_, _ = conn.Write([]byte(host))
		_ = conn.Close()
	}()
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	conn, err := r.l.Dial(ctx, from, "tcp4", to)
	r.must(err)
	defer func() { _ = conn.Close() }()
	said, err := io.ReadAll(conn)
	r.must(err)
	return string(said)
}

// recorder is an IPAM plugin that keeps what it is given, by command, in its folder.
const recorder = `#!/bin/sh
cat > DIR/$CNI_COMMAND.json
env > DIR/$CNI_COMMAND.env
case $CNI_COMMAND in
ADD) echo '{"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.66/24"}]}' ;;
STATUS) cat DIR/status; [ ! -s DIR/status ] ;;
esac
`

// ipamPluginIsToldAll: each command reaches another's IPAM plugin with what the runtime
// said, GC with its list, keys that nobody here knows included; what it answers to STATUS
// reaches the runtime.
func (r runtime) ipamPluginIsToldAll(own string) {
	dir := r.TempDir()
	r.must(os.WriteFile(filepath.Join(dir, "status"), nil, 0o600))
	r.must(os.WriteFile(filepath.Join(own, "recorder"), []byte(strings.ReplaceAll(recorder, "DIR", dir)), 0o700)) //nolint:gosec // a program
	list := r.list("told", "1.1.0", `{"type": "calico", "vlan": {"id": 7}, "policy": {"type": "k8s", "k8s_auth_token": "secret"}, "ipam": {"type": "recorder", "custom": [1, 2]}}`)
	kept, gone := r.sandbox("told-kept"), r.sandbox("told-gone")
	told := func(command string, want ...string) {
		r.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, command+".json"))
		r.must(err)
		for _, w := range append(want, `"vlan":{"id":7}`, `"custom":[1,2]`, `"cniVersion":"1.1.0"`) {
			if !strings.Contains(strings.ReplaceAll(string(raw), " ", ""), w) {
				r.Errorf("%s of the IPAM plugin was given %s, without %s", command, raw, w)
			}
		}
		environ, err := os.ReadFile(filepath.Join(dir, command+".env"))
		r.must(err)
		if command == "ADD" && strings.Contains(string(raw), "secret") || !strings.Contains(string(environ), "CNI_COMMAND="+command) || strings.Contains(string(environ), "ETCD") {
			r.Errorf("%s of the IPAM plugin was given %s and %s", command, raw, environ)
		}
	}
	r.must(r.cni.GetStatusNetworkList(r.Context(), list))
	told("STATUS")
	r.add(list, gone)
	told("ADD")
	r.check(list, gone)
	told("CHECK", `"prevResult":`)
	// A runtime that remembers nothing: libcni would send DEL for what it remembers.
	r.must(newRuntime(r.T, r.l, own).cni.GCNetworkList(r.Context(), list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: kept.ContainerID, IfName: "eth0"}}}))
	told("GC", `"cni.dev/valid-attachments":[{"containerID":"`+kept.ContainerID+`","ifname":"eth0"}]`)
	r.until("what the list lacks is deleted from it", func() bool {
		environ, err := os.ReadFile(filepath.Join(dir, "DEL.env"))
		return err == nil && strings.Contains(string(environ), "CNI_CONTAINERID="+gone.ContainerID)
	})
	r.must(os.WriteFile(filepath.Join(dir, "status"), []byte(`{"cniVersion": "1.1.0", "code": 51, "msg": "half of it is away", "details": "the other half is not"}`), 0o600))
	err := r.cni.GetStatusNetworkList(r.Context(), list)
	r.wantCode(err, 51, "IPAM plugin recorder: STATUS: half of it is away")
	if told, ok := errors.AsType[*types.Error](err); !ok || told.Details != "the other half is not" {
		r.Errorf("STATUS: %+v", told)
	}
}

// calicoIPAMAlone calls calico-ipam as a network's plugin, in the version that has GC and
// STATUS.
func (r runtime) calicoIPAMAlone() {
	list := r.list("alone", "1.1.0", `{"type": "calico-ipam", "ipam": {"type": "calico-ipam"}}`)
	missing := r.list("alone", "1.1.0", `{"type": "calico-ipam", "ipam": {"type": "calico-ipam", "ipv4_pools": ["none-such"]}}`)
	r.must(r.cni.GetStatusNetworkList(r.Context(), list))
	r.wantCode(r.cni.GetStatusNetworkList(r.Context(), missing), 50, "of the IP pools that the network configuration names, none-such, none is there")
	kept, gone := r.sandbox("alone-kept"), r.sandbox("alone-gone")
	r.add(list, kept)
	lost := r.add(list, gone).IPs[0].Address.IP.String()
	assigned := func() string { return r.onNode("calicoctl ipam show --ip=" + lost) }
	if have := assigned(); !strings.Contains(have, "is in use") {
		r.Errorf("after ADD: %s", have)
	}
	// A runtime that remembers nothing: libcni would send DEL for what it remembers.
	forgetful := newRuntime(r.T, r.l)
	collect := func(valid ...types.GCAttachment) {
		r.Helper()
		r.must(forgetful.cni.GCNetworkList(r.Context(), list, &libcni.GCArgs{ValidAttachments: append([]types.GCAttachment{}, valid...)}))
	}
	collect(types.GCAttachment{ContainerID: kept.ContainerID, IfName: "eth0"})
	r.until("the address is free", func() bool { return strings.Contains(assigned(), "is not assigned") })
	r.check(list, kept)
	r.check(list, gone, "container "+gone.ContainerID+" has no interface eth0 in network alone")
	collect()
	r.check(list, kept, "container "+kept.ContainerID+" has no interface eth0 in network alone")
}
