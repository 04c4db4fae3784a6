package api

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// AnnotationBFD on a BGPPeer asks for BFD (RFC 5880) on its sessions, on the
// BGPConfiguration named default on those of the node-to-node mesh. Upstream's API
// has no field for it.
const AnnotationBFD = "tortie/bfd"

// The limits of what the annotation may ask for. Below the least interval a busy
// machine is taken for a dead one.
const (
	minBFDInterval   = 50 * time.Millisecond
	maxBFDInterval   = 60 * time.Second
	minBFDMultiplier = 2
)

// BFD is what is asked of BFD sessions; zero for none.
type BFD struct {
	// Interval is that between packets, in both directions.
	Interval time.Duration
	// Multiplier is how many packets in a row are missed before the neighbour is dead.
	Multiplier uint8
}

// On reports whether sessions are wanted.
func (b BFD) On() bool { return b != BFD{} }

// String is the form that ParseBFD reads.
func (b BFD) String() string {
	if !b.On() {
		return "off"
	}
	return fmt.Sprintf("%s x %d", b.Interval, b.Multiplier)
}

// DefaultBFD is what "on" means: a dead neighbour is found in 900 ms.
func DefaultBFD() BFD { return BFD{Interval: 300 * time.Millisecond, Multiplier: 3} }

// ParseBFD reads the value of AnnotationBFD: off, on, or an interval and a
// multiplier as in "300ms x 3".
func ParseBFD(s string) (BFD, error) {
	switch s {
	case "", "off":
		return BFD{}, nil
	case "on":
		return DefaultBFD(), nil
	}
	interval, multiplier, found := strings.Cut(s, "x")
	d, err := time.ParseDuration(strings.TrimSpace(interval))
	m, merr := strconv.ParseUint(strings.TrimSpace(multiplier), 10, 32)
	switch {
	case !found || err != nil || merr != nil:
		return BFD{}, fmt.Errorf(`want on, off, or an interval and a multiplier as in "300ms x 3"`)
	case d < minBFDInterval || d > maxBFDInterval:
		return BFD{}, fmt.Errorf("interval %s: want %s to %s", d, minBFDInterval, maxBFDInterval)
	case d%time.Microsecond != 0:
		return BFD{}, fmt.Errorf("interval %s: want whole microseconds", d)
	case m < minBFDMultiplier || m > math.MaxUint8:
		return BFD{}, fmt.Errorf("multiplier %d: want %d to %d", m, minBFDMultiplier, math.MaxUint8)
	}
	return BFD{Interval: d, Multiplier: uint8(m)}, nil
}
