package wireguard

import (
	"net/netip"
	"slices"
	"time"

	"tortie/felix/calc"
	"tortie/internal/overlay"
)

// tunnel is what is known of one version of IP.
type tunnel struct {
	desired *calc.SecureTunnel // nil for none
	// prepared is an address for which there is to be a device, before anybody is told.
	prepared netip.Addr
	link     int // the device that is up, as of the last Apply; 0 for none
	// left are peers that are desired no more, and since when; last is the desired
	// tunnel that there was, since gone.
	left map[overlay.Key]leaving
	last *calc.SecureTunnel
	gone time.Time
	// endpoints are those that were set: a peer may have moved since, which is right.
	endpoints map[overlay.Key]netip.AddrPort
	greetings greetings
	hosts     hosts
}

type leaving struct {
	peer  calc.SecurePeer
	since time.Time
}

// set reports whether something lingers.
func (e *tunnel) set(want *calc.SecureTunnel, now time.Time) bool {
	before := e.desired
	e.desired = want
	if want == nil {
		if before != nil {
			e.last, e.gone = before, now
		}
		return before != nil
	}
	since := now
	if before == nil && e.last != nil && now.Sub(e.gone) < linger {
		// Off and on again: those who are slow to show their keys have sessions with this
		// node, and send in them as soon as they see its key.
		before, since = e.last, e.gone
	}
	e.prepared, e.last = netip.Addr{}, nil
	nodes := map[string]bool{}
	for _, p := range want.Peers {
		nodes[p.Node] = true
		delete(e.left, p.End.Secure.Key)
	}
	if before == nil {
		return false
	}
	keys := map[overlay.Key]bool{}
	for _, p := range want.Peers {
		keys[p.End.Secure.Key] = true
	}
	for _, p := range before.Peers {
		// One that has another key now has thrown the old one away.
		if key := p.End.Secure.Key; !keys[key] && !nodes[p.Node] {
			e.left[key] = leaving{p, since}
		}
	}
	return len(e.left) > 0
}

// now is the tunnel as it is to be made: with what lingers; nil for none.
func (e *tunnel) now(at time.Time) *calc.SecureTunnel {
	for key, l := range e.left {
		if at.Sub(l.since) >= linger {
			delete(e.left, key)
		}
	}
	if e.desired == nil && e.last != nil && at.Sub(e.gone) >= linger {
		e.last = nil
	}
	var t calc.SecureTunnel
	switch {
	case e.desired != nil:
		t = *e.desired
	case e.last != nil:
		t = *e.last
	case e.prepared.IsValid():
		return &calc.SecureTunnel{Here: overlay.End{Secure: overlay.Secure{Tunnel: e.prepared}}}
	default:
		return nil
	}
	taken := map[netip.Prefix]bool{}
	for _, p := range t.Peers {
		for _, a := range p.Allowed {
			taken[a] = true
		}
	}
	for _, l := range e.left {
		p := l.peer
		p.Allowed = nil
		for _, a := range l.peer.Allowed {
			if !taken[a] {
				p.Allowed, taken[a] = append(p.Allowed, a), true
			}
		}
		t.Peers = append(slices.Clip(t.Peers), p)
	}
	return &t
}
