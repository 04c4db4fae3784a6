package convert

import (
	"maps"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"tortie/internal/api"
)

// Endpoint is a pod's workload endpoint with what Kubernetes says of the pod: its
// labels, and its service account with that one's profile. Everything else is the
// node's and stays. changed is false when the endpoint says it all already; it is
// then returned as it is.
//
// An endpoint without the profile of its namespace belongs to a network whose
// configuration doesn't take policy from Kubernetes; it gets no other profile.
func Endpoint(wep *api.WorkloadEndpoint, pod *corev1.Pod) (out *api.WorkloadEndpoint, changed bool) {
	account := pod.Spec.ServiceAccountName
	labels := endpointLabels(pod)
	profiles := withServiceAccount(wep.Spec.Profiles, pod.Namespace, account)
	if maps.Equal(labels, wep.Labels) && slices.Equal(profiles, wep.Spec.Profiles) && account == wep.Spec.ServiceAccountName {
		return wep, false
	}
	out = wep.DeepCopyObject().(*api.WorkloadEndpoint)
	out.Labels, out.Spec.Profiles, out.Spec.ServiceAccountName = labels, profiles, account
	return out, true
}

// endpointLabels are the pod's labels and those by which policies find an
// endpoint, which a pod can't set itself.
func endpointLabels(pod *corev1.Pod) map[string]string {
	labels := make(map[string]string, len(pod.Labels)+3)
	maps.Copy(labels, pod.Labels)
	delete(labels, v3.LabelServiceAccount)
	labels[v3.LabelNamespace] = pod.Namespace
	labels[v3.LabelOrchestrator] = v3.OrchestratorKubernetes
	// Upstream's limit; a longer name is no label value.
	if n := len(pod.Spec.ServiceAccountName); n > 0 && n < 63 {
		labels[v3.LabelServiceAccount] = pod.Spec.ServiceAccountName
	}
	return labels
}

// withServiceAccount are profiles with that of the service account right behind
// that of the namespace, where upstream's CNI plugin puts it.
func withServiceAccount(profiles []string, namespace, account string) []string {
	var out []string
	for _, p := range profiles {
		if strings.HasPrefix(p, serviceAccountProfile) {
			continue
		}
		out = append(out, p)
		if p == namespaceProfile+namespace && account != "" {
			out = append(out, ServiceAccountProfileKey(namespace, account).Name)
		}
	}
	return out
}
