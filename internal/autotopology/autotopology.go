// Package autotopology changes a cluster from the node-to-node mesh to elected route
// reflectors and back, one write at a time, so that no route is lost at any moment. It is
// pure: what is to be done next depends on the present resources, and on what nodes say of
// their sessions, only. So it may be interrupted anywhere, and be carried out by several.
//
// The order, which is what keeps the routes (each arrow waits until what was made is up):
//
//	to reflectors: BGPPeer, labels → cluster IDs, one node after the other → mesh off
//	to the mesh:   mesh on → cluster IDs and labels away, one node after the other → BGPPeer away
//	another one:   its label → its cluster ID → the old one's cluster ID away → the old one's label away
//
// A label alone makes sessions with all nodes and changes none. A cluster ID that comes or
// goes resets all sessions of its node, and the other reflectors withdraw the node's routes
// meanwhile: only nodes that have sessions with it themselves keep them. So a node has its
// label before, while and after it has a cluster ID.
package autotopology

import (
	"fmt"
	"maps"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/bgpsummary"
)

// Input is everything that Next looks at. Its objects are not changed.
type Input struct {
	Nodes []*api.Node
	// Config is the BGPConfiguration named default; nil for none.
	Config  *v3.BGPConfiguration
	Peers   []*v3.BGPPeer
	Filters []*api.BGPFilter
	// Unfit says of nodes, by name, why they had better be no reflectors, besides what is
	// in their resources.
	Unfit map[string]string
	// Asked are the nodes that were asked for a summary, Summaries what they answered.
	Asked     map[string]bool
	Summaries map[string]bgpsummary.Summary
}

// Outcome is what is to be done. At most one of Refused, Step, Ask and Wait is set; none
// means that all is as it should be.
type Outcome struct {
	State State
	// Refused says what stands in the way, and what to do about it.
	Refused []string
	// Step is the next write.
	Step *Step
	// Ask are nodes whose summaries are needed, besides those that have been asked.
	Ask []string
	// Wait says what has to come first.
	Wait []string
}

// Done reports whether all is as it should be.
func (o Outcome) Done() bool {
	return o.Step == nil && len(o.Refused)+len(o.Ask)+len(o.Wait) == 0
}

// Verb is what a Step does with its object.
type Verb int

// The verbs.
const (
	Create Verb = iota + 1
	Update
	Delete
)

// Step is one write. It may only be made while none of what it depends on has changed
// since it was read.
type Step struct {
	Verb   Verb
	Object api.Object
	// DependsOn are other objects of the Input.
	DependsOn []api.Object
	// What the write does, as in "label node3".
	What string
}

// State is the cluster as an operator wants to see it.
type State struct {
	Settings api.AutoTopology
	// Nodes is how many speak BGP, Back at how many there is a mesh again.
	Nodes, Back int
	// Mesh: it is on. Wanted: there are to be reflectors.
	Mesh, Wanted bool
	// Reflectors are the nodes that are, become or were reflectors.
	Reflectors []Reflector
	// Unfit says why nodes are not chosen.
	Unfit map[string]string
}

// Reflector is a node with a part in it.
type Reflector struct {
	Node, Zone string
	// Labelled and Acting: it has the label, and the cluster ID.
	Labelled, Acting bool
	// Chosen: it is to be one.
	Chosen bool
}

// Next is what is to be done.
func Next(in Input) Outcome {
	settings, err := settingsOf(in.Config)
	if err != nil {
		return Outcome{Refused: []string{fmt.Sprintf("BGPConfiguration default: annotation %s: %v; until then nothing is changed: "+
			"calicoctl bgp auto-topology --above=N writes it anew", api.AnnotationAutoTopology, err)}}
	}
	c := read(in, settings)
	out := Outcome{State: c.state()}
	if settings == (api.AutoTopology{}) && !c.involved() {
		return out
	}
	if out.Refused = c.refusals(); len(out.Refused) > 0 {
		return out
	}
	var step *Step
	if c.wanted {
		step = c.forward()
	} else {
		step = c.back()
	}
	switch {
	case len(c.asks) > 0:
		out.Ask = slices.Sorted(maps.Keys(c.asks))
	case len(c.waits) > 0:
		out.Wait = c.waits
	default:
		out.Step = step
	}
	return out
}

func settingsOf(config *v3.BGPConfiguration) (api.AutoTopology, error) {
	if config == nil {
		return api.AutoTopology{}, nil
	}
	return api.ParseAutoTopology(config.Annotations[api.AnnotationAutoTopology])
}

// backAt is how few nodes there have to be for a mesh again, so that a node more or less
// doesn't turn the cluster over.
func backAt(above int) int { return max(0, above-max(1, above/10)) }
