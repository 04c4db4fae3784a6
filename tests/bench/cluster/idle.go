package cluster

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"tortie/tests/bench/lightpeer"
	"tortie/tests/bench/probe"
)

// rest is how long a speaker is left alone before its memory is looked at: every session
// has been kept alive once by then.
const rest = 35 * time.Second

// MemoryPerPeer is what a session that is up and idle adds to the resident memory of bgpd,
// or of BIRD: one with many, less one with a single one, by the number of sessions.
func MemoryPerPeer(ctx context.Context, peers int, bird bool) (bytes int, err error) {
	one, err := residentWith(ctx, 1, bird)
	if err != nil {
		return 0, err
	}
	many, err := residentWith(ctx, 1+peers, bird)
	return (many - one) / peers, err
}

func residentWith(ctx context.Context, peers int, bird bool) (bytes int, err error) {
	h, err := newHub(ctx)
	if err != nil {
		return 0, err
	}
	defer func() {
		if closing := h.close(); err == nil {
			err = closing
		}
	}()
	router, err := h.plug("router", nodeAddr(0))
	if err != nil {
		return 0, err
	}
	args := []string{RouterCommand, router.addr.String()}
	var addrs []netip.Addr
	var ofBIRD []birdPeer
	for i := 1; i <= peers; i++ {
		addrs = append(addrs, nodeAddr(i))
		args = append(args, nodeAddr(i).String())
		ofBIRD = append(ofBIRD, birdPeer{nodeAddr(i), true})
	}
	if err := h.take(addrs...); err != nil {
		return 0, err
	}
	mac, err := h.mac()
	if err != nil {
		return 0, err
	}
	if err := router.meet(mac, addrs...); err != nil {
		return 0, err
	}
	if bird {
		err = h.startBIRD(router, ofBIRD...)
	} else {
		err = h.start(router, args...)
	}
	if err != nil {
		return 0, err
	}
	var up atomic.Int64
	keep := h.sessions(ctx, addrs, router.addr, func(netip.Addr, *lightpeer.Peer) { up.Add(1) })
	defer keep()
	if err := h.until("the sessions", func() (bool, error) { return int(up.Load()) == peers, nil }); err != nil {
		return 0, err
	}
	select {
	case <-time.After(rest):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return probe.Resident(router.pid())
}

// dials is how many light peers connect at once.
const dials = 32

// sessions has light peers at some addresses connect to a speaker, again and again until
// they are up, and hands each to up. What it returns ends them all.
func (h *hub) sessions(ctx context.Context, from []netip.Addr, to netip.Addr, up func(netip.Addr, *lightpeer.Peer)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	dialing := make(chan struct{}, dials)
	for _, a := range from {
		go func() {
			for ctx.Err() == nil {
				dialing <- struct{}{}
				p, err := lightpeer.Dial(h.ns, a, to)
				<-dialing
				if err == nil {
					up(a, p)
					p.Hold(ctx)
				}
				pause(ctx)
			}
		}()
	}
	return cancel
}

func pause(ctx context.Context) {
	select {
	case <-time.After(200 * time.Millisecond):
	case <-ctx.Done():
	}
}
