package manifests_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// capabilities are what each container may do besides.
func capabilities() map[string][]corev1.Capability {
	return map[string][]corev1.Capability{
		"install-cni": {"DAC_OVERRIDE"}, "uninstall-cni": {"DAC_OVERRIDE"}, // another user's folders
		"felix":                   {"NET_ADMIN", "SYS_ADMIN"}, // setns
		"bgpd":                    {"NET_ADMIN", "NET_BIND_SERVICE"},
		"calico-kube-controllers": nil, "etcd": nil,
		"cleanup": {"NET_ADMIN", "DAC_OVERRIDE"}, "clean": {"NET_ADMIN", "DAC_OVERRIDE"},
	}
}

func TestContainersMayDoWhatTheyNeedAndNoMore(t *testing.T) {
	for file := range rendered() {
		for name, pod := range pods(objects(t, file)) {
			if pod.SecurityContext.SeccompProfile == nil || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s: %s: no seccomp profile", file, name)
			}
			for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
				s := c.SecurityContext
				want, known := capabilities()[c.Name]
				switch {
				case s == nil || s.Privileged != nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation,
					s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem,
					!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}), !known || !slices.Equal(s.Capabilities.Add, want):
					t.Errorf("%s: %s: container %s may do too much, or too little: %+v", file, name, c.Name, s)
				}
				if c.ImagePullPolicy != corev1.PullIfNotPresent || !strings.HasSuffix(c.Image, ":"+manifestTag(t)) || !strings.HasPrefix(c.Image, "tortie/") {
					t.Errorf("%s: %s: image %s, %s: make images has no such", file, name, c.Image, c.ImagePullPolicy)
				}
			}
		}
	}
}

// manifestTag is the tag that make images gives.
func manifestTag(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("images/spec.go")
	_, after, found := strings.Cut(string(raw), `const manifestTag = "`)
	if err != nil || !found {
		t.Fatalf("no manifestTag in images/spec.go: %v", err)
	}
	tag, _, _ := strings.Cut(after, `"`)
	return tag
}

func TestDaemonsAreProbedAndAskForResources(t *testing.T) {
	for file := range rendered() {
		for name, pod := range pods(objects(t, file)) {
			for _, c := range pod.Containers {
				if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
					t.Errorf("%s: %s: container %s asks for no resources", file, name, c.Name)
				}
				if c.Name == "clean" { // its init containers have done the work
					continue
				}
				for what, probe := range map[string]*corev1.Probe{"liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
					if probe == nil || probe.HTTPGet == nil || c.Name != "etcd" && probe.HTTPGet.Path != "/"+what {
						t.Errorf("%s: %s: container %s has no probe of %s", file, name, c.Name, what)
					}
				}
			}
		}
	}
}

func TestKubeControllersRunAsNobodyAndOnDifferentNodes(t *testing.T) {
	d := find[*appsv1.Deployment](t, "calico-etcd.yaml", "Deployment calico-kube-controllers")
	pod := d.Spec.Template.Spec
	if *d.Spec.Replicas != 2 || !*pod.SecurityContext.RunAsNonRoot || *pod.SecurityContext.RunAsUser != 65532 {
		t.Errorf("replicas %d, %+v", *d.Spec.Replicas, pod.SecurityContext)
	}
	// With the node's network, two on one node would want one port.
	if !pod.HostNetwork || len(pod.Containers[0].Ports) != 1 {
		t.Error("nothing keeps two replicas from one node")
	}
	for _, v := range pod.Volumes {
		if v.Secret != nil && *v.Secret.DefaultMode&0o040 == 0 {
			t.Errorf("nobody can't read the Secret %s", v.Secret.SecretName)
		}
	}
}

func TestNodesPodRunsEverywhereAndBeforeOthers(t *testing.T) {
	for file, name := range map[string]string{"calico-etcd.yaml": "DaemonSet calico-node", "calico-uninstall.yaml": "DaemonSet calico-uninstall"} {
		d := find[*appsv1.DaemonSet](t, file, name)
		pod := d.Spec.Template.Spec
		if !pod.HostNetwork || pod.PriorityClassName != "system-node-critical" {
			t.Errorf("%s: host network %v, priority %s", file, pod.HostNetwork, pod.PriorityClassName)
		}
		for _, taint := range []corev1.Taint{
			{Key: "node.kubernetes.io/not-ready", Effect: corev1.TaintEffectNoSchedule},
			{Key: "node.kubernetes.io/network-unavailable", Effect: corev1.TaintEffectNoSchedule},
			{Key: "x", Value: "y", Effect: corev1.TaintEffectNoExecute},
		} {
			if !slices.ContainsFunc(pod.Tolerations, func(tol corev1.Toleration) bool {
				return (tol.Key == "" || tol.Key == taint.Key) && (tol.Effect == "" || tol.Effect == taint.Effect) && tol.Operator == corev1.TolerationOpExists
			}) {
				t.Errorf("%s: does not run on a node with %v", file, taint)
			}
		}
	}
}
