package kernel

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Event is something that happened in the kernel: a [LinkEvent], [AddressEvent],
// [RouteEvent] or [Resync].
type Event interface{ event() }

// LinkEvent says that a link appeared, changed or, when Gone, was removed.
type LinkEvent struct {
	Link Link
	Gone bool
}

// AddressEvent says that a link got or, when Gone, lost an address.
type AddressEvent struct {
	Address Address
	Gone    bool
}

// RouteEvent says that a route appeared, changed or, when Gone, was removed. The kernel
// says nothing about the IPv4 routes that go with a link or its address.
type RouteEvent struct {
	Route Route
	Gone  bool
}

// Resync says that events may have been lost; whoever cares reads the kernel again.
type Resync struct {
	Reason error
}

func (LinkEvent) event()    {}
func (AddressEvent) event() {}
func (RouteEvent) event()   {}
func (Resync) event()       {}

// Topics selects what to be told of.
type Topics uint8

// The topics, to be or-ed together.
const (
	LinkEvents Topics = 1 << iota
	AddressEvents
	RouteEvents
)

// eventBacklog is how many events wait in the channel before they pile up in the
// kernel.
const eventBacklog = 256

// Subscribe tells of every event after it returned, a few milliseconds late at most,
// until ctx is done; then the channel is closed. A reader who is slow loses events and gets a [Resync]
// instead; nothing is ever lost silently. The channel is also closed, after a
// last Resync, should the kernel refuse to say more.
func (h *Handle) Subscribe(ctx context.Context, topics Topics) (<-chan Event, error) {
	return h.SubscribeExcept(ctx, topics, Ignore{})
}

// SubscribeExcept is Subscribe, but for what is to be ignored.
func (h *Handle) SubscribeExcept(ctx context.Context, topics Topics, ignore Ignore) (<-chan Event, error) {
	socket, err := h.subscribe(topics, ignore)
	if err != nil {
		return nil, NewError("subscribe to kernel events", "", err)
	}
	m := &monitor{socket: socket, events: make(chan Event, eventBacklog)}
	stop := context.AfterFunc(ctx, socket.close)
	go func() {
		defer close(m.events)
		m.run(ctx)
		if stop() {
			socket.close()
		}
	}()
	return m.events, nil
}

// subscribe opens a socket that is told of topics. What is ignored is so from the
// first event on: the filter is there before the socket joins a group.
func (h *Handle) subscribe(topics Topics, ignore Ignore) (*eventSocket, error) {
	if err := ignore.Validate(); err != nil {
		return nil, err
	}
	// Not by entering the namespace that the process is in: bgpd may not enter any.
	var socket *eventSocket
	err := h.inside(func() (err error) {
		socket, err = openEventSocket(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, err
	}
	ignore.port = h.port
	if err = socket.filter(ignore.program()); err == nil {
		err = socket.join(topics.groups())
	}
	if err != nil {
		socket.close()
		return nil, err
	}
	return socket, nil
}

func (t Topics) groups() []int {
	var groups []int
	if t&LinkEvents != 0 {
		groups = append(groups, unix.RTNLGRP_LINK)
	}
	if t&AddressEvents != 0 {
		groups = append(groups, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	}
	if t&RouteEvents != 0 {
		groups = append(groups, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	}
	return groups
}

// gather is the pause after events were told. One change brings many, one after the
// other; those that come in the pause are told together, and wake nobody singly.
const gather = 2 * time.Millisecond

// drainWait is how long nothing must come for the queue to count as empty.
const drainWait = 50 * time.Millisecond

type monitor struct {
	socket *eventSocket
	events chan Event
}

func (m *monitor) run(ctx context.Context) {
	for {
		msgs, from, err := m.socket.receive()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, unix.ENOBUFS):
			m.drain()
			m.send(ctx, Resync{Reason: fmt.Errorf("kernel events were lost: %w", err)})
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			m.send(ctx, Resync{Reason: NewError("receive kernel events", "", err)})
			return
		case from != nl.PidKernel:
			continue // another process may write to our socket; it is not believed
		}
		for _, msg := range msgs {
			ev, err := decodeEvent(msg)
			if err != nil {
				ev = Resync{Reason: err}
			}
			if ev != nil && !m.send(ctx, ev) {
				return
			}
		}
		select {
		case <-time.After(gather):
		case <-ctx.Done():
			return
		}
	}
}

// drain throws away what is queued. After an overflow the kernel drops every
// event, without saying so again, until the queue was empty once: a Resync told
// before that would be followed by losses nobody hears of.
func (m *monitor) drain() {
	defer m.socket.wait(0)
	for {
		m.socket.wait(drainWait)
		if _, _, err := m.socket.receive(); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return // empty, or closed
		}
	}
}

// send is false when ctx is done.
func (m *monitor) send(ctx context.Context, ev Event) bool {
	select {
	case m.events <- ev:
		return true
	case <-ctx.Done():
		return false
	}
}

// decodeEvent gives nil for a message that is of no interest.
func decodeEvent(msg syscall.NetlinkMessage) (Event, error) {
	switch kind := msg.Header.Type; kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// The bridge reports its ports as links of its own family.
		if len(msg.Data) > 0 && msg.Data[0] != unix.AF_UNSPEC {
			return nil, nil
		}
		l, err := decodeLink(msg.Data)
		return LinkEvent{Link: l, Gone: kind == unix.RTM_DELLINK}, err
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, ok, err := decodeAddress(msg.Data)
		if !ok || err != nil {
			return nil, err
		}
		return AddressEvent{Address: a, Gone: kind == unix.RTM_DELADDR}, nil
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		r, ok, err := decodeRoute(msg.Data)
		if !ok || err != nil {
			return nil, err
		}
		return RouteEvent{Route: r, Gone: kind == unix.RTM_DELROUTE}, nil
	}
	return nil, nil
}
