package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/suggest"
)

// ownPrefix begins the names of annotations and labels that no program of upstream knows.
const ownPrefix = "tortie/"

// ownNames are the annotations and labels beginning with ownPrefix that mean something on
// the objects of a kind.
func ownNames(kind Kind) (annotations, labels []string) {
	switch kind {
	case KindBGPPeer:
		return append(SessionAnnotations(), AnnotationAutoTopology), nil
	case KindBGPConfiguration:
		return append(SessionAnnotations(), AnnotationAutoTopology, AnnotationAutoTopologyMesh), nil
	case KindNode:
		return []string{AnnotationNewWireguardKeys}, []string{LabelGracefulShutdown, LabelRouteReflector}
	}
	return nil, nil
}

// writtenNames are the annotations that programs write into objects of a kind: they are no
// mistake, and nothing an operator sets.
func writtenNames(kind Kind) []string {
	if kind == KindNode {
		return []string{AnnotationIPv4From, AnnotationIPv6From, AnnotationFloatingAddresses}
	}
	return nil
}

// StrangeNames are the annotations and labels of an object that look like ours and that
// nobody reads there: what was meant by a misspelt one would be missed in silence. What
// programs write into their own objects is not looked at.
func StrangeNames(kind Kind, o metav1.Object) (texts []string) {
	switch kind {
	case KindWorkloadEndpoint, KindCalicoNodeStatus:
		return nil
	}
	annotations, labels := ownNames(kind)
	slices.Sort(annotations)
	a, l := ofSort{"annotation", annotations}, ofSort{"label", labels}
	given := maps.Clone(o.GetAnnotations())
	for _, name := range writtenNames(kind) {
		delete(given, name)
	}
	return append(strange(kind, given, a, l), strange(kind, o.GetLabels(), l, a)...)
}

// ofSort are the names that are known of annotations, or of labels, in order.
type ofSort struct {
	what  string
	names []string
}

// strange names those given that are none of sort.
func strange(kind Kind, given map[string]string, sort, other ofSort) (texts []string) {
	known := sort.names
	for _, name := range sortedKeys(given) {
		if !strings.HasPrefix(name, ownPrefix) || slices.Contains(known, name) {
			continue
		}
		near := suggest.Nearest(name, known)
		var why string
		switch {
		case slices.Contains(other.names, name):
			why = fmt.Sprintf("nobody reads it there; set it as %s %s", articleOf(other.what), other.what)
		case near != "" && len(known) == 1:
			why = fmt.Sprintf("there is no such one, did you mean %s?", near)
		case near != "":
			why = fmt.Sprintf("there is no such one, did you mean %s? A %s can have %s", near, kind, strings.Join(known, ", "))
		case len(known) > 0:
			why = fmt.Sprintf("there is no such one; a %s can have %s", kind, strings.Join(known, ", "))
		default:
			why = fmt.Sprintf("there is no such one for %s %s", articleOf(string(kind)), kind)
		}
		texts = append(texts, fmt.Sprintf("%s %s: %s", sort.what, name, why))
	}
	return texts
}

func articleOf(noun string) string {
	if strings.ContainsAny(noun[:1], "aeioAEIO") {
		return "an"
	}
	return "a"
}
