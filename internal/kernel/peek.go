package kernel

import (
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Constants of linux/ip.h, linux/ipv6.h, linux/netconf.h and linux/if_link.h.
const (
	netconfIfindex     = 1
	netconfForwarding  = 2
	netconfReversePath = 3
	netconfProxy       = 5
	netconfAll         = 0xffffffff // NETCONFA_IFINDEX_ALL
	sizeofNetconfMsg   = 4          // struct netconfmsg and its padding
	inet6Conf          = 2          // IFLA_INET6_CONF

	devconf6Forwarding  = 0
	devconf6AcceptRA    = 3
	devconf6ProxyNDP    = 22
	devconf6DisableIPv6 = 26
	devconf6AcceptDAD   = 27
)

// peeking says whose settings a message tells: those of a link, or, of no link, a
// protocol's.
type peeking struct {
	link   string
	family Family
}

// peek reports by one message, which is much cheaper than to open their files, which
// settings are as they should be. Of what netlink can't tell, whatever the reason, it
// does not say so.
func (h *Handle) peek(settings []Setting) (hold []bool) {
	hold = make([]bool, len(settings))
	asked := make([]peeking, 0, len(settings))
	requests := make([]request, 0, len(settings))
	for _, s := range settings {
		p, _, ok := whereTold(s.Name)
		if ok && !slices.Contains(asked, p) {
			asked, requests = append(asked, p), append(requests, p.request())
		}
	}
	if len(asked) == 0 {
		return hold
	}
	_ = h.getAll(requests, answerSize, func(i int, m syscall.NetlinkMessage) {
		told := asked[i].values(m)
		for j, s := range settings {
			p, index, ok := whereTold(s.Name)
			if ok && p == asked[i] && len(told) >= 4*index+4 {
				hold[j] = strconv.Itoa(int(int32(binary.NativeEndian.Uint32(told[4*index:])))) == s.Value
			}
		}
	})
	return hold
}

// whereTold says which message tells a setting, and its place among those that it
// tells. It is not ok for one that none does.
func whereTold(name string) (p peeking, index int, ok bool) {
	switch name {
	case "ipv4/ip_forward":
		return peeking{family: IPv4}, 0, true
	case "ipv6/conf/all/forwarding":
		return peeking{family: IPv6}, 0, true
	}
	rest, ok := strings.CutPrefix(name, "ipv6/conf/")
	link, key, _ := strings.Cut(rest, "/")
	if !ok || link == "all" || link == "default" || validName(link) != nil {
		return peeking{}, 0, false
	}
	p = peeking{link: link, family: IPv6}
	switch key {
	case "forwarding":
		return p, devconf6Forwarding, true
	case "accept_ra":
		return p, devconf6AcceptRA, true
	case "proxy_ndp":
		return p, devconf6ProxyNDP, true
	case "disable_ipv6":
		return p, devconf6DisableIPv6, true
	case "accept_dad":
		return p, devconf6AcceptDAD, true
	}
	return peeking{}, 0, false
}

func (p peeking) request() request {
	var attrs attributes
	if p.link == "" {
		attrs.uint32(netconfIfindex, netconfAll)
		header := make([]byte, sizeofNetconfMsg)
		header[0] = byte(p.family)
		return request{kind: unix.RTM_GETNETCONF, header: header, attrs: attrs}
	}
	attrs.text(unix.IFLA_IFNAME, p.link)
	attrs.uint32(unix.IFLA_EXT_MASK, skipStatistics)
	return request{kind: unix.RTM_GETLINK, header: linkHeader(0, 0, 0), attrs: attrs}
}

// values is the array of numbers of four bytes in the answer; empty where there is
// none.
func (p peeking) values(m syscall.NetlinkMessage) []byte {
	switch m.Header.Type {
	case unix.RTM_NEWNETCONF:
		return attributeAt(m.Data[min(sizeofNetconfMsg, len(m.Data)):], netconfForwarding)
	case unix.RTM_NEWLINK:
		return attributeAt(m.Data[min(unix.SizeofIfInfomsg, len(m.Data)):], unix.IFLA_AF_SPEC, unix.AF_INET6, inet6Conf)
	}
	return nil
}

// attributeAt is the value of the attribute at the end of a path of kinds; nil where
// there is none.
func attributeAt(b []byte, path ...uint16) (value []byte) {
	_ = eachAttribute(b, func(kind uint16, v []byte) error {
		if kind == path[0] {
			value = v
		}
		return nil
	})
	if len(path) > 1 {
		return attributeAt(value, path[1:]...)
	}
	return value
}
