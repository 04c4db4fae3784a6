package api

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// What auto-topology keeps in resources, where programs of upstream pass over it.
const (
	// AnnotationAutoTopology on the BGPConfiguration named default holds the settings; on
	// a BGPPeer it says that auto-topology has made it.
	AnnotationAutoTopology = "tortie/auto-topology"
	// AnnotationAutoTopologyMesh with the value "off" on the BGPConfiguration named default
	// says that it was auto-topology that switched the mesh off.
	AnnotationAutoTopologyMesh = "tortie/auto-topology-mesh"
	// LabelRouteReflector with the value "true" on a Node says that auto-topology has
	// chosen it.
	LabelRouteReflector = "tortie/route-reflector"
	// AutoTopologyPeer is the BGPPeer that auto-topology makes.
	AutoTopologyPeer = "auto-topology"
)

// AutoTopology is what auto-topology is told to do; its zero value is nothing.
type AutoTopology struct {
	// Off: back to the mesh, and then nothing.
	Off bool
	// Above is the number of nodes above which there are reflectors.
	Above int
	// Reflectors is how many, spread over the values that nodes have of ZoneLabel.
	Reflectors int
	ZoneLabel  string
	// ClusterID is that of all of them.
	ClusterID string
}

// DefaultAutoTopology has all but Above.
func DefaultAutoTopology() AutoTopology {
	return AutoTopology{Reflectors: 3, ZoneLabel: "topology.kubernetes.io/zone", ClusterID: "224.0.0.1"}
}

const (
	autoTopologyOff = "off"
	// maxAbove and maxReflectors are more than anyone has a use for.
	maxAbove      = 100000
	maxReflectors = 15
)

// String is the form that ParseAutoTopology reads.
func (a AutoTopology) String() string {
	if a.Off {
		return autoTopologyOff
	}
	return fmt.Sprintf("above=%d reflectors=%d zone-label=%s cluster-id=%s", a.Above, a.Reflectors, a.ZoneLabel, a.ClusterID)
}

// ParseAutoTopology reads the value of AnnotationAutoTopology: off, or above=100 and what
// else differs from the defaults.
func ParseAutoTopology(text string) (AutoTopology, error) {
	if text == "" {
		return AutoTopology{}, nil
	}
	if text == autoTopologyOff {
		return AutoTopology{Off: true}, nil
	}
	a := DefaultAutoTopology()
	given := map[string]bool{}
	for word := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(word, "=")
		if given[key] {
			return AutoTopology{}, fmt.Errorf("%s is given twice", key)
		}
		given[key] = true
		var err error
		switch key {
		case "above":
			a.Above, err = strconv.Atoi(value)
		case "reflectors":
			a.Reflectors, err = strconv.Atoi(value)
		case "zone-label":
			a.ZoneLabel = value
		case "cluster-id":
			a.ClusterID = value
		default:
			return AutoTopology{}, fmt.Errorf(`%q: want off, or words of above=100 reflectors=3 zone-label=topology.kubernetes.io/zone cluster-id=224.0.0.1`, word)
		}
		if err != nil {
			return AutoTopology{}, fmt.Errorf("%s=%s: want a number", key, value)
		}
	}
	if !given["above"] {
		return AutoTopology{}, fmt.Errorf("above is missing, want a number of nodes as in above=100")
	}
	return a, a.Problem()
}

// Problem is what makes no sense in settings that are on.
func (a AutoTopology) Problem() error {
	id, err := netip.ParseAddr(a.ClusterID)
	bad := validation.IsQualifiedName(a.ZoneLabel)
	switch {
	case a.Above < 1 || a.Above > maxAbove:
		return fmt.Errorf("above=%d: want a number of nodes from 1 to %d", a.Above, maxAbove)
	case a.Reflectors < 1 || a.Reflectors > maxReflectors:
		return fmt.Errorf("reflectors=%d: want 1 to %d", a.Reflectors, maxReflectors)
	case len(bad) > 0:
		return fmt.Errorf("zone-label=%s: %s", a.ZoneLabel, bad[0])
	case err != nil || !id.Is4() || id.IsUnspecified():
		return fmt.Errorf("cluster-id=%s: want the form of an IPv4 address, for example 224.0.0.1", a.ClusterID)
	}
	return nil
}

// autoTopology checks the settings.
func (c *checker) autoTopology(name string, annotations map[string]string) {
	value, set := annotations[AnnotationAutoTopology]
	field := fmt.Sprintf("metadata.annotations[%s]", AnnotationAutoTopology)
	if set && name != "default" {
		c.missing(field, "can only be set in the BGPConfiguration named default")
	} else if _, err := ParseAutoTopology(value); err != nil {
		c.bad(field, value, "%v", err)
	}
}
