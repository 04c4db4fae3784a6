package api_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tortie/internal/api"
)

func TestWorkloadEndpointNames(t *testing.T) {
	tests := []struct {
		spec         api.WorkloadEndpointSpec
		want, prefix string
	}{
		{api.WorkloadEndpointSpec{Orchestrator: "k8s", Node: "node1", Pod: "my-pod", ContainerID: "c", Endpoint: "eth0"}, "node1-k8s-my--pod-eth0", "node1-k8s-my--pod-"},
		{api.WorkloadEndpointSpec{Orchestrator: "cni", Node: "node-1", ContainerID: "cont0123", Endpoint: "eth0"}, "node--1-cni-cont0123-eth0", "node--1-cni-cont0123-"},
		{api.WorkloadEndpointSpec{Orchestrator: "libnetwork", Node: "n", Workload: "w", Endpoint: "e"}, "n-libnetwork-libnetwork-e", "n-libnetwork-libnetwork-"},
		{api.WorkloadEndpointSpec{Orchestrator: "openstack", Node: "n", Workload: "vm-1", Endpoint: "tap-1"}, "n-openstack-vm--1-tap--1", "n-openstack-vm--1-"},
	}
	for _, tt := range tests {
		if got, err := api.WorkloadEndpointName(&tt.spec); err != nil || got != tt.want {
			t.Errorf("WorkloadEndpointName(%+v) = %q, %v; want %q", tt.spec, got, err, tt.want)
		}
		if got, err := api.WorkloadEndpointNamePrefix(&tt.spec); err != nil || got != tt.prefix {
			t.Errorf("WorkloadEndpointNamePrefix(%+v) = %q, %v; want %q", tt.spec, got, err, tt.prefix)
		}
	}
}

func TestWorkloadEndpointNamesNeedAllParts(t *testing.T) {
	full := api.WorkloadEndpointSpec{Orchestrator: "k8s", Node: "n", Pod: "p", Endpoint: "e"}
	for want, change := range map[string]func(*api.WorkloadEndpointSpec){
		"node is missing":                     func(s *api.WorkloadEndpointSpec) { s.Node = "" },
		"orchestrator is missing":             func(s *api.WorkloadEndpointSpec) { s.Orchestrator = "" },
		"pod is missing":                      func(s *api.WorkloadEndpointSpec) { s.Pod = "" },
		"endpoint is missing":                 func(s *api.WorkloadEndpointSpec) { s.Endpoint = "" },
		"containerID is missing":              func(s *api.WorkloadEndpointSpec) { s.Orchestrator = "cni" },
		`pod "-p" must not start or end with`: func(s *api.WorkloadEndpointSpec) { s.Pod = "-p" },
	} {
		spec := full
		change(&spec)
		if name, err := api.WorkloadEndpointName(&spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, %v; want an error with %q", name, err, want)
		}
	}
}

func TestParseWorkloadEndpointNameIsTheInverse(t *testing.T) {
	segment := rapid.StringMatching(`[a-zA-Z0-9._]([a-zA-Z0-9._-]{0,8}[a-zA-Z0-9._])?`)
	rapid.Check(t, func(t *rapid.T) {
		id := api.WorkloadEndpointID{
			Node: segment.Draw(t, "node"), Orchestrator: segment.Draw(t, "orchestrator"),
			Workload: segment.Draw(t, "workload"), Endpoint: segment.Draw(t, "endpoint"),
		}
		if got, err := api.ParseWorkloadEndpointName(id.String()); err != nil || got != id {
			t.Fatalf("%q parses to %+v, %v; want %+v", id, got, err, id)
		}
	})
	for _, name := range []string{"", "n", "n-k8s-pod", "n-k8s-my-pod-eth0", "-k8s-pod-eth0", "n-k8s-pod-", "n--k8s--pod--eth0"} {
		if id, err := api.ParseWorkloadEndpointName(name); err == nil {
			t.Errorf("%q parses to %+v", name, id)
		}
	}
}
