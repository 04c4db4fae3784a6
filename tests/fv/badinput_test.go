package fv

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tortie/internal/control/cniwire"
	"tortie/tests/lab"
)

const manifestHead = "apiVersion: projectcalico.org/v3\n"

// TestBadManifestsAreRefusedWithOneLine gives calicoctl what users get wrong: one
// clear line that names the thing, a non-zero exit, and nothing changed.
func TestBadManifestsAreRefusedWithOneLine(t *testing.T) {
	l := up(t, "bad", 1)
	good := func(n string) string {
		return manifestHead + "kind: IPPool\nmetadata: {name: good-" + n + "}\nspec: {cidr: 10.7" + n + ".0.0/24}\n"
	}
	cases := []struct {
		name, manifest string
		want           []string // fragments of the line
	}{
		{"unknown field", manifestHead + "kind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.70.0.0/24, natOutgoin: true}\n", []string{"spec.natOutgoin", "unknown field"}},
		{"unknown kind", manifestHead + "kind: IPPol\nmetadata: {name: p}\n", []string{"IPPol", "IPPool"}},
		{"unknown version", "apiVersion: projectcalico.org/v4\nkind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.70.0.0/24}\n", []string{"projectcalico.org/v4", "projectcalico.org/v3"}},
		{"host bits", manifestHead + "kind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.70.0.1/24}\n", []string{"spec.cidr", "10.70.0.1/24", "10.70.0.0/24"}},
		{"overlapping pool", manifestHead + "kind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.65.128.0/17}\n", []string{"10.65.128.0/17", "pool-v4", "10.65.0.0/16"}},
		{"node name with a slash", manifestHead + "kind: Node\nmetadata: {name: rack/node9}\nspec: {bgp: {ipv4Address: 10.10.1.9/24}}\n", []string{"rack/node9", "metadata.name"}},
		{"peer without ASN", manifestHead + "kind: BGPPeer\nmetadata: {name: tor}\nspec: {peerIP: 10.10.1.254}\n", []string{"spec.asNumber"}},
		{
			"broken YAML in document 3 of 5",
			strings.Join([]string{good("1"), good("2"), "apiVersion: projectcalico.org/v3\nkind: IPPool\n  metadata: [\n", good("4"), good("5")}, "---\n"),
			[]string{"document 3"},
		},
	}
	before := dumpResources(t, l)
	for _, c := range cases {
		for _, verb := range []string{"create", "apply"} {
			t.Run(verb+" "+c.name, func(t *testing.T) {
				var out, errs bytes.Buffer
				err := l.Exec("node1", []string{"calicoctl", verb, "-f", "-"}, lab.Stdio{In: strings.NewReader(c.manifest), Out: &out, Err: &errs})
				mustBeOneLine(t, err, out.String(), errs.String(), c.want...)
			})
		}
	}
	if after := dumpResources(t, l); after != before {
		t.Errorf("the store changed:\nbefore:\n%s\nafter:\n%s", before, after)
	}
}

// mustBeOneLine demands a non-zero exit, an empty stdout and one line on stderr
// with the given fragments.
func mustBeOneLine(t *testing.T, err error, stdout, stderr string, want ...string) {
	t.Helper()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		t.Errorf("exit: %v, want a non-zero status", err)
	}
	if stdout != "" {
		t.Errorf("stdout is not empty: %q", stdout)
	}
	if line := strings.TrimSuffix(stderr, "\n"); line == "" || strings.Contains(line, "\n") {
		t.Errorf("stderr is not one line: %q", stderr)
	}
	for _, w := range want {
		if !strings.Contains(stderr, w) {
			t.Errorf("%q does not mention %q", stderr, w)
		}
	}
	t.Log(strings.TrimSpace(stderr))
}

// dumpResources is every resource an operator writes, as YAML.
func dumpResources(t *testing.T, l *lab.Lab) string {
	t.Helper()
	var all strings.Builder
	for _, kind := range []string{"ippools", "nodes", "bgppeers", "bgpconfigurations"} {
		var out, errs bytes.Buffer
		if err := l.Exec("node1", []string{"calicoctl", "get", kind, "-o", "yaml", "--export"}, lab.Stdio{Out: &out, Err: &errs}); err != nil {
			t.Fatalf("calicoctl get %s: %v: %s", kind, err, errs.String())
		}
		all.WriteString(out.String())
	}
	return all.String()
}

// TestBadNetworkConfigurationIsRefused gives the CNI plugin broken configurations.
func TestBadNetworkConfigurationIsRefused(t *testing.T) {
	l := up(t, "badcni", 1)
	cases := []struct {
		name   string
		change func(map[string]any)
		code   uint
		want   string
	}{
		{"missing name", func(c map[string]any) { delete(c, "name") }, cniwire.CodeInvalidConfig, "name"},
		{"missing ipam", func(c map[string]any) { delete(c, "ipam") }, cniwire.CodeInvalidConfig, "ipam"},
		{"misspelt key", func(c map[string]any) { c["ipamm"] = map[string]any{} }, cniwire.CodeInvalidConfig, `"ipamm": unknown key; did you mean ipam?`},
		{"unsupported key", func(c map[string]any) { c["mode"] = "vxlan" }, cniwire.CodeUnsupportedField, `key "mode": "vxlan" is not supported`},
		{"another node's name", func(c map[string]any) { c["hostname"] = "node9" }, cniwire.CodeInvalidConfig, `key "hostname": "node9", but felix here runs as node "node1"`},
		{"misspelt key in ipam", func(c map[string]any) {
			c["ipam"] = map[string]any{"type": "calico-ipam", "asign_ipv4": "true"}
		}, cniwire.CodeInvalidConfig, "asign_ipv4"},
		{"wrong type", func(c map[string]any) { c["mtu"] = "many" }, cniwire.CodeInvalidConfig, "mtu"},
		{"MTU that the node's device does not carry", func(c map[string]any) { c["mtu"] = 9000 }, cniwire.CodeInvalidConfig, "9000 is more than the 1500 of the node's device eth0"},
		{"unknown version", func(c map[string]any) { c["cniVersion"] = "9.9.9" }, cniwire.CodeIncompatibleVersion, "9.9.9"},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			pod, err := l.Sandbox(lab.PodSpec{Name: "bad-" + string(rune('a'+i)), Node: "node1"})
			if err != nil {
				t.Fatal(err)
			}
			conf := changed(t, c.change)
			_, err = l.CNIWith(t.Context(), "ADD", pod, conf)
			cniErr := (*lab.CNIError)(nil)
			if !errors.As(err, &cniErr) {
				t.Fatalf("ADD: %v, want a CNI error", err)
			}
			t.Log(cniErr)
			if cniErr.Code != c.code || !strings.Contains(cniErr.Error(), c.want) {
				t.Errorf("ADD: %v, want code %d and a mention of %q", cniErr, c.code, c.want)
			}
			if strings.Contains(strings.TrimSpace(cniErr.Msg), "\n") {
				t.Errorf("message is not one line: %q", cniErr.Msg)
			}
		})
	}
	t.Run("unknown keys are kept", func(t *testing.T) {
		pod, err := l.Sandbox(lab.PodSpec{Name: "unknown", Node: "node1"})
		if err != nil {
			t.Fatal(err)
		}
		conf := changed(t, func(c map[string]any) { c["vlan"] = map[string]any{"id": 7} })
		for _, verb := range []string{"ADD", "DEL"} {
			if _, err := l.CNIWith(t.Context(), verb, pod, conf); err != nil {
				t.Errorf("%s: %v", verb, err)
			}
		}
		var log bytes.Buffer
		if err := l.Logs(&log, "node1", "felix"); err != nil || strings.Count(log.String(), "keys=[vlan]") != 1 {
			t.Errorf("%v; felix' log names the key %d times, want once", err, strings.Count(log.String(), "keys=[vlan]"))
		}
	})
	waitStoreSound(t, l, 0)
}

func changed(t *testing.T, change func(map[string]any)) []byte {
	t.Helper()
	conf, err := lab.PluginConfig(lab.Conflist)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(conf, &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	if conf, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	return conf
}

// TestSecondDaemonOnANodeIsRefused starts each daemon a second time.
func TestSecondDaemonOnANodeIsRefused(t *testing.T) {
	l := up(t, "second", 1)
	for _, program := range []string{"felix", "bgpd"} {
		t.Run(program, func(t *testing.T) {
			var out, errs bytes.Buffer
			err := l.Exec("node1", []string{program}, lab.Stdio{Out: &out, Err: &errs})
			mustBeOneLine(t, err, out.String(), errs.String(), program, "already runs")
			if p := l.Daemon(program, "node1"); !p.Alive() {
				t.Errorf("the first %s is gone", program)
			}
		})
	}
}

// TestPluginWithoutFelixAnswersTryAgain stops felix and calls the plugin.
func TestPluginWithoutFelixAnswersTryAgain(t *testing.T) {
	l := up(t, "nofelix", 1)
	if err := l.KillDaemon("felix", "node1", 9); err != nil {
		t.Fatal(err)
	}
	pod, err := l.Sandbox(lab.PodSpec{Name: "early", Node: "node1"})
	if err != nil {
		t.Fatal(err)
	}
	for verb, code := range map[string]uint{"ADD": cniwire.CodeTryAgainLater, "STATUS": cniwire.CodeNotAvailable} {
		_, err := l.CNI(t.Context(), verb, pod)
		cniErr := (*lab.CNIError)(nil)
		if !errors.As(err, &cniErr) || cniErr.Code != code || !strings.Contains(cniErr.Msg, "felix") {
			t.Errorf("%s without felix: %v, want CNI error %d that names felix", verb, err, code)
		}
	}
	if err := l.StartDaemon("felix", "node1"); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Attach(t.Context(), pod); err != nil {
		t.Errorf("ADD when felix is back: %v", err)
	}
}

// calicoctl runs the program on this machine, against an etcd on loopback.
func calicoctl(t *testing.T, env []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(bin, "calicoctl"))
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, env...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}
