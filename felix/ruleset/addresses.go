package ruleset

import (
	"fmt"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// Version is one of the two versions of IP.
type Version int

// The versions.
const (
	V4 Version = 4
	V6 Version = 6
)

// Keyword is the version's name in nft's expressions.
func (v Version) Keyword() string {
	if v == V4 {
		return "ip"
	}
	return "ip6"
}

// Prefixes is a set of prefixes of the version, called by the name and the version.
func (v Version) Prefixes(name string) Set {
	return Set{Name: v.Name(name), Type: fmt.Sprintf("ipv%d_addr", v), Intervals: true}
}

// PrefixesByDevice is a set of pairs of a device and a prefix of the version.
func (v Version) PrefixesByDevice(name string) Set {
	return Set{Name: v.Name(name), Type: fmt.Sprintf("ifname . ipv%d_addr", v), Intervals: true}
}

// CoverOf is Cover for one device of such a set.
func (v Version) CoverOf(device string, prefixes []netip.Prefix) []string {
	list := v.Cover(prefixes, nil)
	for i, text := range list {
		if p := netip.MustParsePrefix(text); p.IsSingleIP() {
			text = p.Addr().String()
		}
		list[i] = device + concat + text
	}
	return list
}

// Name is a name of a set for the version.
func (v Version) Name(name string) string { return fmt.Sprintf("%s-ipv%d", name, v) }

// Cover is the fewest prefixes of the version with the same addresses, less those
// excepted, as the elements of a set: nft refuses overlaps. Invalid prefixes are left
// out.
func (v Version) Cover(prefixes, except []netip.Prefix) []string {
	var b netipx.IPSetBuilder
	for _, p := range prefixes {
		if p.IsValid() && p.Addr().Is4() == (v == V4) {
			b.AddPrefix(p.Masked())
		}
	}
	for _, p := range except {
		if p.IsValid() {
			b.RemovePrefix(p.Masked())
		}
	}
	set, err := b.IPSet()
	if err != nil {
		return nil // of invalid prefixes only
	}
	var list []string
	for _, p := range set.Prefixes() {
		list = append(list, p.String())
	}
	slices.Sort(list)
	return list
}
