// Package bgptest is the other end of a BGP session for tests: it sends whatever bytes it
// is told, right or wrong. It knows no more of BGP than that takes, and shares no code
// with the speaker under test.
package bgptest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// The types of messages (RFC 4271 section 4.1, RFC 2918).
const (
	Open         byte = 1
	Update       byte = 2
	Notification byte = 3
	Keepalive    byte = 4
	RouteRefresh byte = 5
)

const (
	headerLen = 19
	// silence is how often a keepalive is sent: hold times here are 90 s.
	silence = 10 * time.Second
	asTrans = 23456
)

// Config is what a peer says of itself in its OPEN.
type Config struct {
	ASN uint32
	ID  netip.Addr
	// IPv6 has the session carry IPv6 unicast and not IPv4.
	IPv6 bool
	// RestartTime in seconds has it restart gracefully (RFC 4724); 0 is off.
	RestartTime uint16
}

// Peer is an established session.
type Peer struct {
	conn  net.Conn
	write sync.Mutex
	ended chan struct{}
	end   error // why it ended; to be read when ended is closed
}

// NotificationError is the NOTIFICATION by which the other end closed the session.
type NotificationError struct{ Code, Subcode byte }

// Error implements error.
func (e NotificationError) Error() string {
	return fmt.Sprintf("NOTIFICATION %d/%d", e.Code, e.Subcode)
}

// Establish opens a session on a connection, which it then owns.
func Establish(conn net.Conn, cfg Config) (*Peer, error) {
	p := &Peer{conn: conn, ended: make(chan struct{})}
	if err := p.handshake(cfg); err != nil {
		conn.Close()
		return nil, fmt.Errorf("open BGP session with %s: %w", conn.RemoteAddr(), err)
	}
	go p.read()
	go p.keep()
	return p, nil
}

func (p *Peer) handshake(cfg Config) error {
	if err := p.Send(Open, cfg.open()); err != nil {
		return err
	}
	for _, want := range []byte{Open, Keepalive} {
		kind, body, err := p.receive()
		switch {
		case err != nil:
			return err
		case kind == Notification && len(body) >= 2:
			return NotificationError{body[0], body[1]}
		case kind != want:
			return fmt.Errorf("message of type %d, want %d", kind, want)
		}
		if want == Open {
			if err := p.Send(Keepalive, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// open is the body of the OPEN.
func (c Config) open() []byte {
	afi := byte(1)
	if c.IPv6 {
		afi = 2
	}
	capability := func(code byte, value ...byte) []byte { return append([]byte{code, byte(len(value))}, value...) }
	caps := capability(1, 0, afi, 0, 1) // multiprotocol, unicast
	caps = append(caps, capability(65, binary.BigEndian.AppendUint32(nil, c.ASN)...)...)
	if c.RestartTime > 0 {
		caps = append(caps, capability(64, byte(c.RestartTime>>8), byte(c.RestartTime), 0, afi, 1, 0x80)...)
	}
	out := []byte{4}
	out = binary.BigEndian.AppendUint16(out, asTrans)
	out = binary.BigEndian.AppendUint16(out, 90)
	out = append(out, c.ID.AsSlice()...)
	out = append(out, byte(len(caps)+2), 2, byte(len(caps)))
	return append(out, caps...)
}

// Send sends a message with a correct header.
func (p *Peer) Send(kind byte, body []byte) error { return p.SendRaw(Message(kind, body)) }

// SendRaw sends bytes as they are.
func (p *Peer) SendRaw(b []byte) error {
	p.write.Lock()
	defer p.write.Unlock()
	_, err := p.conn.Write(b)
	return err
}

// Message is a message with its header.
func Message(kind byte, body []byte) []byte {
	out := make([]byte, 16, headerLen+len(body))
	for i := range out {
		out[i] = 0xff
	}
	out = binary.BigEndian.AppendUint16(out, uint16(headerLen+len(body)))
	return append(append(out, kind), body...)
}

// Done is closed when the session has ended.
func (p *Peer) Done() <-chan struct{} { return p.ended }

// End is why it has: a NotificationError if there was a NOTIFICATION. It waits for it.
func (p *Peer) End() error {
	<-p.ended
	return p.end
}

// Close ends the session without a word.
func (p *Peer) Close() {
	p.conn.Close()
	<-p.ended
}

func (p *Peer) receive() (kind byte, body []byte, err error) {
	head := make([]byte, headerLen)
	if _, err := io.ReadFull(p.conn, head); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint16(head[16:]))
	if n < headerLen {
		return 0, nil, errors.New("message shorter than its header")
	}
	body = make([]byte, n-headerLen)
	_, err = io.ReadFull(p.conn, body)
	return head[18], body, err
}

func (p *Peer) read() {
	defer close(p.ended)
	defer p.conn.Close()
	for {
		kind, body, err := p.receive()
		if err == nil && kind == Notification && len(body) >= 2 {
			err = NotificationError{body[0], body[1]}
		}
		if err != nil {
			p.end = err
			return
		}
	}
}

// keep sends keepalives until the session has ended.
func (p *Peer) keep() {
	ticker := time.NewTicker(silence)
	defer ticker.Stop()
	for {
		select {
		case <-p.ended:
			return
		case <-ticker.C:
			_ = p.Send(Keepalive, nil) // fails when the session has ended
		}
	}
}
