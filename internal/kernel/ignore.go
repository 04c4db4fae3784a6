package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// Ignore is what a subscriber does not want to hear of. The kernel leaves it out,
// so that it wakes nobody. A [Resync] is always told.
//
// A link counts by the name it has in the event: one that is renamed to an ignored
// name is not heard of any more, one that is renamed from it is.
type Ignore struct {
	// Protocol is that of the routes to ignore, unless they have a gateway or the metric
	// [MetricOverlay] (WireGuard's have no gateway): those lead to other nodes. 0 for none.
	Protocol Protocol
	// LinkPrefixes are the beginnings of the names of the links to ignore. Their
	// addresses and routes are told: the kernel does not name the link in those.
	LinkPrefixes []string
	// LinkLocal ignores what every link has of IPv6: addresses of the scope of a
	// link, and routes to link-local and multicast destinations.
	LinkLocal bool
	// Self ignores what the Handle asks the kernel for itself. What becomes of a link
	// that it changes is told.
	Self bool

	port uint32 // the Handle's, for Self
}

// How the names of the node's ends of pods begin, of which felix is the only maker.
const (
	// PodLink: a pod's device in service.
	PodLink = "cali"
	// PodLinkAside: one that waits for its deletion.
	PodLinkAside = "calx"
	// PodShaper: a device (ifb) through which a pod sends that has a bandwidth; the name
	// is upstream's.
	PodShaper = "bwcali"
)

// Pods ignores the devices of pods, their routes and blackholes, and what IPv6 sets up on every
// device: none of it says anything about the node's own network.
func Pods() Ignore {
	return Ignore{Protocol: ProtocolFelix, LinkPrefixes: []string{PodLink, PodLinkAside, PodShaper}, LinkLocal: true}
}

// Covers reports whether an event is left out. It is to agree with the program
// that the kernel runs.
func (i Ignore) Covers(ev Event) bool {
	switch ev := ev.(type) {
	case LinkEvent:
		for _, prefix := range i.LinkPrefixes {
			if strings.HasPrefix(ev.Link.Name, prefix) {
				return true
			}
		}
	case AddressEvent:
		return i.LinkLocal && FamilyOf(ev.Address.Prefix.Addr()) == IPv6 && ev.Address.Scope == ScopeLink
	case RouteEvent:
		own := i.Protocol != 0 && ev.Route.Protocol == i.Protocol
		return own && !leadsToNode(ev.Route) || i.LinkLocal && staysOnLink(ev.Route.Dst.Addr())
	}
	return false
}

func leadsToNode(r Route) bool { return r.Gateway.IsValid() || r.Priority == MetricOverlay }

func staysOnLink(dst netip.Addr) bool {
	return FamilyOf(dst) == IPv6 && (dst.IsLinkLocalUnicast() || dst.IsMulticast())
}

// Validate refuses what no link can be called; the program's jumps are that long.
func (i Ignore) Validate() error {
	for _, prefix := range i.LinkPrefixes {
		if prefix == "" || len(prefix) >= unix.IFNAMSIZ {
			return fmt.Errorf("ignore links %q*: want 1 to %d characters: %w", prefix, unix.IFNAMSIZ-1, ErrInvalid)
		}
	}
	return nil
}

// Where the program finds things in a netlink message.
const (
	messageType   = 4                                          // nlmsghdr.nlmsg_type
	messagePort   = 12                                         // nlmsghdr.nlmsg_pid: whose request it comes from
	family        = unix.SizeofNlMsghdr                        // rtmsg.rtm_family, ifaddrmsg.ifa_family
	addressScope  = unix.SizeofNlMsghdr + 3                    // ifaddrmsg.ifa_scope
	routeProtocol = unix.SizeofNlMsghdr + 5                    // rtmsg.rtm_protocol
	routeAttrs    = unix.SizeofNlMsghdr + unix.SizeofRtMsg     // behind rtmsg
	linkAttrs     = unix.SizeofNlMsghdr + unix.SizeofIfInfomsg // behind ifinfomsg
	findAttr      = 0xfffff000 + 12                            // SKF_AD_OFF + SKF_AD_NLATTR of linux/filter.h
)

// What the program says of a message.
const (
	drop = 0
	keep = 0xffffffff
)

// program is a classic BPF program that drops the messages of what is ignored. The
// kernel runs it on every message for the socket, which is one event. Whatever it
// does not know, it keeps. A load beyond a message's end would drop it: so nothing
// is read before it is known to be there.
func (i Ignore) program() []unix.SockFilter {
	var program []unix.SockFilter
	if i.Self {
		program = append(program, load(unix.BPF_W, messagePort), unlessEqual(wordAsLoaded(i.port), 1), verdictOf(drop))
	}
	program = append(program, load(unix.BPF_H, messageType))
	for _, part := range []struct {
		a, b uint16
		body []unix.SockFilter
	}{
		{unix.RTM_NEWROUTE, unix.RTM_DELROUTE, i.routes()},
		{unix.RTM_NEWADDR, unix.RTM_DELADDR, i.addresses()},
	} {
		part.body = append(part.body, verdictOf(keep))
		program = append(program, only(part.a, part.b, len(part.body))...)
		program = append(program, part.body...)
	}
	// Last, because no conditional jump could lead over all of it.
	program = append(program, only(unix.RTM_NEWLINK, unix.RTM_DELLINK, 1)...)
	program = append(program, jump(1), verdictOf(keep))
	program = append(program, i.links()...)
	return append(program, verdictOf(keep))
}

// routes drops the message of a route, or goes on behind itself.
func (i Ignore) routes() (program []unix.SockFilter) {
	if i.Protocol != 0 {
		program = append(program,
			load(unix.BPF_B, routeProtocol),
			unlessEqual(uint32(i.Protocol), 12),
			value(routeAttrs),
			wanted(unix.RTA_GATEWAY),
			load(unix.BPF_W, findAttr),
			unlessEqual(0, 8),
			value(routeAttrs),
			wanted(unix.RTA_PRIORITY),
			load(unix.BPF_W, findAttr),
			ifEqual(0, 3),
			intoIndex(),
			loadBehind(unix.BPF_W, 0),
			ifEqual(wordAsLoaded(MetricOverlay), 1),
			verdictOf(drop),
		)
	}
	if i.LinkLocal {
		program = append(program,
			load(unix.BPF_B, family),
			unlessEqual(unix.AF_INET6, 12),
			value(routeAttrs),
			wanted(unix.RTA_DST),
			load(unix.BPF_W, findAttr),
			ifEqual(0, 8), // a default route has none
			intoIndex(),
			loadBehind(unix.BPF_B, 0),
			ifEqual(0xff, 4), // ff00::/8
			unlessEqual(0xfe, 4),
			loadBehind(unix.BPF_B, 1),
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xc0},
			unlessEqual(0x80, 1), // fe80::/10
			verdictOf(drop),
		)
	}
	return program
}

// addresses drops the message of an address, or goes on behind itself.
func (i Ignore) addresses() []unix.SockFilter {
	if !i.LinkLocal {
		return nil
	}
	return []unix.SockFilter{
		load(unix.BPF_B, family),
		unlessEqual(unix.AF_INET6, 3),
		load(unix.BPF_B, addressScope),
		unlessEqual(uint32(ScopeLink), 1),
		verdictOf(drop),
	}
}

// links drops the message of a link by its name, or goes on behind itself. A name
// ends with a zero, so the comparison with a prefix ends before the name does.
func (i Ignore) links() []unix.SockFilter {
	program := []unix.SockFilter{
		value(linkAttrs),
		wanted(unix.IFLA_IFNAME),
		load(unix.BPF_W, findAttr),
		unlessEqual(0, 1),
		verdictOf(keep),
		intoIndex(),
	}
	for _, prefix := range i.LinkPrefixes {
		for at := range len(prefix) {
			left := len(prefix) - 1 - at
			program = append(program, loadBehind(unix.BPF_B, at), unlessEqual(uint32(prefix[at]), uint8(2*left+1)))
		}
		program = append(program, verdictOf(drop))
	}
	return program
}

// only jumps over the next skip instructions unless the type, which is loaded, is
// one of two.
func only(a, b uint16, skip int) []unix.SockFilter {
	return []unix.SockFilter{
		ifEqual(asLoaded(a), 1),
		unlessEqual(asLoaded(b), uint8(skip)),
	}
}

// asLoaded is a number of two bytes as a program sees it: it takes what it loads
// for big-endian, while netlink speaks the machine's order.
func asLoaded(n uint16) uint32 {
	return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, n)))
}

func wordAsLoaded(n uint32) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, n))
}

func load(size uint16, at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: at}
}

// The search for an attribute: value is where to begin, wanted the attribute. Then
// findAttr is where it is, or 0; intoIndex keeps that, and loadBehind loads a part
// of what the attribute holds.
func value(n uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_IMM, K: n} }

func wanted(attribute uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LDX | unix.BPF_IMM, K: attribute}
}

func intoIndex() unix.SockFilter { return unix.SockFilter{Code: unix.BPF_MISC | unix.BPF_TAX} }

func loadBehind(size uint16, at int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_IND, K: uint32(unix.SizeofRtAttr + at)}
}

// ifEqual jumps over the next skip instructions if n is what was loaded.
func ifEqual(n uint32, skip uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: skip, K: n}
}

// unlessEqual is the reverse.
func unlessEqual(n uint32, skip uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: skip, K: n}
}

func jump(skip uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: skip}
}

func verdictOf(v uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v}
}
