package speaker

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Filter is what may be learned from a peer and announced to it. The first rule that
// matches a route decides; a route that none matches is accepted.
type Filter struct {
	Import, Export []Rule
}

// Empty reports whether the filter accepts everything as it is.
func (f Filter) Empty() bool { return len(f.Import) == 0 && len(f.Export) == 0 }

// Rule decides for the routes that have all it names.
type Rule struct {
	// Name says where the rule stands: "BGPFilter f spec.importV4[0]".
	Name string
	// Prefix and the prefix lengths, both included, that a route's prefix must lie in, or
	// must not with Outside; an invalid Prefix is any.
	Prefix   netip.Prefix
	Min, Max int
	Outside  bool
	// Learned leaves out what the speaker originates.
	Learned bool
	// Interface is the name of a device, "*" in it for any characters, that has the subnet
	// of the route's next hop. What the speaker originates has no next hop.
	Interface string
	// Community is one that the route must carry; the zero value is any.
	Community Community
	// ASPath is what the AS path must begin with, before the speaker adds its own.
	ASPath []uint32

	Accept bool
	// What an accepted route is changed by; a LocalPref of 0 leaves it.
	Add       []Community
	Prepend   []uint32
	LocalPref uint32
}

// Community is a standard (RFC 1997, aa:nn) or large (RFC 8092, aa:nn:mm) community.
// The zero value is none: 0:0 is reserved.
type Community struct {
	Large   bool
	A, B, C uint32
}

// LongLivedStale is carried by routes kept for a peer that has long been away (RFC 9494).
func LongLivedStale() Community { return Community{A: 65535, B: 6} }

// ParseCommunity reads aa:nn or aa:nn:mm.
func ParseCommunity(s string) (Community, error) {
	parts := strings.Split(s, ":")
	bits, large := 16, len(parts) == 3
	if large {
		bits = 32
	}
	var n [3]uint32
	for i, part := range parts {
		v, err := strconv.ParseUint(part, 10, bits)
		if err != nil || len(parts) < 2 || len(parts) > 3 {
			return Community{}, fmt.Errorf("%q is no community: want aa:nn (16 bits each) or aa:nn:mm (32 bits each)", s)
		}
		n[i] = uint32(v)
	}
	c := Community{Large: large, A: n[0], B: n[1], C: n[2]}
	if c == (Community{}) {
		return c, fmt.Errorf("community 0:0 is reserved (RFC 1997): choose another")
	}
	return c, nil
}

// String is aa:nn or aa:nn:mm.
func (c Community) String() string {
	if c.Large {
		return fmt.Sprintf("%d:%d:%d", c.A, c.B, c.C)
	}
	return fmt.Sprintf("%d:%d", c.A, c.B)
}

// Compare orders standard communities before large ones, each by number.
func (c Community) Compare(d Community) int {
	switch {
	case c.Large == d.Large:
		return cmp.Or(cmp.Compare(c.A, d.A), cmp.Compare(c.B, d.B), cmp.Compare(c.C, d.C))
	case d.Large:
		return -1
	}
	return 1
}
