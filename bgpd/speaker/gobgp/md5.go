package gobgp

import (
	"context"
	"fmt"
	"os"
	"strings"

	gobgpapi "github.com/osrg/gobgp/v3/api"

	"tortie/bgpd/speaker"
)

// deletePeer removes a peer and what the listeners know of it. GoBGP's own removal
// leaves the peer's TCP MD5 key on them, and an address that has a key there is
// refused without a signature for ever; its change of a peer does take the key away.
func (s *Speaker) deletePeer(ctx context.Context, p speaker.Peer) error {
	if p.Password != "" {
		p.Password = ""
		if _, err := s.server.UpdatePeer(ctx, &gobgpapi.UpdatePeerRequest{Peer: peerToAPI(p, false)}); err != nil {
			return fmt.Errorf("take its password away: %w", err)
		}
	}
	return s.server.DeletePeer(ctx, &gobgpapi.DeletePeerRequest{Address: p.Address.String()})
}

// md5Counters is how many segments the kernel has dropped for their TCP MD5
// signature, or for their TTL. Such a segment looks to both ends like none at all: these
// counters, which are of the whole host, are all that is ever seen of it.
type md5Counters struct {
	unsigned, // where a signature was due
	unexpected, // signed where none was
	wrong, // signed with another password
	far uint64 // with a TTL less than TTL security asks for
}

// readMD5 reads the kernel's counters. All zero when they can't be read: then the
// cause is told in more general words.
func readMD5() md5Counters {
	text, err := os.ReadFile("/proc/net/netstat")
	if err != nil {
		return md5Counters{}
	}
	return parseMD5(string(text))
}

// parseMD5 finds them in the kernel's format: a line of names, one of values, each
// beginning with the group's name.
func parseMD5(netstat string) (c md5Counters) {
	var names []string
	for line := range strings.Lines(netstat) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "TcpExt:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names[:min(len(names), len(fields))] {
			if into := c.counter(name); into != nil {
				_, _ = fmt.Sscan(fields[i], into) // not a number: stays 0
			}
		}
		return c
	}
	return c
}

func (c *md5Counters) counter(name string) *uint64 {
	switch name {
	case "TCPMD5NotFound":
		return &c.unsigned
	case "TCPMD5Unexpected":
		return &c.unexpected
	case "TCPMD5Failure":
		return &c.wrong
	case "TCPMinTTLDrop":
		return &c.far
	}
	return nil
}

// explainDropped says what the segments dropped since a session went down make likely;
// empty when they say nothing.
func explainDropped(p speaker.Peer, before, now md5Counters) string {
	if words := explainMD5(p, before, now); words != "" {
		return words
	}
	if p.TTLSecurity > 0 && now.far > before.far {
		return fmt.Sprintf("likely a TTL security mismatch: segments arrive with a TTL less than %d: switch TTL security (GTSM) on at %s, or allow more hops in spec.ttlSecurity",
			256-int(p.TTLSecurity), p.Address)
	}
	return ""
}

// explainMD5 is that of the signatures.
func explainMD5(p speaker.Peer, before, now md5Counters) string {
	switch {
	case p.Password == "" && now.unexpected > before.unexpected:
		return fmt.Sprintf("likely a TCP MD5 mismatch: signed segments arrive, and %s is configured without password: set spec.password", p.Address)
	case p.Password == "":
		return ""
	case now.wrong > before.wrong:
		return fmt.Sprintf("likely a TCP MD5 mismatch: segments arrive that are signed with another password: make that of %s and ours the same", p.Address)
	case now.unsigned > before.unsigned:
		return fmt.Sprintf("likely a TCP MD5 mismatch: segments arrive without signature: give %s the password, or start a BGP speaker there on port %d",
			p.Address, portOf(p))
	}
	return ""
}
