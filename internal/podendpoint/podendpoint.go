// Package podendpoint says what Kubernetes' word on a pod looks like in the pod's
// workload endpoint. It is pure. felix, which makes the endpoint, and
// kube-controllers, which follows the pod, both take it from here: whichever of them
// writes second finds nothing to change.
package podendpoint

import (
	"maps"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/qos"
)

// How the names of profiles begin that stand for namespaces and service accounts.
const (
	NamespacePrefix      = "kns."
	ServiceAccountPrefix = "ksa."
)

// NamespaceProfile is the name of a namespace's profile.
func NamespaceProfile(namespace string) string { return NamespacePrefix + namespace }

// ServiceAccountProfile is the name of a service account's profile.
func ServiceAccountProfile(namespace, name string) string {
	return ServiceAccountPrefix + namespace + "." + name
}

// With is a pod's workload endpoint with what Kubernetes says of the pod: its
// labels, its named ports, the limits of its traffic, and its service account with
// that one's profile. Everything else is the node's and stays. changed is false when
// the endpoint says it all already; it is then returned as it is.
//
// Limits that can't be read change nothing: a running pod keeps those it has.
//
// An endpoint without the profile of its namespace belongs to a network whose
// configuration doesn't take policy from Kubernetes; it gets no other profile.
func With(wep *api.WorkloadEndpoint, pod *corev1.Pod) (out *api.WorkloadEndpoint, changed bool) {
	account := pod.Spec.ServiceAccountName
	labels, ports := endpointLabels(pod), endpointPorts(pod)
	profiles := withServiceAccount(wep.Spec.Profiles, pod.Namespace, account)
	limits, err := Limits(wep, pod)
	if err != nil {
		limits = wep.Spec.QoSControls
	}
	if maps.Equal(labels, wep.Labels) && slices.Equal(profiles, wep.Spec.Profiles) && slices.Equal(ports, wep.Spec.Ports) &&
		limits.Equal(wep.Spec.QoSControls) && account == wep.Spec.ServiceAccountName && pod.GenerateName == wep.GenerateName {
		return wep, false
	}
	out = wep.DeepCopyObject().(*api.WorkloadEndpoint)
	out.Labels, out.GenerateName = labels, pod.GenerateName
	out.Spec.Profiles, out.Spec.ServiceAccountName, out.Spec.Ports = profiles, account, ports
	out.Spec.QoSControls = limits
	return out, true
}

// BandwidthBy is an annotation of an endpoint. With the value ByPlugin another plugin of
// the network configuration sees to the bandwidths that a pod has by the annotations of
// Kubernetes: they are no limits of the endpoint.
const (
	BandwidthBy = "tortie/bandwidth-by"
	ByPlugin    = "plugin"
)

// Limits are those that a pod's annotations give to its endpoint; nil for none. The
// error is a [*qos.Error].
func Limits(wep *api.WorkloadEndpoint, pod *corev1.Pod) (*api.QoSControls, error) {
	return qos.Annotated(pod.Annotations, wep.Annotations[BandwidthBy] != ByPlugin)
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
		if strings.HasPrefix(p, ServiceAccountPrefix) {
			continue
		}
		out = append(out, p)
		if p == NamespaceProfile(namespace) && account != "" {
			out = append(out, ServiceAccountProfile(namespace, account))
		}
	}
	return out
}

// maxPorts bounds the ports of an endpoint: with more it would be too large for etcd,
// and nothing that changes of the pod could be written at all.
const maxPorts = 8192

// endpointPorts are the ports by whose names policies may call them, and those that
// are mapped to ports of the node; no more than maxPorts.
func endpointPorts(pod *corev1.Pod) []api.WorkloadEndpointPort {
	var out []api.WorkloadEndpointPort
	all := countedPorts(pod)
	for _, p := range all[:min(len(all), maxPorts)] {
		out = append(out, api.WorkloadEndpointPort{
			Name: p.Name, Protocol: protocol(p.Protocol),
			Port: uint16(p.ContainerPort), HostPort: uint16(p.HostPort), HostIP: p.HostIP, //nolint:gosec // the API server admits ports alone
		})
	}
	return out
}

// PortsLeftOut is how many of a pod's ports its endpoint has no room for.
func PortsLeftOut(pod *corev1.Pod) int { return max(len(countedPorts(pod))-maxPorts, 0) }

func countedPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for _, list := range [][]corev1.Container{sidecars(pod.Spec.InitContainers), pod.Spec.Containers} {
		for _, container := range list {
			for _, p := range container.Ports {
				if counts(p) {
					out = append(out, p)
				}
			}
		}
	}
	return out
}

func counts(p corev1.ContainerPort) bool {
	switch p.Protocol {
	case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP, "":
		return p.ContainerPort != 0 && (p.Name != "" || p.HostPort != 0)
	default:
		return false
	}
}

// protocol is Kubernetes' in the datastore's words.
func protocol(p corev1.Protocol) api.Protocol {
	if p == "" {
		p = corev1.ProtocolTCP
	}
	return numorstring.ProtocolFromString(string(p))
}

// sidecars are the init containers that go on beside the others.
func sidecars(init []corev1.Container) []corev1.Container {
	var out []corev1.Container
	for _, c := range init {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out, c)
		}
	}
	return out
}

// staticUID is the annotation with the UID that the kubelet knows a static pod by;
// the API server's copy of the pod has another one.
const staticUID = "kubernetes.io/config.hash"

// IsUID reports whether the kubelet may call the pod by that UID. No UID fits any
// pod.
func IsUID(pod *corev1.Pod, uid string) bool {
	return uid == "" || uid == string(pod.UID) || uid == pod.Annotations[staticUID]
}

// annotationPrefix is that of the annotations by which a pod asks the network for
// something.
const annotationPrefix = "cni.projectcalico.org/"

// ReadsOfNamespace reports whether an annotation of that name on a namespace is for the
// namespace's pods, as upstream has it.
func ReadsOfNamespace(name string) bool {
	what, ok := strings.CutPrefix(name, annotationPrefix)
	return ok && (what == "ipv4pools" || what == "ipv6pools" || what == "ipFamilies")
}

// Trim is a pod with no more than this system ever reads of it: pods are most of
// what is remembered of Kubernetes.
func Trim(pod *corev1.Pod) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta: pod.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, GenerateName: pod.GenerateName, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			DeletionTimestamp: pod.DeletionTimestamp,
			Labels:            pod.Labels, Annotations: trimAnnotations(pod.Annotations),
		},
		Spec: corev1.PodSpec{
			NodeName: pod.Spec.NodeName, ServiceAccountName: pod.Spec.ServiceAccountName, HostNetwork: pod.Spec.HostNetwork,
			InitContainers: trimContainers(sidecars(pod.Spec.InitContainers)), Containers: trimContainers(pod.Spec.Containers),
		},
		Status: corev1.PodStatus{Phase: pod.Status.Phase, PodIPs: pod.Status.PodIPs},
	}
}

func trimAnnotations(all map[string]string) map[string]string {
	var kept map[string]string
	for k, v := range all {
		if k == staticUID || strings.HasPrefix(k, annotationPrefix) || qos.Reads(k) {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[k] = v
		}
	}
	return kept
}

func trimContainers(list []corev1.Container) []corev1.Container {
	var kept []corev1.Container
	for _, c := range list {
		if slices.ContainsFunc(c.Ports, counts) {
			kept = append(kept, corev1.Container{Ports: c.Ports, RestartPolicy: c.RestartPolicy})
		}
	}
	return kept
}
