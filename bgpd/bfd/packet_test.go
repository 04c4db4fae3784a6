package bfd_test

import (
	"bytes"
	"testing"
	"time"

	"tortie/bgpd/bfd"
)

// wire is a packet as in RFC 5880 section 4.1: Up, diagnostic 3, P and C bits,
// multiplier 3, 300 ms and 200 ms.
func wire() []byte {
	return []byte{
		0x23, 0xe8, 3, 24, 0, 0, 0, 7, 0, 0, 1, 9,
		0, 0x04, 0x93, 0xe0, 0, 0x03, 0x0d, 0x40, 0, 0, 0, 0,
	}
}

func packet() bfd.Packet {
	return bfd.Packet{
		State: bfd.Up, Diag: bfd.DiagNeighborDown, Poll: true, Independent: true, Multiplier: 3, My: 7, Your: 265,
		DesiredMinTx: 300 * time.Millisecond, RequiredMinRx: 200 * time.Millisecond,
	}
}

func TestPacketIsThatOfTheRFC(t *testing.T) {
	if got := packet().Append(nil); !bytes.Equal(got, wire()) {
		t.Errorf("written\n% x, want\n% x", got, wire())
	}
	if got, why := bfd.Parse(wire()); why != 0 || got != packet() {
		t.Errorf("read %+v, %v; want %+v", got, why, packet())
	}
}

func TestPacketThatTheRFCForbidsIsDiscarded(t *testing.T) {
	set := func(at int, b ...byte) func([]byte) []byte {
		return func(p []byte) []byte { copy(p[at:], b); return p }
	}
	for name, tt := range map[string]struct {
		change func([]byte) []byte
		want   bfd.Discard
	}{
		"empty":                                 {func([]byte) []byte { return nil }, bfd.DiscardLength},
		"shorter than a packet":                 {func(p []byte) []byte { return p[:23] }, bfd.DiscardLength},
		"version 0":                             {set(0, 0x03), bfd.DiscardVersion},
		"version 2":                             {set(0, 0x43), bfd.DiscardVersion},
		"length below the least":                {set(3, 23), bfd.DiscardLength},
		"length beyond the datagram":            {set(3, 25), bfd.DiscardLength},
		"authenticated, without room for it":    {set(1, 0xc4), bfd.DiscardLength},
		"multiplier 0":                          {set(2, 0), bfd.DiscardMultiplier},
		"multipoint":                            {set(1, 0xc1), bfd.DiscardMultipoint},
		"no discriminator":                      {set(4, 0, 0, 0, 0), bfd.DiscardMyDiscriminator},
		"Up without our discriminator":          {set(8, 0, 0, 0, 0), bfd.DiscardYourDiscriminator},
		"poll and final":                        {set(1, 0xf0), bfd.DiscardPollAndFinal},
		"authenticated, with a simple password": {func(p []byte) []byte { return append(set(1, 0xc4, 3, 28)(p), 1, 4, 1, 'x') }, bfd.DiscardAuthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			p, why := bfd.Parse(tt.change(wire()))
			if why != tt.want {
				t.Errorf("%+v, %v; want %v", p, why, tt.want)
			}
		})
	}
}

func TestPacketOfADownPeerNeedsNoDiscriminatorOfOurs(t *testing.T) {
	for _, state := range []bfd.State{bfd.Down, bfd.AdminDown} {
		p := bfd.Packet{State: state, Multiplier: 3, My: 1}
		if got, why := bfd.Parse(p.Append(nil)); why != 0 || got != p {
			t.Errorf("%s: %+v, %v", state, got, why)
		}
	}
}

func TestWhatFollowsAPacketIsIgnored(t *testing.T) {
	if p, why := bfd.Parse(append(wire(), 1, 2, 3)); why != 0 || p != packet() {
		t.Errorf("%+v, %v", p, why)
	}
}

// FuzzParse: no input panics, and what is accepted is written as it was read.
func FuzzParse(f *testing.F) {
	f.Add(wire())
	f.Add(bfd.Packet{State: bfd.Down, Multiplier: 1, My: 1}.Append(nil))
	f.Add(append(bfd.Packet{State: bfd.Init, Multiplier: 255, My: 1, Your: 2, Final: true, Demand: true}.Append(nil), 0))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, why := bfd.Parse(in)
		if why != 0 {
			if why.String() == "" || int(why) >= bfd.Discards {
				t.Fatalf("%d is no reason to discard", why)
			}
			return
		}
		out := p.Append(nil)
		again, why := bfd.Parse(out)
		if why != 0 || again != p {
			t.Fatalf("read %+v, wrote % x, read %+v, %v", p, out, again, why)
		}
		in = bytes.Clone(in[:bfd.PacketLength])
		in[3] = bfd.PacketLength
		if !bytes.Equal(in, out) {
			t.Fatalf("read\n% x, wrote\n% x", in, out)
		}
	})
}
