package daemon

import (
	"context"
	"net/netip"

	"tortie/bgpd/bfd"
	"tortie/bgpd/bfd/server"
	"tortie/bgpd/speaker"
)

// detector is what the engine needs of [server.Server].
type detector interface {
	Run(ctx context.Context) error
	Set(peers []server.Peer)
	Changed() <-chan struct{}
	Status() map[netip.Addr]bfd.Status
	Problem() string
}

// watch makes the BFD sessions those that peers and links ask for.
func (e *engine) watch() {
	e.live.place(e.fib.Neighbour)
	e.detector.Set(e.live.sessions())
	e.fib.SetDead(e.live.dead())
}

// detect takes over what BFD has found. A dead neighbour's routes leave the kernel
// before BGP is told: its session may take long to end when a peer takes nothing
// any more.
func (e *engine) detect(ctx context.Context) {
	// What the speaker has told is of the time before: it must not pass for a sign of life
	// after a failure.
	if c := e.speaker.Take(); !c.Empty() {
		e.learn(ctx, c)
	}
	failures := e.live.detect(e.detector.Status(), e.now())
	e.fib.SetDead(e.live.dead())
	if len(failures) == 0 {
		return
	}
	e.apply(ctx)
	for _, f := range failures {
		e.log.Warn("BFD session failed", "peer", f.peer.Address, "name", f.peer.Name, "cause", f.why, "bgp-reset", f.reset)
		if !f.reset {
			continue
		}
		if err := e.speaker.Reset(ctx, f.peer.Address); err != nil {
			e.log.Error("BGP session of a dead neighbour can't be ended", "peer", f.peer.Address, "err", err)
			e.speakerErr = err // the peer may be gone from the speaker: it is told again
		}
	}
}

// bgpChanged tells BFD what has become of BGP sessions.
func (e *engine) bgpChanged(peers map[netip.Addr]speaker.Session) {
	if len(peers) == 0 {
		return
	}
	for addr, s := range peers {
		e.live.bgp(addr, s, e.now())
	}
	e.watch()
}

// because puts what BFD has found before what the speaker knows of a session.
func because(dead, info string) string {
	if dead == "" {
		return info
	}
	return dead + "; " + info
}
