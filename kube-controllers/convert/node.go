package convert

import (
	"encoding/json"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"

	"tortie/internal/api"
)

// kubeLabels is the annotation of a Node that remembers which of its labels came
// from Kubernetes, as a JSON object.
const kubeLabels = "projectcalico.org/kube-labels"

// LabelsOf are the labels that a node has in Kubernetes, and one more while it is cordoned.
func LabelsOf(n *corev1.Node) map[string]string {
	if !n.Spec.Unschedulable {
		return n.Labels
	}
	labels := maps.Clone(n.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[api.LabelGracefulShutdown] = "true"
	return labels
}

// NodeLabels is a Node with the labels it has in Kubernetes. Those that came from
// there before and are gone are removed; an operator's own labels stay. changed is
// false when nothing is to be done; the Node is then returned as it is.
//
// An annotation that can't be read counts as none: what it remembered can't be
// told from an operator's labels and stays.
func NodeLabels(node *api.Node, labels map[string]string) (out *api.Node, changed bool, err error) {
	var before map[string]string
	if text := node.Annotations[kubeLabels]; text != "" && json.Unmarshal([]byte(text), &before) != nil {
		before = nil
	}
	if labels == nil {
		labels = map[string]string{}
	}
	remembered, err := json.Marshal(labels)
	if err != nil {
		return nil, false, fmt.Errorf("write annotation %s: %w", kubeLabels, err)
	}
	want := maps.Clone(node.Labels)
	if want == nil {
		want = make(map[string]string, len(labels))
	}
	for k := range before {
		delete(want, k)
	}
	maps.Copy(want, labels)
	if maps.Equal(want, node.Labels) && node.Annotations[kubeLabels] == string(remembered) {
		return node, false, nil
	}
	out = node.DeepCopyObject().(*api.Node)
	out.Labels = want
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	out.Annotations[kubeLabels] = string(remembered)
	return out, true, nil
}
