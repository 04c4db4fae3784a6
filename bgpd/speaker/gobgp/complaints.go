package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	gobgpapi "github.com/osrg/gobgp/v3/api"
	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
)

// Messages of the library's about what a peer sent that is wrong (RFC 7606).
const (
	attributesDiscarded = "Some attributes were discarded"
	treatedAsWithdraw   = "the received Update message was treated as withdraw"
	familyDisabled      = "Capability was disabled"
	familyNotDisabled   = "Error occurred during AFI/SAFI disabling"
	malformedHeader     = "Session will be reset due to malformed BGP Header"
	malformedMessage    = "Session will be reset due to malformed BGP message"
	malformedUpdate     = "Session will be reset due to malformed BGP update message"
)

// prefixesLost: an attribute is longer than the message. The library has read no prefix
// then, and has withdrawn nothing.
func prefixesLost(detail string) bool {
	return slices.Contains([]string{"attribute length is short", "attribute value length is short", "attribute header length is short"}, detail)
}

// complaintTime is how long a malformed message is spoken of.
const complaintTime = time.Hour

// complaints are what is wrong with messages of peers. A session mostly goes on in spite of
// it, with routes missing that the peer believes to have announced.
type complaints struct {
	now func() time.Time

	mu    sync.Mutex
	peers map[netip.Addr]complaint
}

type complaint struct {
	at     time.Time
	what   string
	detail string
	count  int
}

func newComplaints(now func() time.Time) *complaints {
	return &complaints{now: now, peers: map[netip.Addr]complaint{}}
}

// note takes a message of the library's, and reports whether the peer's session can't go
// on although the library goes on with it: a message was lost of which nobody knows what
// it took away.
func (c *complaints) note(peer netip.Addr, msg string, fields gobgplog.Fields) (untrue bool) {
	detail := detailOf(fields)
	var what string
	switch msg {
	case attributesDiscarded:
		what = "an attribute of an UPDATE is malformed and was discarded"
	case treatedAsWithdraw:
		what = "an UPDATE is malformed and was taken as the withdrawal of its routes"
		untrue = prefixesLost(detail)
	case familyDisabled, familyNotDisabled:
		untrue = true
	case malformedHeader, malformedMessage, malformedUpdate:
		what = "a message is malformed, which ended the session"
	default:
		return false
	}
	if untrue {
		what = "an UPDATE is malformed, and the session was begun anew, as its routes can't be told"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.peers[peer]
	if c.now().Sub(before.at) > complaintTime {
		before.count = 0
	}
	c.peers[peer] = complaint{at: c.now(), what: what, detail: detail, count: before.count + 1}
	return untrue
}

func detailOf(fields gobgplog.Fields) string {
	for _, name := range []string{"Error", "error"} {
		if v := fields[name]; v != nil {
			return fmt.Sprint(v)
		}
	}
	return ""
}

func (c *complaints) forget(peer netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.peers, peer)
}

// words are what is wrong with the last malformed message of a peer; empty if there was
// none of late.
func (c *complaints) words(peer netip.Addr) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, ok := c.peers[peer]
	if !ok || c.now().Sub(last.at) > complaintTime {
		return ""
	}
	out := "the peer sends what BGP forbids: " + last.what
	if last.detail != "" {
		out += ": " + last.detail
	}
	if last.count > 1 {
		out += fmt.Sprintf(" (%d such messages, this is the last)", last.count)
	}
	return out
}

// distrust ends a session on which something was lost, for both sides to tell everything
// again. It is called by the session itself, which must not wait for it.
func (s *Speaker) distrust(peer netip.Addr) {
	go func() {
		err := s.server.ResetPeer(context.Background(), &gobgpapi.ResetPeerRequest{
			Address: peer.String(), Communication: "malformed UPDATE",
		})
		if err != nil { // it is no peer any more
			s.log.Debug("session of a malformed UPDATE not reset", "peer", peer, "err", err)
		}
	}()
}
