package fib

import (
	"net/netip"
	"slices"
	"time"

	"tortie/bgpd/speaker"
)

// keep is what is kept for peers that restart (RFC 4724 section 4.2): a pure
// state machine, told the time.
//
// The speaker has a helper of its own, but GoBGP's gives up a restarting peer's
// routes as soon as any attempt to reconnect fails, long before the restart time
// is over. So the FIB goes by its own rule: a route stays until the peer's
// End-of-RIB, or the end of the restart time. It stays in reserve, too, while another
// peer tells of the prefix: a reflector may do so for a moment only.
type keep struct {
	until map[netip.Addr]time.Time        // the restarting peers
	kept  map[netip.Prefix][]speaker.Path // the paths kept, one of each peer
	used  map[netip.Prefix]bool           // prefixes that go by them
}

func newKeep() *keep {
	return &keep{until: map[netip.Addr]time.Time{}, kept: map[netip.Prefix][]speaker.Path{}, used: map[netip.Prefix]bool{}}
}

// lost notes a session that was lost gracefully. Until the peer has been back
// for good, the restart time runs from the first loss.
func (k *keep) lost(addr netip.Addr, s speaker.Session, now time.Time) {
	if _, running := k.until[addr]; s.Restarting && !running {
		k.until[addr] = now.Add(s.RestartTime)
	}
}

// restarting reports that what a peer has told is kept.
func (k *keep) restarting(peer netip.Addr) bool {
	_, ok := k.until[peer]
	return ok
}

// overtaken notes that a prefix goes by other paths now than before. What restarting peers
// have told before, and don't tell now, is kept in reserve.
func (k *keep) overtaken(prefix netip.Prefix, before, now []speaker.Path) {
	delete(k.used, prefix)
	k.hold(prefix, before, func(p speaker.Path) bool {
		return !slices.ContainsFunc(now, func(q speaker.Path) bool { return q.Peer == p.Peer })
	})
}

// withdrawn returns the paths that a prefix goes by when nobody tells of it any more: what
// restarting peers have told.
func (k *keep) withdrawn(prefix netip.Prefix, before []speaker.Path) []speaker.Path {
	delete(k.used, prefix)
	held := k.hold(prefix, before, func(speaker.Path) bool { return true })
	if len(held) > 0 {
		k.used[prefix] = true
	}
	return held
}

// hold keeps, of what was kept of a prefix and what is told besides, the paths of restarting
// peers that are also wanted.
func (k *keep) hold(prefix netip.Prefix, besides []speaker.Path, wanted func(speaker.Path) bool) []speaker.Path {
	var held []speaker.Path
	for _, p := range slices.Concat(k.kept[prefix], besides) {
		known := slices.ContainsFunc(held, func(q speaker.Path) bool { return q.Peer == p.Peer })
		if !known && k.restarting(p.Peer) && wanted(p) {
			p.Equals = nil
			held = append(held, p)
		}
	}
	delete(k.kept, prefix)
	if len(held) > 0 {
		k.kept[prefix] = held
	}
	return held
}

// ended returns what a peer's session no longer allows to keep: it has sent
// everything, was lost for good, or is gone.
func (k *keep) ended(addr netip.Addr, s speaker.Session) []netip.Prefix {
	if s.Restarting {
		return nil
	}
	if _, restarting := k.until[addr]; !restarting {
		return nil
	}
	return k.release(addr)
}

// expired returns what was kept for peers whose restart time is over.
func (k *keep) expired(now time.Time) []netip.Prefix {
	var out []netip.Prefix
	for addr, until := range k.until {
		if !now.Before(until) {
			out = append(out, k.release(addr)...)
		}
	}
	return out
}

// release returns the prefixes that went by what the peer has told.
func (k *keep) release(addr netip.Addr) []netip.Prefix {
	delete(k.until, addr)
	var out []netip.Prefix
	for prefix, told := range k.kept {
		if !slices.ContainsFunc(told, func(p speaker.Path) bool { return p.Peer == addr }) {
			continue
		}
		if k.used[prefix] {
			out = append(out, prefix)
		}
		k.hold(prefix, nil, func(speaker.Path) bool { return true })
	}
	return out
}

func (k *keep) empty() bool { return len(k.until) == 0 }
