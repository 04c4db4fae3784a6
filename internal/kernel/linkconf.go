package kernel

import (
	"encoding/binary"
	"iter"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Configure gives a link settings, named as for [Handle.SetSysctl], at much less than
// the price of SetSysctls: those that the kernel takes in a message go in one,
// whatever is there, after the others. It stops at the first that fails.
//
// A message does less than /proc/sys in two points that don't matter for a veth:
// forwarding neither switches off LRO, which a veth hasn't got, nor flushes the
// route cache, which a link that was never up isn't in; and no netconf event tells
// of it.
func (h *Handle) Configure(link Link, settings []Setting) error {
	byFile := make([]Setting, 0, len(settings))
	for _, s := range settings {
		if _, ok := messageConf(link.Name, s); !ok {
			byFile = append(byFile, s)
		}
	}
	if err := h.configureByFile(byFile); err != nil || len(byFile) == len(settings) {
		return err
	}
	requests := append(encodeLinkConf(link, settings), encodeNeighConf(link, settings)...)
	for _, err := range h.exchangeAll(requests) {
		if err != nil {
			return NewError("configure link", link.Name+" "+confNames(link, settings), err)
		}
	}
	return nil
}

// configureByFile looks at what is there unless that costs as much as writing it.
func (h *Handle) configureByFile(settings []Setting) error {
	switch len(settings) {
	case 0:
		return nil
	case 1:
		s := settings[0]
		return NewError("set sysctl", "net/"+s.Name+"="+s.Value, h.putSysctl(s.Name, s.Value))
	}
	return h.SetSysctls(settings)
}

// confKind is where in a message a setting goes.
type confKind uint8

const (
	confIPv4  confKind = iota + 1 // IFLA_INET_CONF
	confIPv6                      // an attribute of AF_INET6
	confNeigh                     // a parameter of the ARP table
)

// linkConf is how a setting goes in a message.
type linkConf struct {
	kind  confKind
	attr  uint16
	value uint32
}

// Constants of linux/ip.h, linux/if_link.h and linux/neighbour.h.
const (
	devconfForwarding = 1
	devconfProxyARP   = 3
	devconfRPFilter   = 8
	devconfLocalnet   = 26
	inetConf          = 1 // IFLA_INET_CONF
	inet6AddrGenMode  = 8 // IFLA_INET6_ADDR_GEN_MODE
	ndtaName          = 1
	ndtaParms         = 6
	ndtpaIfindex      = 1
	ndtpaProxyDelay   = 13
)

// messageConf is not ok for what only /proc/sys can do, or what is no number.
func messageConf(link string, s Setting) (c linkConf, ok bool) {
	family, rest, _ := strings.Cut(s.Name, "/")
	kind, rest, _ := strings.Cut(rest, "/")
	dev, key, _ := strings.Cut(rest, "/")
	value, err := strconv.ParseUint(s.Value, 10, 8)
	if err != nil || dev != link {
		return linkConf{}, false
	}
	c.value = uint32(value)
	switch family + "/" + kind + "/" + key {
	case "ipv4/conf/forwarding":
		c.kind, c.attr = confIPv4, devconfForwarding
	case "ipv4/conf/proxy_arp":
		c.kind, c.attr = confIPv4, devconfProxyARP
	case "ipv4/conf/rp_filter":
		c.kind, c.attr = confIPv4, devconfRPFilter
	case "ipv4/conf/route_localnet":
		c.kind, c.attr = confIPv4, devconfLocalnet
	case "ipv6/conf/addr_gen_mode":
		c.kind, c.attr = confIPv6, inet6AddrGenMode
	case "ipv4/neigh/proxy_delay":
		// The file counts in ticks of 1/100 s and the message in milliseconds.
		c.kind, c.attr, c.value = confNeigh, ndtpaProxyDelay, c.value*10
	default:
		return linkConf{}, false
	}
	return c, true
}

// ofKind are the settings that go in one part of a message.
func ofKind(link Link, settings []Setting, kind confKind) iter.Seq[linkConf] {
	return func(yield func(linkConf) bool) {
		for _, s := range settings {
			if c, ok := messageConf(link.Name, s); ok && c.kind == kind && !yield(c) {
				return
			}
		}
	}
}

func confNames(link Link, settings []Setting) string {
	var names []string
	for _, s := range settings {
		if _, ok := messageConf(link.Name, s); ok {
			names = append(names, "net/"+s.Name+"="+s.Value)
		}
	}
	return strings.Join(names, " ")
}

// encodeLinkConf gives no request when there is nothing to say.
func encodeLinkConf(link Link, settings []Setting) []request {
	var a attributes
	spec := a.begin(unix.IFLA_AF_SPEC)
	empty := len(a)
	inet := a.begin(unix.AF_INET)
	conf := a.begin(inetConf)
	begun := len(a)
	for c := range ofKind(link, settings, confIPv4) {
		a.uint32(c.attr, c.value)
	}
	if len(a) > begun {
		a.end(conf)
		a.end(inet)
	} else {
		a = a[:empty]
	}
	inet6 := a.begin(unix.AF_INET6)
	begun = len(a)
	for c := range ofKind(link, settings, confIPv6) {
		a.bytes(c.attr, []byte{byte(c.value)})
	}
	if len(a) > begun {
		a.end(inet6)
	} else {
		a = a[:inet6]
	}
	if len(a) == empty {
		return nil
	}
	a.end(spec)
	return []request{{kind: unix.RTM_SETLINK, header: linkHeader(link.Index, 0, 0), attrs: a}}
}

// encodeNeighConf is for the table of ARP; struct ndtmsg has only a family.
func encodeNeighConf(link Link, settings []Setting) []request {
	var a attributes
	a.text(ndtaName, "arp_cache")
	parms := a.begin(ndtaParms)
	a.uint32(ndtpaIfindex, uint32(link.Index))
	empty := len(a)
	for c := range ofKind(link, settings, confNeigh) {
		a.bytes(c.attr, binary.NativeEndian.AppendUint64(nil, uint64(c.value)))
	}
	if len(a) == empty {
		return nil
	}
	a.end(parms)
	return []request{{kind: unix.RTM_SETNEIGHTBL, header: []byte{unix.AF_INET, 0, 0, 0}, attrs: a}}
}
