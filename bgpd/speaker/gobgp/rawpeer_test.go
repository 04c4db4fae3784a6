package gobgp_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"tortie/bgpd/policy"
	"tortie/bgpd/speaker"
	"tortie/internal/polltest"
)

// rawPeer is the other end of a session, byte by byte: what it announces is whatever a
// test makes up, and it remembers what it is told.
type rawPeer struct {
	t    *testing.T
	conn net.Conn

	mu     sync.Mutex
	heard  map[netip.Prefix]policy.Route // with the whole AS path
	change chan struct{}                 // closed and made anew when heard changes
	gone   chan struct{}                 // closed when the session is
	ever   map[netip.Prefix]bool         // heard at any time; to be read when gone
}

// quietFor in seconds is the longest hold time there is: nothing is sent to keep it.
const quietFor = 1<<16 - 1

// dialRaw opens a session with a speaker that waits for it.
func dialRaw(t *testing.T, local, remote string, asn uint32, port uint16) *rawPeer {
	t.Helper()
	p := &rawPeer{t: t, heard: map[netip.Prefix]policy.Route{}, ever: map[netip.Prefix]bool{}, change: make(chan struct{}), gone: make(chan struct{})}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}, Timeout: time.Second}
	polltest.Until(t, patience, "a session from "+local, func() (bool, string) { // the speaker tells nobody that it waits
		conn, err := dialer.Dial("tcp", net.JoinHostPort(remote, strconv.Itoa(int(port))))
		if err != nil {
			return false, err.Error()
		}
		p.conn = conn
		if err := p.open(local, asn); err != nil {
			conn.Close()
			return false, err.Error()
		}
		return true, ""
	})
	t.Cleanup(func() { p.conn.Close(); <-p.gone })
	go p.listen()
	return p
}

func (p *rawPeer) open(id string, asn uint32) error {
	open := bgp.NewBGPOpenMessage(bgp.AS_TRANS, quietFor, id, []bgp.OptionParameterInterface{
		bgp.NewOptionParameterCapability([]bgp.ParameterCapabilityInterface{
			bgp.NewCapMultiProtocol(bgp.RF_IPv4_UC), bgp.NewCapFourOctetASNumber(asn),
		}),
	})
	if err := p.send(open); err != nil {
		return err
	}
	for _, want := range []uint8{bgp.BGP_MSG_OPEN, bgp.BGP_MSG_KEEPALIVE} {
		m, err := p.read()
		if err != nil {
			return err
		}
		if m.Header.Type != want {
			return fmt.Errorf("message type %d, want %d", m.Header.Type, want)
		}
		if want == bgp.BGP_MSG_OPEN {
			if err := p.send(bgp.NewBGPKeepAliveMessage()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *rawPeer) send(m *bgp.BGPMessage) error {
	b, err := m.Serialize()
	if err != nil {
		return err
	}
	_, err = p.conn.Write(b)
	return err
}

func (p *rawPeer) read() (*bgp.BGPMessage, error) {
	head := make([]byte, bgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(p.conn, head); err != nil {
		return nil, err
	}
	var h bgp.BGPHeader
	if err := h.DecodeFromBytes(head); err != nil {
		return nil, err
	}
	body := make([]byte, int(h.Len)-bgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(p.conn, body); err != nil {
		return nil, err
	}
	return bgp.ParseBGPBody(&h, body)
}

func (p *rawPeer) listen() {
	defer close(p.gone)
	for {
		m, err := p.read()
		if err != nil {
			return
		}
		if u, ok := m.Body.(*bgp.BGPUpdate); ok {
			p.update(u)
		}
	}
}

func (p *rawPeer) update(u *bgp.BGPUpdate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range u.WithdrawnRoutes {
		delete(p.heard, netip.MustParsePrefix(w.String()))
	}
	for _, n := range u.NLRI {
		prefix := netip.MustParsePrefix(n.String())
		p.heard[prefix], p.ever[prefix] = readRoute(prefix, u.PathAttributes), true
	}
	close(p.change)
	p.change = make(chan struct{})
}

// until waits until what was heard is as a test wants it.
func (p *rawPeer) until(what string, ok func(map[netip.Prefix]policy.Route) bool) {
	p.t.Helper()
	late := time.After(patience)
	for {
		p.mu.Lock()
		done, change := ok(p.heard), p.change
		heard := fmt.Sprint(p.heard)
		p.mu.Unlock()
		if done {
			return
		}
		select {
		case <-change:
		case <-p.gone:
			p.t.Fatalf("the session ended while waiting for %s; heard %s", what, heard)
		case <-late:
			p.t.Fatalf("still waiting for %s; heard %s", what, heard)
		}
	}
}

func readRoute(prefix netip.Prefix, attrs []bgp.PathAttributeInterface) policy.Route {
	r := policy.Route{Prefix: prefix}
	for _, attr := range attrs {
		switch a := attr.(type) {
		case *bgp.PathAttributeAsPath:
			for _, segment := range a.Value {
				r.ASPath = append(r.ASPath, segment.GetAS()...)
			}
		case *bgp.PathAttributeCommunities:
			for _, c := range a.Value {
				r.Communities = append(r.Communities, speaker.Community{A: c >> 16, B: c & 0xffff})
			}
		case *bgp.PathAttributeLargeCommunities:
			for _, c := range a.Values {
				r.Communities = append(r.Communities, speaker.Community{Large: true, A: c.ASN, B: c.LocalData1, C: c.LocalData2})
			}
		case *bgp.PathAttributeLocalPref:
			r.LocalPref = a.Value
		}
	}
	return r
}

func (p *rawPeer) announce(r policy.Route) {
	p.t.Helper()
	if err := p.tryAnnounce(r); err != nil {
		p.t.Fatal(err)
	}
}

// tryAnnounce sends a route with all its attributes.
func (p *rawPeer) tryAnnounce(r policy.Route) error {
	attrs := []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP),
		bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, r.ASPath)}),
		bgp.NewPathAttributeNextHop(r.NextHop.String()),
	}
	var standard []uint32
	var large []*bgp.LargeCommunity
	for _, c := range r.Communities {
		if c.Large {
			large = append(large, bgp.NewLargeCommunity(c.A, c.B, c.C))
		} else {
			standard = append(standard, c.A<<16|c.B)
		}
	}
	if len(standard) > 0 {
		attrs = append(attrs, bgp.NewPathAttributeCommunities(standard))
	}
	if len(large) > 0 {
		attrs = append(attrs, bgp.NewPathAttributeLargeCommunities(large))
	}
	nlri := bgp.NewIPAddrPrefix(uint8(r.Prefix.Bits()), r.Prefix.Addr().String())
	return p.send(bgp.NewBGPUpdateMessage(nil, attrs, []*bgp.IPAddrPrefix{nlri}))
}

func (p *rawPeer) withdraw(prefix netip.Prefix) {
	p.t.Helper()
	nlri := bgp.NewIPAddrPrefix(uint8(prefix.Bits()), prefix.Addr().String())
	if err := p.send(bgp.NewBGPUpdateMessage([]*bgp.IPAddrPrefix{nlri}, nil, nil)); err != nil {
		p.t.Fatal(err)
	}
}
