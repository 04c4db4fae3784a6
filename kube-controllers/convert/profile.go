// Package convert says what Kubernetes objects look like in the datastore. It is
// pure. Names and form are those that upstream's kube-controllers writes with
// etcd, so that either can go on with what the other left.
package convert

import (
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"tortie/internal/api"
	"tortie/internal/podendpoint"
)

// How the labels begin that profiles pass on.
const (
	namespaceLabel      = "pcns."
	serviceAccountLabel = "pcsa."
	nameLabel           = "projectcalico.org/name"
)

// NamespaceProfileKey is the key of a namespace's profile.
func NamespaceProfileKey(namespace string) api.Key {
	return api.Key{Kind: api.KindProfile, Name: podendpoint.NamespaceProfile(namespace)}
}

// NamespaceOf is the namespace that a profile stands for.
func NamespaceOf(profile api.Key) (namespace string, ok bool) {
	namespace, ok = strings.CutPrefix(profile.Name, podendpoint.NamespacePrefix)
	return namespace, ok && profile.Kind == api.KindProfile
}

// Namespace is the profile of a namespace: it lets everything through and gives
// its endpoints the namespace's labels.
func Namespace(ns *corev1.Namespace) *v3.Profile {
	p := v3.NewProfile()
	p.Name = podendpoint.NamespaceProfile(ns.Name)
	p.Spec = v3.ProfileSpec{
		Ingress:       []v3.Rule{{Action: v3.Allow}},
		Egress:        []v3.Rule{{Action: v3.Allow}},
		LabelsToApply: prefixed(namespaceLabel, ns.Labels, ns.Name),
	}
	return p
}

// ServiceAccountProfileKey is the key of a service account's profile.
func ServiceAccountProfileKey(namespace, name string) api.Key {
	return api.Key{Kind: api.KindProfile, Name: podendpoint.ServiceAccountProfile(namespace, name)}
}

// ServiceAccountOf is the service account that a profile stands for. A namespace
// has no dot in its name, a service account may.
func ServiceAccountOf(profile api.Key) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(profile.Name, podendpoint.ServiceAccountPrefix)
	if !ok || profile.Kind != api.KindProfile {
		return "", "", false
	}
	return strings.Cut(rest, ".")
}

// ServiceAccount is the profile of a service account: it only gives labels.
func ServiceAccount(sa *corev1.ServiceAccount) *v3.Profile {
	p := v3.NewProfile()
	p.Name = ServiceAccountProfileKey(sa.Namespace, sa.Name).Name
	p.Spec.LabelsToApply = prefixed(serviceAccountLabel, sa.Labels, sa.Name)
	return p
}

// prefixed are labels as a profile passes them on, with the name of their object.
func prefixed(prefix string, labels map[string]string, name string) map[string]string {
	out := make(map[string]string, len(labels)+1)
	for k, v := range labels {
		out[prefix+k] = v
	}
	out[prefix+nameLabel] = name
	return out
}
