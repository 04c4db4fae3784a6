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
// End-of-RIB, or the end of the restart time.
type keep struct {
	until map[netip.Addr]time.Time        // the restarting peers
	kept  map[netip.Prefix][]speaker.Path // by the paths kept
}

func newKeep() *keep {
	return &keep{until: map[netip.Addr]time.Time{}, kept: map[netip.Prefix][]speaker.Path{}}
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

// note notes that withdrawn paths of peers that restart are kept.
func (k *keep) note(prefix netip.Prefix, told []speaker.Path) { k.kept[prefix] = told }

func (k *keep) replaced(prefix netip.Prefix) { delete(k.kept, prefix) }

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

func (k *keep) release(addr netip.Addr) []netip.Prefix {
	delete(k.until, addr)
	var out []netip.Prefix
	for prefix, told := range k.kept {
		if slices.ContainsFunc(told, func(p speaker.Path) bool { return p.Peer == addr }) {
			out = append(out, prefix)
			delete(k.kept, prefix)
		}
	}
	return out
}

func (k *keep) empty() bool { return len(k.until) == 0 }
