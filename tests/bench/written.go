package main

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"tortie/tests/lab"
)

// written counts what is written of a node's network while it is watched.
type written struct {
	sockets []*nl.NetlinkSocket
	readers sync.WaitGroup

	mu   sync.Mutex
	n    int
	last string
	err  error
}

// watchWritten counts routes, devices, addresses, permanent neighbours and FDB entries,
// rules, and transactions of packet rules.
func watchWritten(l *lab.Lab, node string) (*written, error) {
	w := &written{}
	for protocol, groups := range map[int][]uint{
		unix.NETLINK_ROUTE: {
			unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
		},
		unix.NETLINK_NETFILTER: {unix.NFNLGRP_NFTABLES},
	} {
		var s *nl.NetlinkSocket
		err := l.In(node, func() (err error) { s, err = nl.Subscribe(protocol, groups...); return err })
		if err != nil {
			return nil, errors.Join(fmt.Errorf("watch what is written on %s: %w", node, err), w.stop())
		}
		w.sockets = append(w.sockets, s)
		w.readers.Go(func() { w.read(s, protocol) })
	}
	return w, nil
}

func (w *written) read(s *nl.NetlinkSocket, protocol int) {
	for {
		messages, _, err := s.Receive()
		w.mu.Lock()
		for _, m := range messages {
			if counts(protocol, m) {
				w.n++
				w.last = fmt.Sprintf("protocol %d, message %d", protocol, m.Header.Type)
			}
		}
		if errors.Is(err, unix.ENOBUFS) {
			w.err = errors.New("more was written than could be counted")
		}
		w.mu.Unlock()
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return // it is closed
		}
	}
}

// counts leaves out what the kernel itself learns of neighbours.
func counts(protocol int, m syscall.NetlinkMessage) bool {
	const state = 8 // of struct ndmsg
	learned := protocol == unix.NETLINK_ROUTE && (m.Header.Type == unix.RTM_NEWNEIGH || m.Header.Type == unix.RTM_DELNEIGH) &&
		len(m.Data) > state && m.Data[state]&(unix.NUD_PERMANENT|unix.NUD_NOARP) == 0
	return !learned
}

// stop ends the watch, and gives up what could not be counted.
func (w *written) stop() error {
	for _, s := range w.sockets {
		s.Close()
	}
	w.readers.Wait()
	return w.err
}
