// Package decision says by which rule of the decision process (RFC 4271 section
// 9.1.2) one path to a prefix wins over another. It is pure.
//
// The speaker decides; this package explains. So the rules here are those of the
// speaker, in its order: no weight, no IGP cost, and no older path (RFC 5004): router
// IDs decide between external paths, too.
package decision

import (
	"fmt"

	"tortie/bgpd/speaker"
)

// Internal reports whether a path came from a peer of our own AS.
type Internal func(speaker.Path) bool

// Rule names the first rule that tells best from other, and with what values.
func Rule(best, other speaker.Path, internal Internal) string {
	for _, rule := range []func(a, b speaker.Path, internal Internal) string{
		longLived, localPreference, localOrigin, pathLength, origin, med, external, routerID, peerAddress,
	} {
		if why := rule(best, other, internal); why != "" {
			return why
		}
	}
	return "nothing tells them apart: the first stays"
}

// longLived: what is kept for a peer that has long been away is the last choice.
func longLived(a, b speaker.Path, _ Internal) string {
	if a.LongLived() == b.LongLived() {
		return ""
	}
	return "not kept for a peer that has long been away (RFC 9494)"
}

func localPreference(a, b speaker.Path, _ Internal) string {
	if a.LocalPref == b.LocalPref || a.Local() || b.Local() {
		return ""
	}
	return fmt.Sprintf("local preference: %d, not %d", a.LocalPref, b.LocalPref)
}

func localOrigin(a, b speaker.Path, _ Internal) string {
	if a.Local() == b.Local() {
		return ""
	}
	return "this node's own"
}

func length(p speaker.Path) int { return len(p.ASPath) - p.ASSetExtra }

func pathLength(a, b speaker.Path, _ Internal) string {
	if length(a) == length(b) {
		return ""
	}
	return fmt.Sprintf("AS path length: %d, not %d", length(a), length(b))
}

func origin(a, b speaker.Path, _ Internal) string {
	if a.Origin == b.Origin {
		return ""
	}
	return fmt.Sprintf("origin: %s, not %s", a.Origin, b.Origin)
}

// med counts between paths from one AS only.
func med(a, b speaker.Path, _ Internal) string {
	if a.MED == b.MED || first(a) != first(b) || first(a) == 0 && length(a)+length(b) > 0 {
		return ""
	}
	return fmt.Sprintf("MED: %d, not %d", a.MED, b.MED)
}

func first(p speaker.Path) uint32 {
	if len(p.ASPath) == 0 {
		return 0
	}
	return p.ASPath[0]
}

func external(a, b speaker.Path, internal Internal) string {
	if internal(a) == internal(b) {
		return ""
	}
	return "from an external peer, not an internal one"
}

func routerID(a, b speaker.Path, _ Internal) string {
	if a.PeerID == b.PeerID {
		return ""
	}
	return fmt.Sprintf("router ID: %s, not %s", a.PeerID, b.PeerID)
}

func peerAddress(a, b speaker.Path, _ Internal) string {
	if a.Peer == b.Peer {
		return ""
	}
	return fmt.Sprintf("peer address: %s, not %s", a.Peer, b.Peer)
}
