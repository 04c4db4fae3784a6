package kernel

import (
	"context"
	"errors"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// RuleChanges tells that something in an nftables table may be another, whoever changed
// it; many changes may be told as one. The channel is closed when ctx is done, or the
// kernel refuses to say more. A transaction that begins with another table is not told:
// who must know everything looks now and then besides. Nor is one that is own: by the port
// of netlink that made it, which is most often the ID of its process; nil for none.
func (h *Handle) RuleChanges(ctx context.Context, table string, own func(port uint32) bool) (<-chan struct{}, error) {
	changes, err := h.changes(ctx, unix.NETLINK_NETFILTER, []int{unix.NFNLGRP_NFTABLES}, ofTable(table), unlessBy(own))
	if err != nil {
		return nil, NewError("subscribe to changes of rules", table, err)
	}
	return changes, nil
}

// TunnelChanges tells, as RuleChanges does, that somebody else has set or removed a permanent
// neighbour or an entry of a forwarding table (FDB), on any device: those are what tunnels
// consist of. Of an FDB the kernel does not say who: own changes are told, too.
func (h *Handle) TunnelChanges(ctx context.Context) (<-chan struct{}, error) {
	changes, err := h.changes(ctx, unix.NETLINK_ROUTE, []int{unix.RTNLGRP_NEIGH}, ofPermanentNeighbours(), unlessBy(h.owns))
	if err != nil {
		return nil, NewError("subscribe to changes of neighbours", "", err)
	}
	return changes, nil
}

// QueueChanges tells, as RuleChanges does, that somebody else has set or removed a queueing
// discipline or a filter of tc, on any device.
func (h *Handle) QueueChanges(ctx context.Context) (<-chan struct{}, error) {
	changes, err := h.changes(ctx, unix.NETLINK_ROUTE, []int{unix.RTNLGRP_TC}, []unix.SockFilter{verdictOf(keep)}, unlessBy(h.owns))
	if err != nil {
		return nil, NewError("subscribe to changes of queueing disciplines", "", err)
	}
	return changes, nil
}

// SettingChanges tells, as RuleChanges does, that a sysctl of IPv4 or IPv6 of the kind that
// netlink tells of (forwarding, rp_filter, proxy_arp, proxy_ndp) is no longer 1, on any
// device or on all. Who wrote it the kernel does not say.
func (h *Handle) SettingChanges(ctx context.Context) (<-chan struct{}, error) {
	changes, err := h.changes(ctx, unix.NETLINK_ROUTE, []int{unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF}, ofSettings(), unlessBy(nil))
	if err != nil {
		return nil, NewError("subscribe to changes of sysctls", "", err)
	}
	return changes, nil
}

// RoutingChanges tells, as RuleChanges does, that somebody else has set or removed a routing
// rule, or a route in another table than the kernel's own, main and local, if concerns says so.
// That is asked of the table in which the route is, or to which the rule leads, and of the
// protocol. A route that takes another's place is told, and not that the other is gone.
func (h *Handle) RoutingChanges(ctx context.Context, concerns func(table int, protocol Protocol) bool) (<-chan struct{}, error) {
	groups := []int{unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE}
	changes, err := h.changes(ctx, unix.NETLINK_ROUTE, groups, ofOtherTables(), func(msgs []syscall.NetlinkMessage) bool {
		return slices.ContainsFunc(msgs, func(m syscall.NetlinkMessage) bool {
			if h.owns(m.Header.Pid) {
				return false
			}
			table, protocol, err := routingOf(m)
			return err != nil || concerns(table, protocol)
		})
	})
	if err != nil {
		return nil, NewError("subscribe to changes of routing rules", "", err)
	}
	return changes, nil
}

// routingOf is where the route of a message is, or its rule leads, and who made it.
func routingOf(m syscall.NetlinkMessage) (table int, protocol Protocol, err error) {
	if kind := m.Header.Type; kind == unix.RTM_NEWRULE || kind == unix.RTM_DELRULE {
		r, err := decodeRule(m.Data)
		return r.Table, r.Protocol, err
	}
	r, _, err := decodeRoute(m.Data)
	return r.Table, r.Protocol, err
}

// owns reports whether what came of a request is this Handle's doing.
func (h *Handle) owns(port uint32) bool { return port == h.port }

// unlessBy counts what is not own; nil: everything. What comes at once is of one port.
func unlessBy(own func(port uint32) bool) func([]syscall.NetlinkMessage) bool {
	return func(msgs []syscall.NetlinkMessage) bool {
		return own == nil || len(msgs) == 0 || !own(msgs[0].Header.Pid)
	}
}

// changes tells of what passes a filter and counts.
func (h *Handle) changes(ctx context.Context, family int, groups []int, filter []unix.SockFilter, counts func([]syscall.NetlinkMessage) bool) (<-chan struct{}, error) {
	var socket *eventSocket
	err := h.inside(func() (err error) {
		socket, err = openEventSocket(family)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err = socket.filter(filter); err == nil {
		err = socket.join(groups)
	}
	if err != nil {
		socket.close()
		return nil, err
	}
	changes := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, socket.close)
	go func() {
		defer close(changes)
		socket.tell(changes, counts)
		if stop() {
			socket.close()
		}
	}()
	return changes, nil
}

// tell puts a token into changes, where there is none, for every change that counts,
// until the socket says no more.
func (s *eventSocket) tell(changes chan<- struct{}, counts func([]syscall.NetlinkMessage) bool) {
	for {
		msgs, _, err := s.receive()
		switch {
		case err != nil && !errors.Is(err, unix.ENOBUFS): // what was lost for want of room was something, too
			return
		case err == nil && !counts(msgs):
			continue
		}
		select {
		case changes <- struct{}{}:
		default:
		}
	}
}

// tableName is where a message about an object of nftables has the name of its table: the
// value of its first attribute, behind the headers of netlink and of netfilter.
const tableName = unix.SizeofNlMsghdr + 4 + unix.SizeofRtAttr

// ofTable keeps messages about the table of that name. Other programs may write ten
// thousand rules at once, and nobody here is to be woken by them.
func ofTable(name string) []unix.SockFilter {
	const keepAll = 1<<32 - 1
	var program []unix.SockFilter
	text := append([]byte(name), 0)
	for i, b := range text {
		program = append(program,
			unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: uint32(tableName + i)},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(b), Jf: uint8(2*(len(text)-1-i) + 1)})
	}
	return append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: keepAll},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K})
}

// Where a message has the port of who asked for the change, 0 for the kernel itself, and one
// about a neighbour its state (struct ndmsg).
const (
	askedBy        = 12
	neighbourState = unix.SizeofNlMsghdr + 8
)

// ofPermanentNeighbours keeps messages about entries that nobody learned, and about those
// that a program has removed, whose state is NUD_FAILED by then. Those that are learned come
// and go all the time.
func ofPermanentNeighbours() []unix.SockFilter {
	// The state is of two bytes in the machine's order: whatever that is, one of the two has
	// these bits, and the other has none of any state that there is.
	const bothBytes = 0x101
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: neighbourState},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: (unix.NUD_PERMANENT | unix.NUD_NOARP) * bothBytes, Jt: 3},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.NUD_FAILED * bothBytes, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: askedBy},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
}

// A message about one setting has the device and then the setting, a word each; that of a
// device's making has them all, and is longer.
const (
	oneSetting   = unix.SizeofNlMsghdr + sizeofNetconfMsg + 2*(unix.SizeofRtAttr+4)
	settingKind  = unix.SizeofNlMsghdr + sizeofNetconfMsg + unix.SizeofRtAttr + 4 + 2
	settingValue = settingKind + 2
)

// ofSettings keeps messages about one setting that is another than 1 now.
func ofSettings() []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		unlessEqual(oneSetting, 7),
		load(unix.BPF_H, settingKind),
		ifEqual(asLoaded(netconfForwarding), 2),
		ifEqual(asLoaded(netconfReversePath), 1),
		unlessEqual(asLoaded(netconfProxy), 3),
		load(unix.BPF_W, settingValue),
		ifEqual(wordAsLoaded(1), 1),
		verdictOf(keep),
		verdictOf(drop),
	}
}

// routeTable is where a message has the table of a route, if its number is below 256.
const routeTable = unix.SizeofNlMsghdr + 4

// ofOtherTables drops messages about routes in the tables main and local, of which BGP brings
// a hundred thousand.
func ofOtherTables() []unix.SockFilter {
	routes := []unix.SockFilter{load(unix.BPF_B, routeTable), ifEqual(unix.RT_TABLE_MAIN, 1), unlessEqual(unix.RT_TABLE_LOCAL, 1), verdictOf(drop)}
	return slices.Concat(
		[]unix.SockFilter{load(unix.BPF_H, messageType)}, only(unix.RTM_NEWROUTE, unix.RTM_DELROUTE, len(routes)), routes,
		[]unix.SockFilter{verdictOf(keep)})
}
