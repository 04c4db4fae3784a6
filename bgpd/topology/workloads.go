package topology

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/bgpd/speaker"
	"tortie/internal/api"
)

// workloads are the sessions of a localWorkloadSelector: with each pod of this node that
// it selects, at the pod's own address of each family for which the node has one to peer
// at.
func (c *computation) workloads(r *v3.BGPPeer) ([]Peer, error) {
	c.out.WantsWorkloads = true
	selected := api.PodsOf(r, c.self.name, c.self.labels)
	if problems := api.PeerProblems(r); len(problems) > 0 {
		return nil, errors.New(problems[0].String())
	}
	if selected == nil {
		return nil, nil
	}
	if c.settings.peering == (api.PeeringAddresses{}) {
		return nil, fmt.Errorf("spec.localWorkloadSelector needs an address that pods connect to: set spec.localWorkloadPeeringIPV4 or " +
			"spec.localWorkloadPeeringIPV6 of the BGPConfiguration default, for example to 169.254.0.179")
	}
	var out []Peer
	for _, w := range c.in.Workloads {
		if w.Spec.Node != c.self.name || !selected(w.Labels) {
			continue
		}
		for _, network := range w.Spec.IPNetworks {
			p, err := netip.ParsePrefix(network)
			local := c.settings.peering.Of(p.Addr())
			if err != nil || !p.IsSingleIP() || !local.IsValid() {
				continue // what is wrong with the endpoint is felix's to say
			}
			out = append(out, Peer{Workload: w.Namespace + "/" + podName(w), Peer: speaker.Peer{
				Address: p.Addr(), Port: DefaultPort, ASN: uint32(r.Spec.ASNumber), LocalAddress: local, RestartTime: DefaultRestartTime,
			}})
		}
	}
	slices.SortFunc(out, func(a, b Peer) int { return a.Address.Compare(b.Address) })
	return out, nil
}

func podName(w *api.WorkloadEndpoint) string {
	if w.Spec.Pod != "" {
		return w.Spec.Pod
	}
	return strings.TrimSuffix(w.Name, "-eth0")
}
