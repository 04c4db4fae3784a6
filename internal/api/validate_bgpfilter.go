package api

import (
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

const (
	wantCommunity = "want a community aa:nn (16 bits each) or aa:nn:mm (32 bits each)"
	// maxPriority is the greatest priority of a route: it and the local preference that
	// stands for it are positive and add up to 2³¹-1.
	maxPriority = 1<<31 - 2
	// maxOperations and maxPrepend are upstream's.
	maxOperations = 10
	maxPrepend    = 10
)

func checkBGPFilter(c *checker, f *BGPFilter) {
	s := &f.Spec
	for _, list := range []struct {
		field  string
		family int
		rules  []BGPFilterRule
	}{
		{"spec.exportV4", 4, s.ExportV4}, {"spec.exportV6", 6, s.ExportV6}, {"spec.importV4", 4, s.ImportV4}, {"spec.importV6", 6, s.ImportV6},
	} {
		for i := range list.rules {
			c.filterRule(at(list.field, i), list.family, &list.rules[i])
		}
	}
	c.sort()
}

func (c *checker) filterRule(field string, family int, r *BGPFilterRule) {
	c.filterPrefix(field, family, r)
	oneOf(c, field+".source", r.Source, v3.BGPFilterSourceRemotePeers)
	oneOf(c, field+".matchOperator", r.Operator, v3.Equal, v3.NotEqual, v3.In, v3.NotIn)
	oneOf(c, field+".peerType", r.PeerType, BGPFilterExternal, BGPFilterInternal)
	if !IsDevicePattern(r.Interface) {
		c.bad(field+".interface", r.Interface, wantDevice)
	}
	if r.Communities != nil {
		if len(r.Communities.Values) != 1 {
			c.missing(field+".communities.values", "want just one community")
		}
		for i, value := range r.Communities.Values {
			c.community(at(field+".communities.values", i), value)
		}
	}
	c.asns(field+".asPathPrefix", r.ASPathPrefix)
	between(c, field+".priority", r.Priority, 1, maxPriority)
	if r.Action == "" {
		c.missing(field+".action", "is missing, want Accept or Reject")
	}
	oneOf(c, field+".action", r.Action, v3.Accept, v3.Reject)
	if r.Action == v3.Reject && len(r.Operations) > 0 {
		c.missing(field+".operations", "can't be combined with action Reject: a rejected route is not changed")
	}
	if len(r.Operations) > maxOperations {
		c.missing(field+".operations", "are %d, want at most %d", len(r.Operations), maxOperations)
	}
	for i := range r.Operations {
		c.filterOperation(at(field+".operations", i), &r.Operations[i])
	}
}

// filterPrefix checks what a rule says of prefixes.
func (c *checker) filterPrefix(field string, family int, r *BGPFilterRule) {
	bits, cidrBits := int64(32), int64(0)
	if family == 6 {
		bits = 128
	}
	if r.CIDR != "" {
		if p, ok := c.cidr(field+".cidr", r.CIDR, family); ok {
			cidrBits = int64(p.Bits())
		}
	}
	switch {
	case r.CIDR != "" && r.Operator == "":
		c.missing(field+".matchOperator", "is required with cidr, want one of Equal, NotEqual, In, NotIn")
	case r.CIDR == "" && r.Operator != "":
		c.missing(field+".cidr", "is required with matchOperator")
	}
	if r.PrefixLength == nil {
		return
	}
	least, most := r.PrefixLength.Min, r.PrefixLength.Max
	switch {
	case r.CIDR == "":
		c.missing(field+".prefixLength", "needs cidr")
	case r.Operator == v3.Equal || r.Operator == v3.NotEqual:
		c.missing(field+".prefixLength", "says nothing with matchOperator %s, which looks at the one prefix cidr; want In or NotIn", r.Operator)
	}
	between(c, field+".prefixLength.min", least, 0, bits)
	between(c, field+".prefixLength.max", most, 0, bits)
	switch {
	case most == nil:
	case least != nil && *least > *most:
		c.bad(field+".prefixLength.min", *least, "is more than max, %d", *most)
	case *most >= 0 && int64(*most) < cidrBits:
		c.bad(field+".prefixLength.max", *most, "no prefix in cidr is that short, want at least %d", cidrBits)
	}
}

func (c *checker) filterOperation(field string, op *BGPFilterOperation) {
	n := 0
	if op.AddCommunity != nil {
		n++
		c.community(field+".addCommunity.value", op.AddCommunity.Value)
	}
	if op.PrependASPath != nil {
		n++
		c.asns(field+".prependASPath.prefix", op.PrependASPath.Prefix)
		if got := len(op.PrependASPath.Prefix); got == 0 || got > maxPrepend {
			c.missing(field+".prependASPath.prefix", "has %d AS numbers, want 1 to %d", got, maxPrepend)
		}
	}
	if op.SetPriority != nil {
		n++
		between(c, field+".setPriority.value", &op.SetPriority.Value, 1, maxPriority)
	}
	if n != 1 {
		c.missing(field, "want just one of addCommunity, prependASPath, setPriority")
	}
}

func (c *checker) community(field, value string) {
	if !validCommunity(value) {
		c.bad(field, value, wantCommunity)
	}
}

func (c *checker) asns(field string, values []ASN) {
	for i := range values {
		c.asn(at(field, i), &values[i])
	}
}
