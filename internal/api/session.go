package api

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Annotations that say more of BGP sessions than upstream's API has fields for: on a
// BGPPeer of its sessions, on the BGPConfiguration named default of those of the
// node-to-node mesh.
const (
	// AnnotationTimers has the timers of RFC 4271, as in "hold=30s keepalive=10s connect=5s".
	AnnotationTimers = "tortie/timers"
	// AnnotationLongLived is how long routes are kept, as the last choice, of a peer that
	// stays away longer than the restart time (RFC 9494).
	AnnotationLongLived = "tortie/long-lived-restart"
	// AnnotationAddPath is "on" where a peer may send several paths to a prefix (RFC 7911).
	AnnotationAddPath = "tortie/add-path"
)

// The timers' bounds. A hold time of 0 (RFC 4271 section 4.2) would never find a dead
// peer, and the library can't do it.
const (
	minHoldTime    = 3 * time.Second
	maxHoldTime    = math.MaxUint16 * time.Second
	maxConnectTime = 5 * time.Minute
	// maxLongLived is what the 24 bits of RFC 9494 section 3.1 hold.
	maxLongLived = (1<<24 - 1) * time.Second
)

// Timers are those of a session; a zero one is the default.
type Timers struct {
	// Hold is offered to the peer; the lesser of both sides' counts. Keepalive is how often
	// a message is sent at least, a third of the hold time by default. Connect is the least
	// time between attempts to connect.
	Hold, Keepalive, Connect time.Duration
}

// DefaultTimers are those of a session of which nothing is said.
func DefaultTimers() Timers {
	return Timers{Hold: 90 * time.Second, Keepalive: 30 * time.Second, Connect: time.Second}
}

// OrDefault has the defaults in place of what is not said.
func (t Timers) OrDefault() Timers {
	d := DefaultTimers()
	if t.Connect == 0 {
		t.Connect = d.Connect
	}
	if t.Hold == 0 {
		t.Hold = d.Hold
	}
	if t.Keepalive == 0 {
		t.Keepalive = (t.Hold / 3).Truncate(time.Second)
	}
	return t
}

const wantTimers = `want one or more of hold, keepalive and connect, as in "hold=30s keepalive=10s connect=5s"`

// ParseTimers reads the value of AnnotationTimers.
func ParseTimers(s string) (Timers, error) {
	var t Timers
	fields := map[string]*time.Duration{"hold": &t.Hold, "keepalive": &t.Keepalive, "connect": &t.Connect}
	for _, part := range strings.Fields(s) {
		name, value, _ := strings.Cut(part, "=")
		d, err := time.ParseDuration(value)
		switch field := fields[name]; {
		case field == nil || err != nil:
			return Timers{}, fmt.Errorf("%q: %s", part, wantTimers)
		case *field != 0:
			return Timers{}, fmt.Errorf("%s is given twice", name)
		case d%time.Second != 0:
			return Timers{}, fmt.Errorf("%s %s: want whole seconds", name, d)
		case d == 0 && name == "hold":
			return Timers{}, fmt.Errorf("hold 0s would never find a dead peer: want %s to %s", minHoldTime, maxHoldTime)
		case d <= 0:
			return Timers{}, fmt.Errorf("%s %s: want 1s or more", name, d)
		default:
			*field = d
		}
	}
	switch used := t.OrDefault(); {
	case used.Hold < minHoldTime || used.Hold > maxHoldTime:
		return Timers{}, fmt.Errorf("hold %s: want %s to %s", used.Hold, minHoldTime, maxHoldTime)
	case used.Keepalive > used.Hold/3:
		return Timers{}, fmt.Errorf("keepalive %s: want at most a third of the hold time, which is %s", used.Keepalive, used.Hold)
	case used.Connect > maxConnectTime:
		return Timers{}, fmt.Errorf("connect %s: want 1s to %s", used.Connect, maxConnectTime)
	}
	return t, nil
}

// ParseLongLived reads the value of AnnotationLongLived; 0 is off.
func ParseLongLived(s string) (time.Duration, error) {
	if s == "" || s == "off" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, fmt.Errorf(`want off, or a time as in "1h30m"`)
	case d < time.Second || d > maxLongLived || d%time.Second != 0:
		return 0, fmt.Errorf("%s: want whole seconds from 1s to %s", d, maxLongLived)
	}
	return d, nil
}

// ParseAddPath reads the value of AnnotationAddPath.
func ParseAddPath(s string) (bool, error) {
	switch s {
	case "", "off":
		return false, nil
	case "on":
		return true, nil
	}
	return false, fmt.Errorf("want on or off")
}

// sessionAnnotations are the annotations about sessions, and what is wrong with a value.
func sessionAnnotations() map[string]func(string) error {
	return map[string]func(string) error{
		AnnotationBFD:       func(s string) error { _, err := ParseBFD(s); return err },
		AnnotationTimers:    func(s string) error { _, err := ParseTimers(s); return err },
		AnnotationLongLived: func(s string) error { _, err := ParseLongLived(s); return err },
		AnnotationAddPath:   func(s string) error { _, err := ParseAddPath(s); return err },
	}
}

// SessionAnnotations are the names of the annotations about sessions, in order.
func SessionAnnotations() []string { return sortedKeys(sessionAnnotations()) }

// session checks the annotations of an object about sessions.
func (c *checker) session(annotations map[string]string) {
	checks := sessionAnnotations()
	for _, name := range sortedKeys(checks) {
		value := annotations[name]
		if err := checks[name](value); err != nil {
			c.bad(fmt.Sprintf("metadata.annotations[%s]", name), value, "%v", err)
		}
	}
}
