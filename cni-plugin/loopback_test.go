package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	cniversion "github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"

	"tortie/internal/kernel/kerneltest"
)

const loopbackConf = `{"cniVersion": "VERSION", "name": "cni-loopback", "type": "loopback"}`

// TestLoopbackIsWhatTheReferencePluginIs runs both side by side.
func TestLoopbackIsWhatTheReferencePluginIs(t *testing.T) {
	chained := `, "prevResult": {"cniVersion": "VERSION", "interfaces": [{"name": "eth0"}]}}`
	for _, version := range cniversion.All.SupportedVersions() {
		for _, tail := range []string{"}", chained} {
			if tail == chained && strings.HasPrefix(version, "0.") && version < "0.3" {
				continue // prevResult came with 0.3.0
			}
			conf := strings.ReplaceAll(strings.TrimSuffix(loopbackConf, "}")+tail, "VERSION", version)
			var got [2][]any
			for i, program := range []string{"reference", "loopback"} {
				netns := fmt.Sprintf("CNI_NETNS=/proc/%d/fd/%d", os.Getpid(), kerneltest.NewNetns(t).Fd())
				for _, command := range []string{"DEL", "CHECK", "ADD", "ADD", "CHECK", "DEL"} {
					if command == "CHECK" && version < "0.4.0" {
						continue
					}
					out := invoke(t, program, conf, netns, "CNI_COMMAND="+command, "CNI_IFNAME=lo")
					if program == "reference" && command == "ADD" && tail != chained {
						out.stdout = inFormatOf(t, version, out.stdout)
					}
					var answer map[string]any
					if out.stdout != "" {
						if err := json.Unmarshal([]byte(out.stdout), &answer); err != nil {
							t.Fatalf("%s %s: %v: %s", program, command, err, out.stdout)
						}
					}
					if out.code != 0 {
						answer = nil // the words, and the numbers, are each one's own
					}
					if list, ok := answer["interfaces"].([]any); ok && tail != chained {
						delete(list[0].(map[string]any), "sandbox")
					}
					if dns, ok := answer["dns"].(map[string]any); ok && len(dns) == 0 {
						delete(answer, "dns")
					}
					got[i] = append(got[i], command, out.code, answer)
				}
			}
			if diff := cmp.Diff(got[0], got[1]); diff != "" {
				t.Errorf("%s (-reference +ours):\n%s", conf, diff)
			}
		}
	}
}

// inFormatOf is a result in the format of a version. The reference plugin always
// prints the newest one, whatever version it names.
func inFormatOf(t *testing.T, version, result string) string {
	t.Helper()
	var r types100.Result
	if err := json.Unmarshal([]byte(result), &r); err != nil {
		t.Fatal(err)
	}
	r.CNIVersion = types100.ImplementedSpecVersion
	converted, err := r.GetAsVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := converted.PrintTo(&text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// TestLoopbackOfANamespaceThatIsGone is taken down already.
func TestLoopbackOfANamespaceThatIsGone(t *testing.T) {
	conf := strings.Replace(loopbackConf, "VERSION", "1.1.0", 1)
	left := filepath.Join(t.TempDir(), "left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, netns := range []string{"", "/run/netns/none", left} {
		if got := invoke(t, "loopback", conf, "CNI_NETNS="+netns, "CNI_COMMAND=DEL"); got != (outcome{}) {
			t.Errorf("DEL in %q: %+v", netns, got)
		}
	}
	for _, command := range []string{"ADD", "CHECK"} {
		wantError(t, invoke(t, "loopback", conf, "CNI_COMMAND="+command), 8, `enter the network namespace "/run/netns/none": no such file or directory`)
	}
	for _, command := range []string{"GC", "STATUS"} {
		if got := invoke(t, "loopback", conf, "CNI_COMMAND="+command); got != (outcome{}) {
			t.Errorf("%s: %+v", command, got)
		}
	}
}

// TestLoopbackLeavesTheNodesAlone: DEL would take the node's own down.
func TestLoopbackLeavesTheNodesAlone(t *testing.T) {
	conf := strings.Replace(loopbackConf, "VERSION", "1.1.0", 1)
	for _, command := range []string{"ADD", "CHECK", "DEL"} {
		wantError(t, invoke(t, "loopback", conf, "CNI_COMMAND="+command, "CNI_NETNS=/proc/self/ns/net"), 8, "the node's own network namespace")
	}
}
