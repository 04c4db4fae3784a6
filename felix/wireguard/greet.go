package wireguard

import (
	"bytes"
	"fmt"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"tortie/internal/overlay"
)

// greeting is the interval by which a device greets its peers as soon as it is up. The
// next Apply puts the one that is wanted.
const greeting = time.Second

// When two nodes begin a handshake at the same moment, each drops its own for the other's,
// and none is completed: both have left the state in which they would take an answer. The
// protocol's next try is after its Rekey-Timeout, 5 s. So of two nodes the one with the
// lesser key starts over when there is none within firstPatience, twice that the next time,
// and so on. After lastTry the protocol's own tries have to do: nobody is there.
const (
	firstPatience = 100 * time.Millisecond
	lastTry       = 5
)

// holding is for how long a new peer's routes may wait for its first handshake, looked for
// each glance: packets that come before it begin handshakes of their own, and are queued.
const (
	holding = time.Second
	glance  = 20 * time.Millisecond
)

// awaited is a peer that was greeted and whose handshake is not seen yet.
type awaited struct {
	since time.Time // a handshake after it is the one
	again time.Time // when to start over
	first bool      // this node has the lesser key
	tries int
}

// held reports whether the peer's routes may wait.
func (a *awaited) held(now time.Time) bool { return now.Sub(a.since) < holding }

// greetings are the peers whose handshakes this node has an eye on, by key.
type greetings map[overlay.Key]*awaited

// expect has an eye on a peer that is new, or that has to learn a new key of this node.
func (g greetings) expect(own, peer overlay.Key, now time.Time) {
	g[peer] = &awaited{since: now, again: now.Add(firstPatience), first: bytes.Compare(own[:], peer[:]) < 0}
}

// late reports whether to start over with a peer, given its last handshake.
func (g greetings) late(peer overlay.Key, handshake, now time.Time) bool {
	a := g[peer]
	switch {
	case a == nil:
		return false
	case handshake.After(a.since), !a.held(now) && (!a.first || a.tries == lastTry):
		delete(g, peer)
		return false
	case !a.first, a.tries == lastTry, now.Before(a.again):
		return false
	}
	a.tries++
	a.again = now.Add(firstPatience << a.tries)
	return true
}

// next is when somebody is to be looked at, and false when nobody is.
func (g greetings) next(now time.Time) (at time.Time, some bool) {
	for _, a := range g {
		look := a.again
		if soon := now.Add(glance); a.held(now) && soon.Before(look) || !a.first {
			look = soon
		}
		if !some || look.Before(at) {
			at, some = look, true
		}
	}
	return at, some
}

// nudge sends an empty packet to each, which makes a session: the device does so when
// it is told to keep one alive that it was not to before.
func (r *run) nudge(control Control, keys []wgtypes.Key) error {
	if len(keys) == 0 || !r.link.Up {
		return nil
	}
	for _, interval := range []time.Duration{0, greeting, r.settings.KeepAlive} {
		var cfg wgtypes.Config
		for _, k := range keys {
			cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: k, UpdateOnly: true, PersistentKeepaliveInterval: &interval})
		}
		if err := control.ConfigureDevice(r.device, cfg); err != nil {
			return fmt.Errorf("greet its peers: %w", err)
		}
	}
	return nil
}
