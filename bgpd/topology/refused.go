package topology

import (
	"cmp"
	"fmt"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

// refused notes that a BGPPeer meant for this node is not configured, and why.
func (c *computation) refused(r *v3.BGPPeer, format string, args ...any) {
	problem := fmt.Sprintf(format, args...)
	c.problem("BGPPeer %s: %s", r.Name, problem)
	c.out.Refused = append(c.out.Refused, Refused{
		Name: r.Name, Address: cmp.Or(r.Spec.PeerIP, r.Spec.PeerSelector, r.Spec.LocalWorkloadSelector), ASN: uint32(r.Spec.ASNumber),
		Type: typeOf(r), Problem: problem,
	})
}

func typeOf(r *v3.BGPPeer) PeerType {
	if rank(r) == 2 {
		return GlobalPeer
	}
	return NodeSpecific
}
