package kernel

import (
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Constants of linux/ip.h, linux/ipv6.h, linux/netconf.h and linux/if_link.h.
const (
	netconfIfindex    = 1
	netconfForwarding = 2
	netconfAll        = 0xffffffff // NETCONFA_IFINDEX_ALL
	inet6Conf         = 2          // IFLA_INET6_CONF

	devconf6Forwarding  = 0
	devconf6AcceptRA    = 3
	devconf6ProxyNDP    = 22
	devconf6DisableIPv6 = 26
	devconf6AcceptDAD   = 27
)

// peeking is a request whose answer tells what some settings are.
type peeking struct {
	request
	answer uint16
	// values is called with the answer and returns how a setting of a name is found in
	// it.
	values func(msg []byte) func(name string) (value int32, ok bool)
}

// peek reports by one message, which is much cheaper than to open their files, which
// settings are as they should be. Of what netlink can't tell, whatever the reason, it
// does not say so.
func (h *Handle) peek(settings []Setting) (hold []bool) {
	hold = make([]bool, len(settings))
	asked := make([]string, 0, len(settings))
	all := make([]peeking, 0, len(settings))
	for _, s := range settings {
		if key, p, ok := peekingFor(s.Name); ok && !slices.Contains(asked, key) {
			asked, all = append(asked, key), append(all, p)
		}
	}
	h.getAll(all, func(value func(string) (int32, bool)) {
		for i, s := range settings {
			if now, ok := value(s.Name); ok && strconv.Itoa(int(now)) == s.Value {
				hold[i] = true
			}
		}
	})
	return hold
}

// peekingFor gives the request that tells a setting, and a key for it, since one
// tells several.
func peekingFor(name string) (key string, p peeking, ok bool) {
	switch name {
	case "ipv4/ip_forward":
		return name, peekAll(IPv4, name), true
	case "ipv6/conf/all/forwarding":
		return name, peekAll(IPv6, name), true
	}
	if dev, _, ok := devconf6(name); ok {
		return dev, peekLink(dev), true
	}
	return "", peeking{}, false
}

// devconf6 is the link of a setting and its place among those of IPv6 that come with
// the link.
func devconf6(name string) (dev string, index int, ok bool) {
	rest, ok := strings.CutPrefix(name, "ipv6/conf/")
	dev, key, _ := strings.Cut(rest, "/")
	if !ok || dev == "all" || dev == "default" || validName(dev) != nil {
		return "", 0, false
	}
	switch key {
	case "forwarding":
		return dev, devconf6Forwarding, true
	case "accept_ra":
		return dev, devconf6AcceptRA, true
	case "proxy_ndp":
		return dev, devconf6ProxyNDP, true
	case "disable_ipv6":
		return dev, devconf6DisableIPv6, true
	case "accept_dad":
		return dev, devconf6AcceptDAD, true
	}
	return "", 0, false
}

func peekAll(f Family, name string) peeking {
	var attrs attributes
	attrs.uint32(netconfIfindex, netconfAll)
	header := []byte{byte(f), 0, 0, 0} // struct netconfmsg
	return peeking{
		request: request{kind: unix.RTM_GETNETCONF, header: header, attrs: attrs}, answer: unix.RTM_NEWNETCONF,
		values: func(msg []byte) func(string) (int32, bool) {
			value := attributeAt(msg[min(len(header), len(msg)):], netconfForwarding)
			return func(asked string) (int32, bool) { return int32At(value, 0, asked == name) }
		},
	}
}

func peekLink(dev string) peeking {
	var attrs attributes
	attrs.text(unix.IFLA_IFNAME, dev)
	attrs.uint32(unix.IFLA_EXT_MASK, skipStatistics)
	return peeking{
		request: request{kind: unix.RTM_GETLINK, header: linkHeader(0, 0, 0), attrs: attrs}, answer: unix.RTM_NEWLINK,
		values: func(msg []byte) func(string) (int32, bool) {
			conf := attributeAt(msg[min(unix.SizeofIfInfomsg, len(msg)):], unix.IFLA_AF_SPEC, unix.AF_INET6, inet6Conf)
			return func(asked string) (int32, bool) {
				of, index, ok := devconf6(asked)
				return int32At(conf, index, ok && of == dev)
			}
		},
	}
}

// int32At reads the number of an array, if that is wanted and it is there.
func int32At(array []byte, index int, wanted bool) (int32, bool) {
	if !wanted || len(array) < 4*index+4 {
		return 0, false
	}
	return int32(binary.NativeEndian.Uint32(array[4*index:])), true
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

// getAll sends requests that are answered by one message, or by an error, each.
func (h *Handle) getAll(all []peeking, tell func(value func(name string) (int32, bool))) {
	if len(all) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	first := h.seq + 1
	h.out = h.out[:0]
	for _, p := range all {
		h.seq++
		h.out = p.append(h.out, h.seq)
	}
	if h.socket.send(h.out) != nil {
		return
	}
	for answered := 0; answered < len(all); {
		msgs, err := h.socket.receive(exactSize)
		if err != nil {
			return
		}
		for _, m := range msgs {
			i := int(m.Header.Seq - first)
			if i < 0 || i >= len(all) {
				continue // the late answer to a request that timed out
			}
			if m.Header.Type == all[i].answer {
				tell(all[i].values(m.Data))
				answered++
			} else if done, _ := verdict(m); done {
				answered++
			}
		}
	}
}
