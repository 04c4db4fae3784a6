package gobgp

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// evidence is what the kernel knows of connections that don't come up.
type evidence struct {
	read func(name string) ([]byte, error) // of /proc/net
}

func procfs() evidence {
	return evidence{read: func(name string) ([]byte, error) { return os.ReadFile("/proc/thread-self/net/" + name) }}
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
	c.astray[peer] = addr
}
