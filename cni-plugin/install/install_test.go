package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const conflist = `{"name": "k8s-pod-network", "cniVersion": "1.1.0", "plugins": [{"type": "calico", "nodename": "__KUBERNETES_NODE_NAME__"}]}`

// host is a node as the init container sees it.
type host struct {
	*testing.T
	dir string
	env map[string]string
}

func newHost(t *testing.T) *host {
	h := &host{T: t, dir: t.TempDir()}
	h.env = map[string]string{
		"CNI_SOURCE_DIR": filepath.Join(h.dir, "image"), "CNI_HOST_BIN_DIR": filepath.Join(h.dir, "bin"), "CNI_HOST_NET_DIR": filepath.Join(h.dir, "net.d"),
		"CNI_NETWORK_CONFIG": conflist, "KUBERNETES_NODE_NAME": "worker-1",
	}
	for _, name := range plugins() {
		h.write("image/"+name, "new "+name)
	}
	return h
}

func (h *host) write(name, content string) {
	h.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		h.Fatal(err)
	}
}

// content is that of a file; "" when there is none.
func (h *host) content(name string) string {
	raw, _ := os.ReadFile(filepath.Join(h.dir, name))
	return string(raw)
}

func (h *host) run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(args, func(name string) string { return h.env[name] }, &out, &errs)
	return code, out.String(), errs.String()
}

func TestInstallAndUninstall(t *testing.T) {
	h := newHost(t)
	h.write("bin/calico", "old")
	h.write("bin/bridge", "another's")
	if code, _, stderr := h.run(); code != 0 {
		t.Fatal(stderr)
	}
	if h.content("bin/calico") != "new calico" || h.content("bin/calico-ipam") != "new calico-ipam" {
		t.Error("the plugins are not installed")
	}
	info, err := os.Stat(filepath.Join(h.dir, "bin/calico"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if conf := h.content("net.d/10-calico.conflist"); !strings.Contains(conf, `"nodename": "worker-1"`) {
		t.Errorf("configuration %s", conf)
	}
	for range 2 { // what is gone is a success
		if code, _, stderr := h.run("--uninstall"); code != 0 {
			t.Fatal(stderr)
		}
	}
	left, _ := filepath.Glob(filepath.Join(h.dir, "*", ".*"))
	if h.content("bin/calico")+h.content("bin/calico-ipam")+h.content("net.d/10-calico.conflist") != "" || len(left) > 0 {
		t.Errorf("something is left: %v", left)
	}
	if h.content("bin/bridge") != "another's" || h.content("bin/portmap") != "" {
		t.Error("another's plugin is gone, or one of ours is left")
	}
}

func TestWhatCanNotWorkInstallsNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*host)
		says  string
	}{
		"no configuration": {func(h *host) { delete(h.env, "CNI_NETWORK_CONFIG") }, "CNI_NETWORK_CONFIG: missing"},
		"broken JSON":      {func(h *host) { h.env["CNI_NETWORK_CONFIG"] = "{" }, "CNI_NETWORK_CONFIG: not a conflist in JSON"},
		"no plugin": {
			func(h *host) { h.env["CNI_NETWORK_CONFIG"] = `{"name":"n","cniVersion":"1.0.0","plugins":[]}` },
			"the first plugin of the conflist is not of type calico",
		},
		"file that is not there": {func(h *host) { h.env["CNI_NETWORK_CONFIG_FILE"] = "/none" }, "CNI_NETWORK_CONFIG_FILE: open /none"},
		"unfilled placeholder":   {func(h *host) { delete(h.env, "KUBERNETES_NODE_NAME") }, "CNI_NETWORK_CONFIG contains __KUBERNETES_NODE_NAME__, but KUBERNETES_NODE_NAME is not set"},
		"another network": {
			func(h *host) { h.write("net.d/05-cilium.conflist", "{}") },
			"/etc/cni/net.d holds the configuration of another network, 05-cilium.conflist, which the runtime prefers to 10-calico.conflist: remove it",
		},
		"name with a slash":      {func(h *host) { h.env["CNI_CONF_NAME"] = "../x.conflist" }, `CNI_CONF_NAME="../x.conflist"`},
		"no plugin in the image": {func(h *host) { h.env["CNI_SOURCE_DIR"] = h.dir + "/none" }, "install the CNI plugin calico: open"},
		"neither true nor false": {func(h *host) { h.env["UPDATE_CNI_BINARIES"] = "maybe" }, `UPDATE_CNI_BINARIES="maybe": want true or false`},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			tc.spoil(h)
			code, _, stderr := h.run()
			if code != 1 || !strings.Contains(stderr, tc.says) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("code %d, %q, want %q", code, stderr, tc.says)
			}
			if h.content("net.d/10-calico.conflist")+h.content("bin/calico") != "" {
				t.Error("half of it is installed")
			}
		})
	}
}

func TestOtherNetworksBehindOursAreFine(t *testing.T) {
	h := newHost(t)
	h.write("net.d/87-podman.conflist", "{}")
	h.write("net.d/05-notes.txt", "")
	if code, _, stderr := h.run(); code != 0 {
		t.Error(stderr)
	}
}

func TestSkippedAndKeptPlugins(t *testing.T) {
	h := newHost(t)
	h.env["SKIP_CNI_BINARIES"], h.env["UPDATE_CNI_BINARIES"] = "calico-ipam", "false"
	h.write("bin/calico", "mine")
	if code, _, stderr := h.run(); code != 0 {
		t.Fatal(stderr)
	}
	if h.content("bin/calico") != "mine" || h.content("bin/calico-ipam") != "" {
		t.Errorf("calico %q, calico-ipam %q", h.content("bin/calico"), h.content("bin/calico-ipam"))
	}
}

func TestSharedPluginIsGivenBack(t *testing.T) {
	for name, tc := range map[string]struct {
		meanwhile func(*host)
		want      string
	}{
		"as it was":                     {func(*host) {}, "the distribution's"},
		"after an update of ours":       {func(h *host) { h.write("image/portmap", "newer"); h.run() }, "the distribution's"},
		"another has installed its own": {func(h *host) { h.write("bin/portmap", "a third's") }, "a third's"},
		"and ours has come again":       {func(h *host) { h.write("bin/portmap", "a third's"); h.run() }, "a third's"},
		"an update of ours was cut short": {func(h *host) {
			h.write("image/portmap", "newer")
			h.run()
			h.write("bin/portmap", "new portmap") // what it was to replace
			h.run()
		}, "the distribution's"},
		"somebody has removed it": {func(h *host) { _ = os.Remove(filepath.Join(h.dir, "bin/portmap")) }, "the distribution's"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.write("bin/portmap", "the distribution's")
			if code, _, stderr := h.run(); code != 0 || h.content("bin/portmap") != "new portmap" {
				t.Fatal(stderr)
			}
			tc.meanwhile(h)
			for range 2 {
				if code, _, stderr := h.run("--uninstall"); code != 0 {
					t.Fatal(stderr)
				}
			}
			if got := h.content("bin/portmap"); got != tc.want {
				t.Errorf("left %q, want %q", got, tc.want)
			}
			if left, _ := filepath.Glob(filepath.Join(h.dir, "bin", ".*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
