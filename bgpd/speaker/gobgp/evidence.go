package gobgp

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"tortie/bgpd/speaker"
)

// A segment with a bad MD5 signature is dropped without an answer: a wrong password
// looks like a peer that is down. Only the kernel's counters tell the two apart. They
// are of the whole node, and are read as a hint.

// signatures counts what the kernel has dropped for its MD5 signature (RFC 2385).
type signatures struct {
	missing    uint64 // a signature was expected, and there was none
	unexpected uint64 // there was one, and none was expected
	wrong      uint64
}

// evidence is what the kernel knows of connections that don't come up.
type evidence struct {
	read func(name string) ([]byte, error) // of /proc/net
}

func procfs() evidence {
	return evidence{read: func(name string) ([]byte, error) { return os.ReadFile("/proc/thread-self/net/" + name) }}
}

// signatures are all zero where the kernel doesn't count.
func (e evidence) signatures() (s signatures) {
	text, err := e.read("netstat")
	if err != nil {
		return s
	}
	var names []string
	for line := range bytes.Lines(text) {
		words := strings.Fields(string(line))
		switch {
		case len(words) == 0 || words[0] != "TcpExt:":
		case names == nil:
			names = words
		default:
			for i, name := range names {
				if counter := map[string]*uint64{
					"TCPMD5NotFound": &s.missing, "TCPMD5Unexpected": &s.unexpected, "TCPMD5Failure": &s.wrong,
				}[name]; counter != nil && i < len(words) {
					*counter, _ = strconv.ParseUint(words[i], 10, 64)
				}
			}
			return s
		}
	}
	return s
}

// unresolved: the kernel has asked for the link address of an IPv4 address in vain.
func (e evidence) unresolved(addr netip.Addr) bool {
	text, err := e.read("arp")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(text) {
		// IP address, HW type, Flags, HW address, Mask, Device
		words := strings.Fields(string(line))
		if len(words) > 2 && words[0] == addr.String() {
			return words[2] == "0x0"
		}
	}
	return false
}

// trace is what was noticed while a session was down.
type trace struct {
	begun      bool
	before     signatures // when it began
	wrongLocal netip.Addr // an address of ours that the peer connects to in vain
}

// begin notes the start of a time in which a session is down; mu is held.
func (c *causes) begin(addr netip.Addr) {
	if t := c.traces[addr]; !t.begun {
		t.begun, t.before = true, c.evidence.signatures()
		c.traces[addr] = t
	}
}

// signatures says what the kernel has dropped since, as far as it can be this peer's: of
// one that we wait for without a password there is no sign that it is up at all.
func (c *causes) signatures(p speaker.Peer, seen trace) string {
	if !seen.begun {
		return ""
	}
	now := c.evidence.signatures()
	switch {
	case p.Password == "" && !p.Passive && now.unexpected > seen.before.unexpected:
		return ": the peer seems to have a password (TCP MD5), and none is set for it here"
	case p.Password != "" && now.wrong > seen.before.wrong:
		return ": its password (TCP MD5) seems to be another one: this node gets segments with a wrong signature"
	case p.Password != "" && now.missing > seen.before.missing:
		return ": the peer seems to have no password (TCP MD5), and one is set for it here"
	}
	return ""
}

const (
	maxStrangers = 16
	// strangerTime is how long somebody who tried to connect is spoken of.
	strangerTime = 2 * time.Minute
)

// strange notes that somebody connected who is no peer.
func (c *causes) strange(addr netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.strangers[addr]; known || len(c.strangers) < maxStrangers {
		c.strangers[addr] = c.now()
		return
	}
	for other, at := range c.strangers {
		if c.now().Sub(at) > strangerTime {
			delete(c.strangers, other)
		}
	}
}

// stranger is who may be the peer under another address. Of several it is none: a guess
// would mislead.
func (c *causes) stranger(peer netip.Addr) netip.Addr {
	c.mu.Lock()
	recent := maps.Clone(c.strangers)
	c.mu.Unlock()
	maps.DeleteFunc(recent, func(addr netip.Addr, at time.Time) bool {
		// Before the first Apply all peers are strangers.
		return c.now().Sub(at) > strangerTime || addr.Is4() != peer.Is4() || c.configured(addr)
	})
	if len(recent) != 1 {
		return netip.Addr{}
	}
	return slices.Collect(maps.Keys(recent))[0]
}

// wrongLocal notes that a peer connects to an address of ours that isn't its session's.
func (c *causes) wrongLocal(peer netip.Addr, local any) {
	addr, err := netip.ParseAddr(fmt.Sprint(local))
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin(peer)
	t := c.traces[peer]
	t.wrongLocal = addr
	c.traces[peer] = t
}
