// Package lightpeer is the least that a BGP peer has to be (RFC 4271): it holds a session
// with a speaker under measurement, announces what it is told to and reads nothing of what
// it is told. A thousand of them cost less than one real speaker.
package lightpeer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"tortie/internal/kernel"
)

const (
	portBGP      = 179
	headerSize   = 19
	maxMessage   = 4096
	holdTime     = 90 // seconds
	keepalive    = holdTime / 3 * time.Second
	handshake    = 10 * time.Second
	typeOpen     = 1
	typeUpdate   = 2
	typeAlive    = 4
	transition   = 23456 // AS_TRANS (RFC 6793)
	asnEverybody = 64512
)

// ASN is the AS number of every light peer, and of those they have sessions with.
const ASN uint32 = asnEverybody

// Peer is one end of a session that is up.
type Peer struct {
	conn net.Conn
	mu   sync.Mutex // of writing
	// Gone is closed when the session has ended.
	Gone chan struct{}
}

// Dial opens a session from an address in a network namespace.
func Dial(ns *kernel.Netns, local, remote netip.Addr) (*Peer, error) {
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0)), Timeout: handshake}
	var conn net.Conn
	err := ns.Do(func() (err error) {
		conn, err = dialer.Dial("tcp", netip.AddrPortFrom(remote, portBGP).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return begin(conn, local)
}

// Listen accepts sessions in a network namespace, on all its addresses, and hands each
// with its local address to accept, until the listener is closed.
func Listen(ns *kernel.Netns, accept func(local netip.Addr, p *Peer)) (io.Closer, error) {
	var l net.Listener
	err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", portBGP))
		return err
	})
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				local := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
				if p, err := begin(conn, local); err == nil {
					accept(local, p)
				}
			}()
		}
	}()
	return l, nil
}

// begin brings a session up on a connection.
func begin(conn net.Conn, id netip.Addr) (*Peer, error) {
	p := &Peer{conn: conn, Gone: make(chan struct{})}
	err := errors.Join(conn.SetDeadline(time.Now().Add(handshake)), p.open(id))
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("BGP session from %s: %w", id, err)
	}
	go func() {
		defer close(p.Gone)
		_, _ = io.Copy(io.Discard, conn) // until the session ends, however it does
	}()
	go p.keepAlive()
	return p, nil
}

func (p *Peer) keepAlive() {
	t := time.NewTicker(keepalive)
	defer t.Stop()
	for {
		select {
		case <-p.Gone:
			return
		case <-t.C:
			_ = p.send(typeAlive, nil) // Gone says when it has ended
		}
	}
}

// open is RFC 4271 section 4.2, with the capabilities multiprotocol (RFC 4760), four-octet
// AS numbers (RFC 6793) and graceful restart (RFC 4724) for IPv4 unicast.
func (p *Peer) open(id netip.Addr) error {
	capabilities := []byte{1, 4, 0, 1, 0, 1, 65, 4}
	capabilities = binary.BigEndian.AppendUint32(capabilities, ASN)
	capabilities = append(capabilities, 64, 6, 0, 120, 0, 1, 1, 0)
	b := []byte{4}
	b = binary.BigEndian.AppendUint16(b, uint16(min(ASN, transition)))
	if ASN < 1<<16 {
		binary.BigEndian.PutUint16(b[1:], uint16(ASN))
	}
	b = binary.BigEndian.AppendUint16(b, holdTime)
	b = append(b, id.AsSlice()...)
	b = append(b, byte(len(capabilities)+2), 2, byte(len(capabilities)))
	if err := p.send(typeOpen, append(b, capabilities...)); err != nil {
		return err
	}
	for _, want := range []byte{typeOpen, typeAlive} {
		got, err := p.receive()
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("message of type %d, want %d", got, want)
		}
		if want == typeOpen {
			if err := p.send(typeAlive, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Peer) receive() (kind byte, err error) {
	head := make([]byte, headerSize)
	if _, err := io.ReadFull(p.conn, head); err != nil {
		return 0, err
	}
	_, err = io.CopyN(io.Discard, p.conn, int64(binary.BigEndian.Uint16(head[16:]))-headerSize)
	return head[18], err
}

func (p *Peer) send(kind byte, body []byte) error {
	b := make([]byte, 16, headerSize+len(body))
	for i := range b {
		b[i] = 0xff
	}
	b = binary.BigEndian.AppendUint16(b, uint16(headerSize+len(body)))
	b = append(append(b, kind), body...)
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.conn.Write(b)
	return err
}

// Hold returns when the session has ended; it ends it when ctx is done.
func (p *Peer) Hold(ctx context.Context) {
	select {
	case <-p.Gone:
	case <-ctx.Done():
		p.Close()
	}
}

// Close ends the session as the death of the process would.
func (p *Peer) Close() { p.conn.Close() }

// Announce tells of IPv4 prefixes with one next hop.
func (p *Peer) Announce(nextHop netip.Addr, prefixes ...netip.Prefix) error {
	attributes := []byte{
		0x40, 1, 1, 0, // ORIGIN: IGP
		0x40, 2, 0, // AS_PATH: empty, within the AS
		0x40, 3, 4, // NEXT_HOP
	}
	attributes = append(attributes, nextHop.AsSlice()...)
	attributes = append(attributes, 0x40, 5, 4, 0, 0, 0, 100) // LOCAL_PREF
	return p.update(prefixes, func(nlri []byte) []byte {
		b := binary.BigEndian.AppendUint16([]byte{0, 0}, uint16(len(attributes)))
		return append(append(b, attributes...), nlri...)
	})
}

// Withdraw takes IPv4 prefixes back.
func (p *Peer) Withdraw(prefixes ...netip.Prefix) error {
	return p.update(prefixes, func(nlri []byte) []byte {
		b := binary.BigEndian.AppendUint16(nil, uint16(len(nlri)))
		return append(append(b, nlri...), 0, 0)
	})
}

// EndOfRIB says that all has been announced (RFC 4724 section 2).
func (p *Peer) EndOfRIB() error { return p.send(typeUpdate, []byte{0, 0, 0, 0}) }

// update sends prefixes in as few messages as can be.
func (p *Peer) update(prefixes []netip.Prefix, body func(nlri []byte) []byte) error {
	const room = maxMessage - 128 // beside header and attributes
	var nlri []byte
	for _, prefix := range prefixes {
		if len(nlri)+5 > room {
			if err := p.send(typeUpdate, body(nlri)); err != nil {
				return err
			}
			nlri = nlri[:0]
		}
		nlri = append(nlri, byte(prefix.Bits()))
		nlri = append(nlri, prefix.Addr().AsSlice()[:(prefix.Bits()+7)/8]...)
	}
	return p.send(typeUpdate, body(nlri))
}
