package api

import (
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// readPlainBlock reads the stored value of a block, as the JSON decoder does, if it
// is in the form that programs write. Every assigned address of the cluster changes
// a block, and all who follow blocks read it whole: this takes a quarter of the time.
//
// It is false, and says nothing about the value, for whatever it does not take:
// see plainJSON, and fields that are unknown or given twice.
func readPlainBlock(value []byte) (IPAMBlockSpec, bool) {
	r := blockReader{plainJSON: plainJSON{text: value}}
	r.block()
	return r.spec, r.complete()
}

type blockReader struct {
	plainJSON
	spec IPAMBlockSpec
	// last are the values of well-known names in the attributes before: most have
	// equal ones.
	last [6]string
}

// ownerNames are the well-known names of attributes, sorted.
func ownerNames() [6]string {
	return [...]string{AttributeNamespace, AttributeNode, AttributePod, AttributePodUID, AttributeTimestamp, AttributeType}
}

func (r *blockReader) block() {
	var seen fieldSet
	s := &r.spec
	r.object(func(name []byte) {
		switch string(name) {
		case "cidr":
			r.once(&seen, 0)
			s.CIDR = string(r.str())
		case "affinity":
			r.once(&seen, 1)
			s.Affinity = r.optionalText()
		case "affinity_claim_time":
			r.once(&seen, 2)
			s.AffinityClaimTime = r.optionalTime()
		case "allocations":
			r.once(&seen, 3)
			s.Allocations = r.allocations()
		case "unallocated":
			r.once(&seen, 4)
			s.Unallocated = r.ordinals()
		case "attributes":
			r.once(&seen, 5)
			s.Attributes = r.attributes()
		case "sequenceNumber":
			r.once(&seen, 6)
			s.SequenceNumber = r.number()
		case "sequenceNumberForAllocation":
			r.once(&seen, 7)
			s.SequenceNumberForAllocation = r.sequenceNumbers()
		case "deleted":
			r.once(&seen, 8)
			s.Deleted = r.boolean()
		case "hostAffinity":
			r.once(&seen, 9)
			s.HostAffinity = r.optionalText()
		default:
			r.refuse()
		}
	})
}

// usualBlock is how many addresses a block has by default.
const usualBlock = 64

// allocations are read into few pieces of memory instead of one for each.
func (r *blockReader) allocations() []*int {
	if r.null() {
		return nil
	}
	all, piece := make([]*int, 0, usualBlock), []int(nil)
	r.list(func() {
		if r.null() {
			all = append(all, nil)
			return
		}
		if len(piece) == cap(piece) {
			piece = make([]int, 0, usualBlock)
		}
		piece = append(piece, r.ordinal())
		all = append(all, &piece[len(piece)-1])
	})
	return all
}

func (r *blockReader) ordinals() []int {
	if r.null() {
		return nil
	}
	all := make([]int, 0, usualBlock)
	r.list(func() { all = append(all, r.ordinal()) })
	return all
}

func (r *blockReader) attributes() []BlockAttributes {
	if r.null() {
		return nil
	}
	all := make([]BlockAttributes, 0, usualBlock)
	r.list(func() { all = append(all, r.attribute()) })
	return all
}

func (r *blockReader) attribute() (a BlockAttributes) {
	var seen fieldSet
	r.object(func(name []byte) {
		switch string(name) {
		case "handle_id":
			r.once(&seen, 0)
			a.HandleID = r.optionalText()
		case "secondary":
			r.once(&seen, 1)
			a.ActiveOwnerAttrs = r.ownerAttrs()
		case "alternateOwnerAttrs":
			r.once(&seen, 2)
			a.AlternateOwnerAttrs = r.ownerAttrs()
		default:
			r.refuse()
		}
	})
	return a
}

func (r *blockReader) ownerAttrs() map[string]string {
	if r.null() {
		return nil
	}
	attrs := make(map[string]string, 4)
	r.object(func(name []byte) {
		text := r.str()
		i := wellKnown(name)
		if i < 0 {
			attrs[string(name)] = string(text)
			return
		}
		if r.last[i] != string(text) {
			r.last[i] = string(text)
		}
		attrs[ownerNames()[i]] = r.last[i]
	})
	return attrs
}

// wellKnown is the place of a name in ownerNames, or -1.
func wellKnown(name []byte) int {
	for i, known := range ownerNames() {
		if string(name) == known {
			return i
		}
	}
	return -1
}

func (r *blockReader) sequenceNumbers() map[string]uint64 {
	if r.null() {
		return nil
	}
	numbers := make(map[string]uint64, len(r.spec.Attributes))
	r.object(func(name []byte) { numbers[ordinalName(name)] = r.number() })
	return numbers
}

// ordinalName gives a small number without making a string of it.
func ordinalName(name []byte) string {
	n := 0
	for _, c := range name {
		if c < '0' || c > '9' || n > 9 {
			return string(name)
		}
		n = 10*n + int(c-'0')
	}
	if small := strconv.Itoa(n); small == string(name) {
		return small
	}
	return string(name)
}

func (r *blockReader) optionalText() *string {
	if r.null() {
		return nil
	}
	text := string(r.str())
	return &text
}

func (r *blockReader) optionalTime() *metav1.Time {
	if r.null() {
		return nil
	}
	start := r.pos
	r.str()
	t := &metav1.Time{}
	if r.refused || t.UnmarshalJSON(r.text[start:r.pos]) != nil {
		r.refuse()
	}
	return t
}
