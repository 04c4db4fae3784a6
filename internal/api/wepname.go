package api

import (
	"fmt"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

// WorkloadEndpointID is what the name of a workload endpoint says.
type WorkloadEndpointID struct {
	Node         string
	Orchestrator string
	// Workload is the pod for "k8s", the container ID for "cni", "libnetwork" for
	// that, and the spec's workload for any other orchestrator.
	Workload string
	Endpoint string
}

// String is the name: "node1-k8s-my--pod-eth0". The segments are joined by '-'
// and a '-' within one is doubled.
func (id WorkloadEndpointID) String() string {
	return id.prefix() + escapeSegment(id.Endpoint)
}

func (id WorkloadEndpointID) prefix() string {
	return escapeSegment(id.Node) + "-" + escapeSegment(id.Orchestrator) + "-" + escapeSegment(id.Workload) + "-"
}

func escapeSegment(s string) string { return strings.ReplaceAll(s, "-", "--") }

// WorkloadEndpointName is the name that a workload endpoint with this spec must
// have. A field that the name needs and that is empty is an error.
func WorkloadEndpointName(spec *WorkloadEndpointSpec) (string, error) {
	id := workloadID(spec)
	if err := id.check(); err != nil {
		return "", fmt.Errorf("workload endpoint name: %w", err)
	}
	return id.String(), nil
}

// WorkloadEndpointNamePrefix is what the names of all endpoints of one workload
// start with, to list them; the endpoint of the spec is ignored.
func WorkloadEndpointNamePrefix(spec *WorkloadEndpointSpec) (string, error) {
	id := workloadID(spec)
	id.Endpoint = "any"
	if err := id.check(); err != nil {
		return "", fmt.Errorf("workload endpoint name: %w", err)
	}
	return id.prefix(), nil
}

// WorkloadEndpointsOfNode is what the names of all endpoints of a node start with. Those of
// some others do as well: of "a", those of "a-b".
func WorkloadEndpointsOfNode(node string) string { return escapeSegment(node) + "-" }

func workloadID(spec *WorkloadEndpointSpec) WorkloadEndpointID {
	id := WorkloadEndpointID{
		Node: spec.Node, Orchestrator: spec.Orchestrator, Workload: spec.Workload, Endpoint: spec.Endpoint,
	}
	switch spec.Orchestrator {
	case v3.OrchestratorKubernetes:
		id.Workload = spec.Pod
	case v3.OrchestratorCNI:
		id.Workload = spec.ContainerID
	case v3.OrchestratorDocker:
		id.Workload = v3.OrchestratorDocker
	}
	return id
}

// check refuses segments that could not be told apart in a name.
func (id WorkloadEndpointID) check() error {
	workload := "workload"
	switch id.Orchestrator {
	case v3.OrchestratorKubernetes:
		workload = "pod"
	case v3.OrchestratorCNI:
		workload = "containerID"
	}
	for _, s := range []struct{ field, value string }{
		{"node", id.Node}, {"orchestrator", id.Orchestrator}, {workload, id.Workload}, {"endpoint", id.Endpoint},
	} {
		switch {
		case s.value == "":
			return fmt.Errorf("%s is missing", s.field)
		case s.value[0] == '-' || s.value[len(s.value)-1] == '-':
			return fmt.Errorf("%s %q must not start or end with '-'", s.field, s.value)
		}
	}
	return nil
}

// ParseWorkloadEndpointName is the inverse of WorkloadEndpointID.String.
func ParseWorkloadEndpointName(name string) (WorkloadEndpointID, error) {
	segments := []string{""}
	for i := 0; i < len(name); i++ {
		last := &segments[len(segments)-1]
		switch {
		case name[i] != '-':
			*last += name[i : i+1]
		case i+1 < len(name) && name[i+1] == '-':
			*last += "-"
			i++
		default:
			segments = append(segments, "")
		}
	}
	if len(segments) != 4 {
		return WorkloadEndpointID{}, fmt.Errorf("workload endpoint name %q: want <node>-<orchestrator>-<workload>-<endpoint>, each '-' within a part doubled", name)
	}
	id := WorkloadEndpointID{Node: segments[0], Orchestrator: segments[1], Workload: segments[2], Endpoint: segments[3]}
	if err := id.check(); err != nil {
		return WorkloadEndpointID{}, fmt.Errorf("workload endpoint name %q: %w", name, err)
	}
	return id, nil
}
