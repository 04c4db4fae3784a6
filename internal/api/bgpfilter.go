package api

import (
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// BGPFilter is what may be learned from and announced to the peers that name it. The
// type of the API module has not all the fields that v3.32 stores.
type BGPFilter struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              BGPFilterSpec `json:"spec,omitempty"`
}

// BGPFilterSpec has the rules by direction and family; the first that matches decides.
type BGPFilterSpec struct {
	ExportV4 []BGPFilterRule `json:"exportV4,omitempty"`
	ImportV4 []BGPFilterRule `json:"importV4,omitempty"`
	ExportV6 []BGPFilterRule `json:"exportV6,omitempty"`
	ImportV6 []BGPFilterRule `json:"importV6,omitempty"`
}

// BGPFilterRule decides for the routes that have all it names.
type BGPFilterRule struct {
	CIDR         string                    `json:"cidr,omitempty"`
	PrefixLength *BGPFilterPrefixLength    `json:"prefixLength,omitempty"`
	Source       v3.BGPFilterMatchSource   `json:"source,omitempty"`
	Interface    string                    `json:"interface,omitempty"`
	Operator     v3.BGPFilterMatchOperator `json:"matchOperator,omitempty"`
	PeerType     BGPFilterPeerType         `json:"peerType,omitempty"`
	Communities  *BGPFilterCommunityMatch  `json:"communities,omitempty"`
	ASPathPrefix []ASN                     `json:"asPathPrefix,omitempty"`
	Priority     *int                      `json:"priority,omitempty"`
	Action       v3.BGPFilterAction        `json:"action"`
	Operations   []BGPFilterOperation      `json:"operations,omitempty"`
}

// BGPFilterPrefixLength narrows a CIDR to prefixes of these lengths.
type BGPFilterPrefixLength struct {
	Min *int32 `json:"min,omitempty"`
	Max *int32 `json:"max,omitempty"`
}

// BGPFilterPeerType is a kind of peers.
type BGPFilterPeerType string

// The kinds of peers: those of another AS and those of the node's own.
const (
	BGPFilterExternal BGPFilterPeerType = "eBGP"
	BGPFilterInternal BGPFilterPeerType = "iBGP"
)

// BGPFilterCommunityMatch has the one community that a route has to carry.
type BGPFilterCommunityMatch struct {
	Values []string `json:"values"`
}

// BGPFilterOperation is one change of an accepted route: just one field is set.
type BGPFilterOperation struct {
	AddCommunity  *BGPFilterAddCommunity  `json:"addCommunity,omitempty"`
	PrependASPath *BGPFilterPrependASPath `json:"prependASPath,omitempty"`
	SetPriority   *BGPFilterSetPriority   `json:"setPriority,omitempty"`
}

// BGPFilterAddCommunity adds a community, aa:nn or aa:nn:mm.
type BGPFilterAddCommunity struct {
	Value string `json:"value"`
}

// BGPFilterPrependASPath puts AS numbers before a route's AS path, in this order.
type BGPFilterPrependASPath struct {
	Prefix []ASN `json:"prefix"`
}

// BGPFilterSetPriority sets a route's priority: the less, the more preferred.
type BGPFilterSetPriority struct {
	Value int `json:"value"`
}

// DeepCopyObject copies the filter and all it refers to.
func (f *BGPFilter) DeepCopyObject() runtime.Object {
	out := *f
	f.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	for _, rules := range []*[]BGPFilterRule{&out.Spec.ExportV4, &out.Spec.ImportV4, &out.Spec.ExportV6, &out.Spec.ImportV6} {
		*rules = slices.Clone(*rules)
		for i := range *rules {
			(*rules)[i].deepen()
		}
	}
	return &out
}

// deepen gives a copied rule its own of all that is behind a pointer.
func (r *BGPFilterRule) deepen() {
	if r.PrefixLength != nil {
		r.PrefixLength = &BGPFilterPrefixLength{Min: copyOf(r.PrefixLength.Min), Max: copyOf(r.PrefixLength.Max)}
	}
	if r.Communities != nil {
		r.Communities = &BGPFilterCommunityMatch{Values: slices.Clone(r.Communities.Values)}
	}
	r.ASPathPrefix = slices.Clone(r.ASPathPrefix)
	r.Priority = copyOf(r.Priority)
	r.Operations = slices.Clone(r.Operations)
	for i, op := range r.Operations {
		r.Operations[i] = BGPFilterOperation{AddCommunity: copyOf(op.AddCommunity), SetPriority: copyOf(op.SetPriority)}
		if op.PrependASPath != nil {
			r.Operations[i].PrependASPath = &BGPFilterPrependASPath{Prefix: slices.Clone(op.PrependASPath.Prefix)}
		}
	}
}
