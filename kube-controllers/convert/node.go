package convert

import (
	"encoding/json"
	"fmt"
	"maps"

	"tortie/internal/api"
)

// kubeLabels is the annotation of a Node that remembers which of its labels came
// from Kubernetes, as a JSON object.
const kubeLabels = "projectcalico.org/kube-labels"

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
