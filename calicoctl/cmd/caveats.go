package cmd

import (
	"fmt"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

// caveats say which of the objects written ask for something that the daemons of
// this version don't do: once for each such thing, however many objects ask.
func caveats(written []api.Object) []string {
	var (
		texts    []string
		policies bool
		ipip     []string
	)
	for _, obj := range written {
		switch o := obj.(type) {
		case *v3.NetworkPolicy, *v3.GlobalNetworkPolicy: // a staged policy enforces nothing anywhere
			policies = true
		case *v3.IPPool:
			if mode := o.Spec.IPIPMode; mode != "" && mode != v3.IPIPModeNever {
				ipip = append(ipip, fmt.Sprintf("%s (ipipMode %s)", o.Name, mode))
			}
		default:
			texts = append(texts, bgpCaveats(o)...)
		}
	}
	if policies {
		texts = append(texts, "network policies are stored but not enforced yet; all traffic stays allowed, whatever they say")
	}
	if len(ipip) > 0 {
		texts = append(texts, fmt.Sprintf("IP pool %s: IPIP is stored but not carried out yet; pods are routed without encapsulation, "+
			"so routers between the nodes must know the routes to them; vxlanMode is carried out", strings.Join(ipip, ", ")))
	}
	return texts
}

// bgpCaveats are those of one object about BGP.
func bgpCaveats(obj api.Object) (texts []string) {
	switch o := obj.(type) {
	case *v3.BGPPeer:
		if fields := api.UnservedPeerFields(&o.Spec); len(fields) > 0 {
			texts = append(texts, fmt.Sprintf("BGPPeer %s: spec.%s: stored but not carried out yet; no session is made with the peer until it is unset",
				o.Name, strings.Join(fields, ", spec.")))
		}
	case *v3.BGPConfiguration:
		if fields := api.UnservedBGPFields(&o.Spec); len(fields) > 0 {
			texts = append(texts, fmt.Sprintf("BGPConfiguration %s: spec.%s: stored but not carried out yet", o.Name, strings.Join(fields, ", spec.")))
		}
		if o.Spec.NodeMeshPassword != nil {
			texts = append(texts, fmt.Sprintf("BGPConfiguration %s: spec.nodeMeshPassword: passwords can't be read yet; the mesh is off until it is unset", o.Name))
		}
	}
	return texts
}
