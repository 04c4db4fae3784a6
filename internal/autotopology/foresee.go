package autotopology

import (
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/bgpsummary"
)

// Foresee is all that would be done from here on, if every session came up: the steps, the
// resources in the end, and what would stand in the way there.
func Foresee(in Input) (steps []Step, end Input, refused []string) {
	end = in
	for range 2*len(in.Nodes) + 10 { // each node changes twice at most
		end.Asked, end.Summaries = WellOff(end)
		out := Next(end)
		if out.Step == nil {
			return steps, end, out.Refused
		}
		steps = append(steps, *out.Step)
		end = end.After(*out.Step)
	}
	return steps, end, nil
}

// WellOff are the summaries of nodes that all act by the resources as they are, with every
// session up.
func WellOff(in Input) (asked map[string]bool, summaries map[string]bgpsummary.Summary) {
	asked, summaries = map[string]bool{}, map[string]bgpsummary.Summary{}
	settings, err := settingsOf(in.Config)
	if err != nil {
		return asked, summaries
	}
	c := read(in, settings)
	for _, m := range c.nodes {
		ours, mesh := c.expected(m)
		asked[m.Name] = true
		summaries[m.Name] = bgpsummary.Summary{
			ClusterID: m.Spec.BGP.RouteReflectorClusterID,
			Mesh:      bgpsummary.Group{Sessions: mesh, Youngest: settleSeconds},
			Peers:     map[string]bgpsummary.Group{api.AutoTopologyPeer: {Sessions: ours, Youngest: settleSeconds}},
		}
	}
	return asked, summaries
}

// After is the Input with a step carried out.
func (in Input) After(s Step) Input {
	switch o := s.Object.(type) {
	case *api.Node:
		in.Nodes = after(in.Nodes, o, s.Verb)
	case *v3.BGPPeer:
		in.Peers = after(in.Peers, o, s.Verb)
	case *v3.BGPConfiguration:
		in.Config = o
	}
	return in
}

func after[T api.Object](list []T, obj T, verb Verb) []T {
	out := slices.DeleteFunc(slices.Clone(list), func(o T) bool {
		return o.GetName() == obj.GetName()
	})
	if verb != Delete {
		out = append(out, obj)
	}
	return out
}
