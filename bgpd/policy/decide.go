package policy

import (
	"net/netip"
	"slices"
	"strings"

	"tortie/bgpd/speaker"
)

// Route is what rules look at and change.
type Route struct {
	Prefix netip.Prefix
	// Own: the speaker originates it. NextHop is then nothing to go by.
	Own     bool
	NextHop netip.Addr
	// ASPath is the leading sequence, before the speaker adds its own AS number.
	ASPath      []uint32
	Communities []speaker.Community
	LocalPref   uint32
}

// Decide is what rules make of a route, and the number of the rule that decided; -1
// when none matched, which accepts the route.
func Decide(rules []speaker.Rule, links []speaker.Link, r Route) (out Route, accepted bool, by int) {
	for i := range rules {
		if !Matches(&rules[i], links, r) {
			continue
		}
		if !rules[i].Accept {
			return r, false, i
		}
		return change(&rules[i], r), true, i
	}
	return r, true, -1
}

// Matches reports whether a route has all that a rule names.
func Matches(rule *speaker.Rule, links []speaker.Link, r Route) bool {
	switch {
	case rule.Prefix.IsValid() && inside(rule, r.Prefix) == rule.Outside:
		return false
	case rule.Learned && r.Own:
		return false
	case rule.Interface != "" && (r.Own || !on(OnLinks(rule.Interface, links), r.NextHop)):
		return false
	case rule.Community != (speaker.Community{}) && !slices.Contains(r.Communities, rule.Community):
		return false
	}
	return len(rule.ASPath) <= len(r.ASPath) && slices.Equal(rule.ASPath, r.ASPath[:len(rule.ASPath)])
}

func inside(rule *speaker.Rule, p netip.Prefix) bool {
	return rule.Prefix.Contains(p.Addr()) && rule.Min <= p.Bits() && p.Bits() <= rule.Max
}

func change(rule *speaker.Rule, r Route) Route {
	r.ASPath = slices.Concat(rule.Prepend, r.ASPath)
	r.Communities = slices.Clone(r.Communities)
	for _, c := range rule.Add {
		if !slices.Contains(r.Communities, c) {
			r.Communities = append(r.Communities, c)
		}
	}
	if rule.LocalPref != 0 {
		r.LocalPref = rule.LocalPref
	}
	return r
}

// OnLinks are the subnets of the devices that a name with "*" in it means.
func OnLinks(pattern string, links []speaker.Link) []netip.Prefix {
	var out []netip.Prefix
	for _, l := range links {
		if MatchesDevice(pattern, l.Name) {
			out = append(out, l.Subnet)
		}
	}
	return out
}

// MatchesDevice reports whether pattern, with "*" for any characters, means a device.
func MatchesDevice(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	first, middle, last := parts[0], parts[1:len(parts)-1], parts[len(parts)-1]
	rest, ok := strings.CutPrefix(name, first)
	if !ok {
		return false
	}
	for _, part := range middle {
		if _, rest, ok = strings.Cut(rest, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(rest, last)
}

func on(subnets []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(a) })
}
