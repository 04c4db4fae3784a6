package api_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

// TestNameThatLooksLikeOursAndIsNotIsTold: an annotation or a label that was misspelt, or
// put where nobody reads it, is named with what was probably meant.
func TestNameThatLooksLikeOursAndIsNotIsTold(t *testing.T) {
	const ofPeer = "A BGPPeer can have tortie/add-path, tortie/auto-topology, tortie/bfd, tortie/long-lived-restart, tortie/timers"
	for _, tt := range []struct {
		name                string
		kind                api.Kind
		annotations, labels []string
		want                []string
	}{
		{"known", api.KindBGPPeer, []string{"tortie/bfd", "tortie/timers", "tortie/auto-topology", "example.org/timer"}, []string{"rack"}, nil},
		{"misspelt", api.KindBGPPeer, []string{"tortie/timer"}, nil, []string{"annotation tortie/timer: there is no such one, did you mean tortie/timers? " + ofPeer}},
		{"nothing near", api.KindBGPPeer, []string{"tortie/colour-of-the-peer"}, nil, []string{
			"annotation tortie/colour-of-the-peer: there is no such one; a BGPPeer can have tortie/add-path, tortie/auto-topology, tortie/bfd, tortie/long-lived-restart, tortie/timers",
		}},
		{"of another kind", api.KindIPPool, []string{"tortie/bfd"}, nil, []string{"annotation tortie/bfd: there is no such one for an IPPool"}},
		{"a label as an annotation", api.KindNode, []string{"tortie/graceful-shutdown"}, nil, []string{
			"annotation tortie/graceful-shutdown: nobody reads it there; set it as a label",
		}},
		{"an annotation as a label", api.KindBGPConfiguration, nil, []string{"tortie/auto-topology"}, []string{
			"label tortie/auto-topology: nobody reads it there; set it as an annotation",
		}},
		{"a label misspelt", api.KindNode, []string{"tortie/new-wireguard-keys"}, []string{"tortie/graceful-shutdwn", "tortie/route-reflector"}, []string{
			"label tortie/graceful-shutdwn: there is no such one, did you mean tortie/graceful-shutdown? A Node can have tortie/graceful-shutdown, tortie/route-reflector",
		}},
		{"written by felix", api.KindNode, []string{api.AnnotationIPv4From, api.AnnotationIPv6From, api.AnnotationFloatingAddresses}, nil, nil},
		{"written by a program", api.KindCalicoNodeStatus, []string{"tortie/bgp-peers"}, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := metav1.ObjectMeta{Annotations: map[string]string{}, Labels: map[string]string{}}
			for _, name := range tt.annotations {
				o.Annotations[name] = "x"
			}
			for _, name := range tt.labels {
				o.Labels[name] = "true"
			}
			if diff := cmp.Diff(tt.want, slices.Clone(api.StrangeNames(tt.kind, &o))); diff != "" {
				t.Error(diff)
			}
		})
	}
}
