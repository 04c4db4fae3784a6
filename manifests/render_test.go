// Package manifests_test holds what the manifests promise: that the single files are
// those that the overlays make, that the API server takes them, and that they agree
// with the programs they start.
package manifests_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// rendered are the single files and the kustomizations they are made of.
func rendered() map[string]string {
	return map[string]string{
		"calico-etcd.yaml": "overlays/external-etcd", "calico-vxlan.yaml": "overlays/external-etcd-vxlan",
		"calico-trial.yaml": "overlays/trial-etcd", "calico-trial-vxlan.yaml": "overlays/trial-etcd-vxlan",
		"calico-uninstall.yaml": "uninstall",
	}
}

// updateVariable, when it is set, has the files written instead of compared: make
// manifests.
const updateVariable = "UPDATE_MANIFESTS"

func TestSingleFilesAreWhatTheOverlaysMake(t *testing.T) {
	for file, kustomization := range rendered() {
		want := fmt.Sprintf("# Made of manifests/%s by `make manifests`.\n%s%s", kustomization, notes(kustomization), build(t, kustomization))
		if os.Getenv(updateVariable) != "" {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(file)
		if err != nil || string(got) != want {
			t.Errorf("manifests/%s is not what manifests/%s makes: run make manifests (%v)", file, kustomization, err)
		}
	}
}

// notes is what a reader of a single file has to know, since the comments of its
// sources are not in it.
func notes(kustomization string) string {
	switch {
	case strings.Contains(kustomization, "external-etcd"):
		return "# Before it is applied: the Secret calico-etcd-secrets in kube-system with the keys etcd-ca, etcd-cert and\n" +
			"# etcd-key, here etcd_endpoints, and CALICO_IPV4POOL_CIDR.\n"
	case strings.Contains(kustomization, "trial-etcd"):
		return "# FOR A TRIAL ONLY: one etcd without TLS, authentication, backup or a second member. When its node is lost, so\n" +
			"# is everything that Tortie knows of the cluster.\n"
	}
	return "# After everything else of Tortie was deleted; when its pods are ready, their nodes are clean, and it may go.\n"
}

// build runs kustomize.
func build(t *testing.T, kustomization string) []byte {
	t.Helper()
	cmd := exec.Command("go", "tool", "-modfile=../tests/tools.mod", "kustomize", "build", kustomization)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kustomize build %s: %v: %s", kustomization, err, &stderr)
	}
	return out
}
