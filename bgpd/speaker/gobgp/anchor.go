package gobgp

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	gobgpapi "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"github.com/osrg/gobgp/v3/pkg/server"

	"tortie/bgpd/speaker"
)

// anchor keeps the speaker in its restart for every peer on its own.
//
// GoBGP ends the restart of the whole server when all peers that are connected
// have sent End-of-RIB: with the first session up, milliseconds after the start.
// Every later session then opens without the forwarding bit, and a peer that
// reads it (BIRD, FRR) drops our routes at once, as RFC 4724 section 4.2 tells
// it to. The anchor is a session with ourselves on which no End-of-RIB ever
// comes. While it is there, each session ends its restart by its own deferral
// timer, and all of them open with the bit set.
type anchor struct {
	addr   netip.Addr
	server *server.BgpServer
	conn   net.Conn
	expire *time.Timer
}

const (
	// anchorLife is longer than any sensible restart: a peer that isn't back then
	// has dropped our routes already.
	anchorLife = 2 * time.Minute
	// anchorHoldTime in seconds is the longest there is: nothing is sent after the
	// handshake.
	anchorHoldTime = 1<<16 - 1
	anchorTimeout  = 2 * time.Second
	anchorRetry    = 20 * time.Millisecond
	// anchorID is a BGP identifier nobody has: that of an unusable address.
	anchorID = "0.0.0.1"
)

// startAnchor returns nil when the session can't be made; the restart is then
// merely less graceful for peers that aren't first.
func startAnchor(ctx context.Context, srv *server.BgpServer, g speaker.Global, log *slog.Logger) *anchor {
	a := &anchor{server: srv, addr: anchorAddress(g)}
	if err := a.start(ctx, g); err != nil {
		log.Warn("graceful restart may lose routes at some peers", "err", err)
		a.close(ctx)
		return nil
	}
	later := context.WithoutCancel(ctx)
	a.expire = time.AfterFunc(anchorLife, func() { a.drop(later) })
	return a
}

// anchorAddress is one of our own addresses: no real peer can have it.
func anchorAddress(g speaker.Global) netip.Addr {
	if len(g.Listen) == 0 {
		return netip.Addr{}
	}
	listen := g.Listen[0]
	switch {
	case !listen.IsUnspecified():
		return listen
	case listen.Is4():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

func (a *anchor) start(ctx context.Context, g speaker.Global) error {
	if !a.addr.IsValid() {
		return fmt.Errorf("start restart anchor: no listen address")
	}
	conf := peerToAPI(speaker.Peer{
		Address: a.addr, ASN: g.ASN, Passive: true, RestartTime: anchorLife,
	}, true)
	conf.Timers.Config.HoldTime, conf.Timers.Config.KeepaliveInterval = anchorHoldTime, anchorHoldTime/3
	if err := a.server.AddPeer(ctx, &gobgpapi.AddPeerRequest{Peer: conf}); err != nil {
		return fmt.Errorf("start restart anchor: %w", err)
	}
	deadline := time.Now().Add(anchorTimeout)
	for {
		err := a.open(g, deadline)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("start restart anchor: %w", err)
		}
		select { // the peer's state machine may not listen yet
		case <-ctx.Done():
			return fmt.Errorf("start restart anchor: %w", ctx.Err())
		case <-time.After(anchorRetry):
		}
	}
}

// open plays the peer's part up to an established session.
func (a *anchor) open(g speaker.Global, deadline time.Time) error {
	dialer := net.Dialer{
		Deadline:  deadline,
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.addr, 0)),
	}
	conn, err := dialer.Dial("tcp", net.JoinHostPort(a.addr.String(), strconv.Itoa(int(g.Port))))
	if err != nil {
		return err
	}
	if err := a.handshake(conn, g, deadline); err != nil {
		conn.Close()
		return err
	}
	a.conn = conn
	go io.Copy(io.Discard, conn) // until close
	return nil
}

func (a *anchor) handshake(conn net.Conn, g speaker.Global, deadline time.Time) error {
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	family := bgp.RF_IPv4_UC
	if !a.addr.Is4() {
		family = bgp.RF_IPv6_UC
	}
	as := uint16(bgp.AS_TRANS)
	if g.ASN <= 1<<16-1 {
		as = uint16(g.ASN)
	}
	open := bgp.NewBGPOpenMessage(as, anchorHoldTime, anchorID, []bgp.OptionParameterInterface{
		bgp.NewOptionParameterCapability([]bgp.ParameterCapabilityInterface{
			bgp.NewCapMultiProtocol(family),
			bgp.NewCapFourOctetASNumber(g.ASN),
			bgp.NewCapGracefulRestart(false, false, uint16(anchorLife/time.Second),
				[]*bgp.CapGracefulRestartTuple{bgp.NewCapGracefulRestartTuple(family, false)}),
		}),
	})
	for _, m := range []*bgp.BGPMessage{open, bgp.NewBGPKeepAliveMessage()} {
		b, err := m.Serialize()
		if err != nil {
			return err
		}
		if _, err := conn.Write(b); err != nil {
			return err
		}
	}
	for _, want := range []uint8{bgp.BGP_MSG_OPEN, bgp.BGP_MSG_KEEPALIVE} {
		got, err := readMessageType(conn)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("message type %d in answer, want %d", got, want)
		}
	}
	return conn.SetDeadline(time.Time{})
}

func readMessageType(conn net.Conn) (uint8, error) {
	head := make([]byte, bgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(conn, head); err != nil {
		return 0, err
	}
	var h bgp.BGPHeader
	if err := h.DecodeFromBytes(head); err != nil {
		return 0, err
	}
	_, err := io.CopyN(io.Discard, conn, int64(h.Len)-bgp.BGP_HEADER_LENGTH)
	return h.Type, err
}

// drop ends the session; a restart that is still going on for a peer then ends
// as GoBGP sees fit.
func (a *anchor) drop(ctx context.Context) {
	// Fails only when the server is being stopped, and the peer is gone then too.
	_ = a.server.DeletePeer(ctx, &gobgpapi.DeletePeerRequest{Address: a.addr.String()})
	if a.conn != nil {
		a.conn.Close()
	}
}

func (a *anchor) close(ctx context.Context) {
	if a == nil {
		return
	}
	if a.expire == nil || a.expire.Stop() {
		a.drop(ctx)
	}
}
