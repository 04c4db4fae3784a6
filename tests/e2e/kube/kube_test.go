package kube

import (
	"strings"
	"testing"
)

// TestStagingModulesAreRequiredByVersion: under a replacement alone they would be
// compiled anew as soon as something else names their version.
func TestStagingModulesAreRequiredByVersion(t *testing.T) {
	const theirs = `module k8s.io/kubernetes

go 1.26.0

godebug default=go1.26

godebug (
	x=1
)

require (
	k8s.io/api v0.0.0
	k8s.io/client-go v0.0.0 // indirect
	k8s.io/utils v0.0.0-20260210185600-b8788abfbbc2
	example.org/api v0.0.0
)
`
	got := kubernetesModule("1.26.8", theirs)
	for _, want := range []string{
		"module localkube\n\ngo 1.26.8\n", "godebug default=go1.26\n", "godebug (\n\tx=1\n)",
		"require k8s.io/kubernetes v1.36.3\n", "\tk8s.io/api v0.36.3\n", "\tk8s.io/client-go v0.36.3\n",
		"\tk8s.io/api => k8s.io/api v0.36.3\n", "\tk8s.io/client-go => k8s.io/client-go v0.36.3\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	for _, never := range []string{"k8s.io/utils", "example.org"} {
		if strings.Contains(got, never) {
			t.Errorf("has %s, which has versions of its own:\n%s", never, got)
		}
	}
}
