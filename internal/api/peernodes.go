package api

import (
	"fmt"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/selector"
)

// PeerWithoutNode says by which field a BGPPeer means none of the nodes, so that nobody
// has a session by it; empty when there is one, and in a cluster that has no nodes yet. A
// selector that can't be read is another matter.
func PeerWithoutNode(p *v3.BGPPeer, nodes []*Node) string {
	if len(nodes) == 0 {
		return ""
	}
	if p.Spec.Node != "" {
		for _, n := range nodes {
			if n.Name == p.Spec.Node {
				return ""
			}
		}
		return fmt.Sprintf("spec.node: there is no Node %s", p.Spec.Node)
	}
	for _, field := range []struct{ name, selector string }{
		{"spec.nodeSelector", p.Spec.NodeSelector}, {"spec.peerSelector", p.Spec.PeerSelector},
	} {
		if field.selector != "" && selectsNone(field.selector, nodes) {
			return fmt.Sprintf("%s %s matches no Node: see the labels in calicoctl get nodes -o yaml", field.name, field.selector)
		}
	}
	return ""
}

func selectsNone(text string, nodes []*Node) bool {
	sel, err := selector.Parse(text)
	if err != nil {
		return false
	}
	for _, n := range nodes {
		if sel.Matches(n.Labels) {
			return false
		}
	}
	return true
}
