package bfd

import (
	"encoding/binary"
	"fmt"
	"time"
)

// State is a state of a session (RFC 5880 section 4.1), in the numbers of the wire.
type State uint8

// The states of a session.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

func (s State) String() string {
	return [...]string{"AdminDown", "Down", "Init", "Up"}[s&3]
}

// Diag says why a session last changed its state (RFC 5880 section 4.1).
type Diag uint8

// The reasons that this implementation gives.
const (
	DiagNone         Diag = 0
	DiagExpired      Diag = 1
	DiagNeighborDown Diag = 3
	DiagAdminDown    Diag = 7
)

func (d Diag) String() string {
	names := [...]string{
		"", "control detection time expired", "echo function failed", "neighbor signaled session down",
		"forwarding plane reset", "path down", "concatenated path down", "administratively down", "reverse concatenated path down",
	}
	if int(d) < len(names) {
		return names[d]
	}
	return fmt.Sprintf("diagnostic %d", uint8(d))
}

const (
	version = 1
	// PacketLength is that of a packet without authentication, the only one made here.
	PacketLength = 24
	// authLength is the least length of a packet with authentication.
	authLength = 26

	bitPoll          = 1 << 5
	bitFinal         = 1 << 4
	bitIndependent   = 1 << 3
	bitAuthenticated = 1 << 2
	bitDemand        = 1 << 1
	bitMultipoint    = 1 << 0
)

// Packet is a BFD Control packet without authentication. Intervals are whole
// microseconds, up to 2³²−1.
type Packet struct {
	State       State
	Diag        Diag
	Poll, Final bool
	// Independent is the C bit: the sender's BFD outlives its control plane.
	Independent bool
	Demand      bool
	Multiplier  uint8
	// My and Your are the discriminators of sender and receiver.
	My, Your uint32
	// DesiredMinTx, RequiredMinRx and RequiredMinEchoRx are the sender's.
	DesiredMinTx, RequiredMinRx, RequiredMinEchoRx time.Duration
}

// Discard is why a packet counts for nothing.
type Discard uint8

// The reasons, in the order of RFC 5880 section 6.8.6; the last ones are found by
// whoever received the packet.
const (
	DiscardVersion Discard = iota + 1
	DiscardLength
	DiscardMultiplier
	DiscardMultipoint
	DiscardMyDiscriminator
	DiscardYourDiscriminator
	DiscardAuthenticated
	DiscardPollAndFinal
	DiscardTTL
	DiscardNoSession
	DiscardLink
)

// Discards is the number of reasons, and one: all are below it.
const Discards = int(DiscardLink) + 1

func (d Discard) String() string {
	names := [Discards]string{
		DiscardVersion:           "version is not 1",
		DiscardLength:            "length is wrong",
		DiscardMultiplier:        "detect multiplier is 0",
		DiscardMultipoint:        "multipoint bit is set",
		DiscardMyDiscriminator:   "sender has no discriminator",
		DiscardYourDiscriminator: "sender knows no discriminator of ours in a state that needs one",
		DiscardAuthenticated:     "packet is authenticated, which is not supported",
		DiscardPollAndFinal:      "both a poll and an answer to one",
		DiscardTTL:               "TTL is not 255: it came over a router",
		DiscardNoSession:         "belongs to no session",
		DiscardLink:              "came over another link than its session's",
	}
	if int(d) < len(names) {
		return names[d]
	}
	return fmt.Sprintf("discard %d", uint8(d))
}

// Append adds the packet as it is on the wire.
func (p Packet) Append(b []byte) []byte {
	flags := byte(p.State) << 6
	for bit, set := range map[byte]bool{bitPoll: p.Poll, bitFinal: p.Final, bitIndependent: p.Independent, bitDemand: p.Demand} {
		if set {
			flags |= bit
		}
	}
	b = append(b, version<<5|byte(p.Diag)&0x1f, flags, p.Multiplier, PacketLength)
	b = binary.BigEndian.AppendUint32(b, p.My)
	b = binary.BigEndian.AppendUint32(b, p.Your)
	for _, d := range []time.Duration{p.DesiredMinTx, p.RequiredMinRx, p.RequiredMinEchoRx} {
		b = binary.BigEndian.AppendUint32(b, uint32(d/time.Microsecond))
	}
	return b
}

// Parse reads a packet and makes those checks of RFC 5880 section 6.8.6 that need
// no session. The Discard is 0 for a packet that passes them.
func Parse(b []byte) (Packet, Discard) {
	if len(b) < PacketLength {
		return Packet{}, DiscardLength
	}
	flags, length := b[1], int(b[3])
	p := Packet{
		State: State(flags >> 6), Diag: Diag(b[0] & 0x1f),
		Poll: flags&bitPoll != 0, Final: flags&bitFinal != 0, Independent: flags&bitIndependent != 0, Demand: flags&bitDemand != 0,
		Multiplier: b[2], My: binary.BigEndian.Uint32(b[4:]), Your: binary.BigEndian.Uint32(b[8:]),
		DesiredMinTx: micros(b[12:]), RequiredMinRx: micros(b[16:]), RequiredMinEchoRx: micros(b[20:]),
	}
	authenticated := flags&bitAuthenticated != 0
	switch {
	case b[0]>>5 != version:
		return Packet{}, DiscardVersion
	case length < PacketLength, length > len(b), authenticated && length < authLength:
		return Packet{}, DiscardLength
	case p.Multiplier == 0:
		return Packet{}, DiscardMultiplier
	case flags&bitMultipoint != 0:
		return Packet{}, DiscardMultipoint
	case p.My == 0:
		return Packet{}, DiscardMyDiscriminator
	case p.Your == 0 && p.State != Down && p.State != AdminDown:
		return Packet{}, DiscardYourDiscriminator
	case authenticated:
		return Packet{}, DiscardAuthenticated
	case p.Poll && p.Final:
		return Packet{}, DiscardPollAndFinal
	}
	return p, 0
}

func micros(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Microsecond
}
