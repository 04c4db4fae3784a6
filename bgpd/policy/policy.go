// Package policy reads BGPFilter resources into the rules of a session, and says what
// such rules make of a route. It is pure.
//
// Decide is the model that the speaker is tested against: the speaker applies the
// rules in its library's own policy engine, where what is announced is known.
package policy

import (
	"fmt"
	"net/netip"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/bgpd/speaker"
	"tortie/internal/api"
)

// Session is what a filter has to know of the session it is for.
type Session struct {
	IPv6 bool
	// External: the peer is in another AS than LocalASN, which it knows us by.
	External bool
	LocalASN uint32
	// Transit: what others announce is passed on.
	Transit bool
}

const (
	// preferenceOfNone and a route's priority add up to this on the wire, as upstream
	// has it since v3.32: the less the priority, the greater the local preference.
	preferenceOfNone = 1<<31 - 1
	// ownPriority is that of what a node originates.
	ownPriority = preferenceOfNone - speaker.OwnPreference
	// defaultPreference is the local preference of what comes from another AS.
	defaultPreference = 100
)

// Read makes the rules of filters, in the order in which the session names them. It
// refuses a filter that the session can't be held to, with the field.
func Read(filters []*api.BGPFilter, s Session) (speaker.Filter, error) {
	var out speaker.Filter
	for _, f := range filters {
		in, inField, ex, exField := f.Spec.ImportV4, "spec.importV4", f.Spec.ExportV4, "spec.exportV4"
		if s.IPv6 {
			in, inField, ex, exField = f.Spec.ImportV6, "spec.importV6", f.Spec.ExportV6, "spec.exportV6"
		}
		for _, list := range []struct {
			to    *[]speaker.Rule
			field string
			rules []api.BGPFilterRule
			read  reader
		}{
			{&out.Import, inField, in, reader{Session: s}}, {&out.Export, exField, ex, reader{Session: s, export: true}},
		} {
			for i := range list.rules {
				rule, applies, err := list.read.rule(&list.rules[i])
				if err != nil {
					return speaker.Filter{}, fmt.Errorf("BGPFilter %s: %s[%d].%w", f.Name, list.field, i, err)
				}
				rule.Name = fmt.Sprintf("BGPFilter %s %s[%d]", f.Name, list.field, i)
				if applies {
					*list.to = append(*list.to, rule)
				}
			}
		}
	}
	return out, nil
}

// reader reads the rules of one direction.
type reader struct {
	Session
	export bool
}

// rule also reports whether the rule can match anything on the session. Its errors
// begin with the field.
func (rd reader) rule(in *api.BGPFilterRule) (out speaker.Rule, applies bool, err error) {
	out = speaker.Rule{
		Interface: in.Interface, ASPath: asns(in.ASPathPrefix), Accept: in.Action == v3.Accept,
		Learned: rd.export && in.Source == v3.BGPFilterSourceRemotePeers,
	}
	switch {
	case in.Action != v3.Accept && in.Action != v3.Reject:
		return out, false, fmt.Errorf("action: %q is neither Accept nor Reject", in.Action)
	case in.Source != "" && in.Source != v3.BGPFilterSourceRemotePeers:
		return out, false, fmt.Errorf("source: %q is not RemotePeers", in.Source)
	}
	if applies, err = rd.prefix(in, &out); err != nil {
		return out, false, err
	}
	if in.Communities != nil {
		if len(in.Communities.Values) != 1 {
			return out, false, fmt.Errorf("communities: want just one community, have %d", len(in.Communities.Values))
		}
		if out.Community, err = speaker.ParseCommunity(in.Communities.Values[0]); err != nil {
			return out, false, fmt.Errorf("communities: %w", err)
		}
	}
	ofType, err := rd.peerType(in.PeerType)
	if err != nil {
		return out, false, err
	}
	ofPriority, err := rd.priority(in.Priority)
	if err != nil {
		return out, false, err
	}
	if err := rd.operations(in, &out); err != nil {
		return out, false, err
	}
	return out, applies && ofType && ofPriority, nil
}

// prefix reports false when no prefix can lie in what the rule says.
func (rd reader) prefix(in *api.BGPFilterRule, out *speaker.Rule) (applies bool, err error) {
	if in.CIDR == "" {
		if in.Operator != "" || in.PrefixLength != nil {
			return false, fmt.Errorf("cidr: is required with matchOperator and prefixLength")
		}
		return true, nil
	}
	p, err := netip.ParsePrefix(in.CIDR)
	if err != nil || p.Addr().Is4() == rd.IPv6 || p.Addr().Is4In6() {
		return false, fmt.Errorf("cidr: %q is no CIDR of the family", in.CIDR)
	}
	out.Prefix = p.Masked()
	out.Min, out.Max = p.Bits(), p.Bits()
	switch in.Operator {
	case v3.Equal, v3.NotEqual:
		if in.PrefixLength != nil {
			return false, fmt.Errorf("prefixLength: says nothing with matchOperator %s; want In or NotIn", in.Operator)
		}
	case v3.In, v3.NotIn:
		out.Max = p.Addr().BitLen()
		if l := in.PrefixLength; l != nil && l.Min != nil {
			out.Min = max(out.Min, int(*l.Min))
		}
		if l := in.PrefixLength; l != nil && l.Max != nil {
			out.Max = min(out.Max, int(*l.Max))
		}
	default:
		return false, fmt.Errorf("matchOperator: %q is none of Equal, NotEqual, In, NotIn", in.Operator)
	}
	out.Outside = in.Operator == v3.NotEqual || in.Operator == v3.NotIn
	if out.Min <= out.Max {
		return true, nil
	}
	// No prefix is inside, so all are outside.
	outside := out.Outside
	out.Prefix, out.Min, out.Max, out.Outside = netip.Prefix{}, 0, 0, false
	return outside, nil
}

func (rd reader) peerType(t api.BGPFilterPeerType) (applies bool, err error) {
	switch t {
	case "":
		return true, nil
	case api.BGPFilterExternal:
		return rd.External, nil
	case api.BGPFilterInternal:
		return !rd.External, nil
	}
	return false, fmt.Errorf("peerType: %q is neither eBGP nor iBGP", t)
}

// priority is known before there is a route where all routes have the same: of what
// comes from another AS, and of what a node originates. Elsewhere it can't be matched.
func (rd reader) priority(want *int) (applies bool, err error) {
	switch {
	case want == nil:
		return true, nil
	case rd.export && !rd.Transit:
		return *want == ownPriority, nil
	case !rd.export && rd.External:
		return *want == preferenceOfNone-defaultPreference, nil
	case rd.export:
		return false, fmt.Errorf("priority: a route reflector can't match it on routes of others in this version")
	}
	return false, fmt.Errorf("priority: can't be matched on routes of a peer in the same AS in this version")
}

func (rd reader) operations(in *api.BGPFilterRule, out *speaker.Rule) error {
	if len(in.Operations) > 0 && !out.Accept {
		return fmt.Errorf("operations: can't be combined with action Reject")
	}
	for i, op := range in.Operations {
		switch {
		case op.AddCommunity != nil:
			c, err := speaker.ParseCommunity(op.AddCommunity.Value)
			if err != nil {
				return fmt.Errorf("operations[%d].addCommunity: %w", i, err)
			}
			out.Add = append(out.Add, c)
		case op.PrependASPath != nil:
			// Each operation puts its numbers before what is there by then.
			out.Prepend = append(asns(op.PrependASPath.Prefix), out.Prepend...)
		case op.SetPriority != nil:
			if op.SetPriority.Value < 1 || op.SetPriority.Value >= preferenceOfNone {
				return fmt.Errorf("operations[%d].setPriority: %d is not 1 to %d", i, op.SetPriority.Value, preferenceOfNone-1)
			}
			out.LocalPref = uint32(preferenceOfNone - op.SetPriority.Value)
		default:
			return fmt.Errorf("operations[%d]: says no operation", i)
		}
	}
	return rd.prepend(out)
}

// prepend refuses what the speaker can't do: it prepends after it has put its own AS
// number first, and a peer of another AS wants that to stay first.
func (rd reader) prepend(out *speaker.Rule) error {
	for _, asn := range out.Prepend {
		if rd.export && rd.External && asn != rd.LocalASN {
			return fmt.Errorf("operations: prependASPath: to a peer of another AS only this node's own AS number, %d, can be prepended, not %d", rd.LocalASN, asn)
		}
	}
	if len(out.ASPath) > 0 && Runs(out.Prepend) > 1 {
		return fmt.Errorf("operations: prependASPath: different AS numbers can't be combined with asPathPrefix in this version")
	}
	return nil
}

// Runs counts the runs of equal AS numbers.
func Runs(prepend []uint32) int {
	n := 0
	for i, asn := range prepend {
		if i == 0 || asn != prepend[i-1] {
			n++
		}
	}
	return n
}

func asns(in []api.ASN) []uint32 {
	var out []uint32
	for _, asn := range in {
		out = append(out, uint32(asn))
	}
	return out
}
