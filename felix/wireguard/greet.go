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

// firstPatience is how long a greeted peer has for its handshake before this node starts
// over; each further try has twice as much. After lastTry the protocol's own tries, each
// 5 s, have to do: nobody is there.
const (
	firstPatience = 100 * time.Millisecond
	lastTry       = 5
)

// awaited is a greeted peer whose handshake is not seen yet.
type awaited struct {
	since   time.Time // a handshake after it is the one
	again   time.Time // when to start over
	started int       // how often it was
}

// greetings are the peers whose handshakes this node has an eye on, by key. When two
// nodes begin a handshake at the same moment, each drops its own for the other's, and
// neither is completed (state INITIATION_CREATED is left for RESPONSE_CREATED at both);
// the protocol tries again after Rekey-Timeout, 5 s. So the node with the lesser key, and
// it alone, starts over long before.
type greetings map[overlay.Key]*awaited

// expect has an eye on a peer that is about to be greeted.
func (g greetings) expect(own, peer overlay.Key, now time.Time) {
	if bytes.Compare(own[:], peer[:]) < 0 {
		g[peer] = &awaited{since: now, again: now.Add(firstPatience)}
	}
}

// late reports whether it is time to start over with a peer, given its last handshake.
func (g greetings) late(key overlay.Key, handshake, now time.Time) bool {
	a := g[key]
	switch {
	case a == nil:
		return false
	case handshake.After(a.since), a.started == lastTry:
		delete(g, key)
		return false
	case now.Before(a.again):
		return false
	}
	a.started++
	a.again = now.Add(firstPatience << a.started)
	return true
}

// next is when somebody is to be looked after, and false when nobody is.
func (g greetings) next() (at time.Time, some bool) {
	for _, a := range g {
		if !some || a.again.Before(at) {
			at, some = a.again, true
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
