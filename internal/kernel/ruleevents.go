package kernel

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// RuleChanges tells that something in an nftables table may be another, whoever changed
// it; many changes may be told as one. The channel is closed when ctx is done, or the
// kernel refuses to say more. A transaction that begins with another table is not told:
// who must know everything looks now and then besides. Nor is one that is own: by the port
// of netlink that made it, which is most often the ID of its process; nil for none.
func (h *Handle) RuleChanges(ctx context.Context, table string, own func(port uint32) bool) (<-chan struct{}, error) {
	var socket *eventSocket
	err := h.inside(func() (err error) {
		socket, err = openEventSocket(unix.NETLINK_NETFILTER)
		return err
	})
	if err == nil {
		if err = socket.filter(ofTable(table)); err == nil {
			err = socket.join([]int{unix.NFNLGRP_NFTABLES})
		}
		if err != nil {
			socket.close()
		}
	}
	if err != nil {
		return nil, NewError("subscribe to changes of rules", table, err)
	}
	changes := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, socket.close)
	go func() {
		defer close(changes)
		for {
			msgs, _, err := socket.receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) { // what was lost for want of room was something, too
				break
			}
			if err == nil && len(msgs) > 0 && own != nil && own(msgs[0].Header.Pid) {
				continue
			}
			select {
			case changes <- struct{}{}:
			default:
			}
		}
		if stop() {
			socket.close()
		}
	}()
	return changes, nil
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
