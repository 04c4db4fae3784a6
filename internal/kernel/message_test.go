package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestInterruptedDumpIsBegunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			interruptions int
			wantErr       error
		}{
			{0, nil},
			{1, nil},
			{dumpTries - 1, nil},
			{dumpTries, ErrDumpInterrupted},
		} {
			calls, start := 0, time.Now()
			got, err := retryDump(t.Context(), func() ([]int, error) {
				calls++
				if calls <= c.interruptions {
					return []int{99}, ErrDumpInterrupted // partial
				}
				return []int{1, 2}, nil
			})
			if !errors.Is(err, c.wantErr) {
				t.Errorf("%d interruptions: error is %v, want %v", c.interruptions, err, c.wantErr)
			}
			if err == nil && !slices.Equal(got, []int{1, 2}) {
				t.Errorf("%d interruptions: got %v", c.interruptions, got)
			}
			if err != nil && got != nil {
				t.Errorf("%d interruptions: partial result %v", c.interruptions, got)
			}
			if took := time.Since(start); took > 2*time.Second || (c.interruptions > 0) != (took > 0) {
				t.Errorf("%d interruptions: took %s", c.interruptions, took)
			}
		}
	})
}

func TestDumpEndsWithItsContextAndOnOtherErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		_, err := retryDump(ctx, func() ([]int, error) {
			cancel()
			return nil, ErrDumpInterrupted
		})
		if !errors.Is(err, context.Canceled) || time.Since(start) > 0 {
			t.Errorf("error is %v after %s, want Canceled at once", err, time.Since(start))
		}
		calls := 0
		_, err = retryDump(t.Context(), func() ([]int, error) {
			calls++
			return nil, unix.EPERM
		})
		if !errors.Is(err, unix.EPERM) || calls != 1 {
			t.Errorf("error is %v after %d calls, want EPERM after one", err, calls)
		}
	})
}

// lastMessage builds the last message of an answer.
func lastMessage(kind, flags uint16, errno syscall.Errno, echoed []byte, text string) syscall.NetlinkMessage {
	data := binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno)))
	data = append(data, echoed...)
	var a attributes
	if text != "" {
		a.text(unix.NLMSGERR_ATTR_MSG, text)
	}
	return syscall.NetlinkMessage{
		Header: syscall.NlMsghdr{Type: kind, Flags: flags},
		Data:   append(data, a...),
	}
}

func TestVerdictCarriesTheKernelsWords(t *testing.T) {
	header := func(length int) []byte {
		b := make([]byte, max(length, unix.SizeofNlMsghdr))
		binary.NativeEndian.PutUint32(b, uint32(length))
		return b
	}
	for name, c := range map[string]struct {
		msg   syscall.NetlinkMessage
		text  string
		errno syscall.Errno
	}{
		"echoed whole":     {lastMessage(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, unix.EINVAL, header(40), "no way"), "no way", unix.EINVAL},
		"echoed, capped":   {lastMessage(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, unix.EINVAL, header(40)[:16], "no way"), "no way", unix.EINVAL},
		"end of a dump":    {lastMessage(unix.NLMSG_DONE, unix.NLM_F_ACK_TLVS, unix.ENOENT, nil, "no table"), "no table", unix.ENOENT},
		"no words":         {lastMessage(unix.NLMSG_ERROR, 0, unix.EPERM, header(40), ""), "", unix.EPERM},
		"echo is cut off":  {lastMessage(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, unix.EPERM, header(9999)[:16], ""), "", unix.EPERM},
		"success":          {lastMessage(unix.NLMSG_ERROR, 0, 0, header(40), ""), "", 0},
		"success, no data": {syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.NLMSG_DONE}}, "", 0},
	} {
		done, err := verdict(c.msg)
		if !done {
			t.Errorf("%s: not done", name)
		}
		if c.errno == 0 && err != nil || c.errno != 0 && !errors.Is(err, c.errno) {
			t.Errorf("%s: error is %v, want %v", name, err, c.errno)
		}
		if c.text != "" && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: error %v does not say %q", name, err, c.text)
		}
	}
	if done, _ := verdict(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWROUTE}}); done {
		t.Error("a route ends the answer")
	}
	if _, err := verdict(lastMessage(unix.NLMSG_DONE, 0, unix.EINTR, nil, "")); !errors.Is(err, ErrDumpInterrupted) {
		t.Errorf("a dump that ends with EINTR is %v, want ErrDumpInterrupted", err)
	}
}

func TestErrorNamesOperationObjectAndClass(t *testing.T) {
	err := NewError("replace route", "10.65.0.0/26 dev 3", unix.ENETUNREACH)
	if want := "replace route 10.65.0.0/26 dev 3: network is unreachable"; err.Error() != want {
		t.Errorf("error reads %q, want %q", err, want)
	}
	if !errors.Is(err, ErrUnreachable) || !errors.Is(err, unix.ENETUNREACH) {
		t.Error("neither class nor errno may be lost")
	}
	if errors.Is(err, ErrNotFound) {
		t.Error("an error has one class")
	}
	if NewError("op", "object", nil) != nil {
		t.Error("no cause, no error")
	}
}

func anyRoute(t *rapid.T) Route {
	addr := func(name string, v4 bool) netip.Addr {
		if v4 {
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, name)))
		}
		return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, name)))
	}
	v4 := rapid.Bool().Draw(t, "v4")
	dst := addr("dst", v4)
	r := Route{
		Dst:      netip.PrefixFrom(dst, rapid.IntRange(0, dst.BitLen()).Draw(t, "bits")),
		Table:    rapid.SampledFrom([]int{0, 254, 255, 256, 100000}).Draw(t, "table"),
		Protocol: Protocol(rapid.IntRange(1, 255).Draw(t, "protocol")),
		Type:     rapid.SampledFrom([]RouteType{0, RouteUnicast, RouteBlackhole, RouteProhibit}).Draw(t, "type"),
		Scope:    rapid.SampledFrom([]Scope{ScopeUniverse, ScopeLink}).Draw(t, "scope"),
		Link:     rapid.IntRange(1, 1<<30).Draw(t, "link"),
		OnLink:   rapid.Bool().Draw(t, "onlink"),
		Priority: rapid.SampledFrom([]int{0, 1, 1024, 1 << 31}).Draw(t, "metric"),
	}
	if rapid.Bool().Draw(t, "has gateway") {
		r.Gateway = addr("gateway", v4)
	}
	if rapid.Bool().Draw(t, "has source") {
		r.Src = addr("source", v4)
	}
	if rapid.Bool().Draw(t, "has several next hops") {
		r.NextHops = NewNextHops(anyNextHops(t, func() netip.Addr { return addr("gateway", v4) })...)
	}
	return r
}

func anyNextHops(t *rapid.T, gateway func() netip.Addr) (hops []NextHop) {
	for range rapid.IntRange(1, 4).Draw(t, "next hops") {
		h := NextHop{
			Link: rapid.IntRange(1, 1<<30).Draw(t, "link"), OnLink: rapid.Bool().Draw(t, "onlink"),
			Weight: rapid.SampledFrom([]int{0, 1, 2, 256}).Draw(t, "weight"),
		}
		if rapid.Bool().Draw(t, "has gateway") {
			h.Gateway = gateway()
		}
		hops = append(hops, h)
	}
	return hops
}

// TestNextHopsAreTheSameInWhateverOrder, however often each is named.
func TestNextHopsAreTheSameInWhateverOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hops := anyNextHops(t, func() netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, rapid.Byte().Draw(t, "gateway")}) })
		n := NewNextHops(hops...)
		if other := NewNextHops(slices.Concat(rapid.Permutation(hops).Draw(t, "order"), hops[:1])...); other != n {
			t.Errorf("%v differs from %v", other.All(), n.All())
		}
		if again := NewNextHops(n.All()...); again != n || n.Len() > len(hops) || !n.Over(hops[0].Link) {
			t.Errorf("%v of %v", n.All(), hops)
		}
	})
}

func TestNextHopMessageDecodesToTheNormalForm(t *testing.T) {
	hop := NextHop{Link: 3, Gateway: netip.MustParseAddr("192.0.2.1"), OnLink: true}
	for name, o := range map[string]NextHopObject{
		"one":   {ID: 7, Protocol: ProtocolBGP, NextHop: hop},
		"IPv6":  {ID: 7, Protocol: ProtocolBGP, NextHop: NextHop{Link: 3, Gateway: netip.MustParseAddr("2001:db8::1")}},
		"group": {ID: 9, Protocol: ProtocolBGP, Group: []GroupMember{{ID: 8, Weight: 256}, {ID: 7, Weight: 1}}},
	} {
		req, err := NextHopChange{Op: Add, Object: o}.encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeNextHop(slices.Concat(req.header, req.attrs)); err != nil || !got.Equal(o.Normal()) {
			t.Errorf("%s: %v became %v, %v", name, o, got, err)
		}
	}
	for name, c := range map[string]NextHopChange{
		"no number":   {Op: Add, Object: NextHopObject{Protocol: ProtocolBGP, NextHop: hop}},
		"no protocol": {Op: Add, Object: NextHopObject{ID: 7, NextHop: hop}},
		"no gateway":  {Op: Replace, Object: NextHopObject{ID: 7, Protocol: ProtocolBGP, NextHop: NextHop{Link: 3}}},
		"no op":       {Object: NextHopObject{ID: 7, Protocol: ProtocolBGP, NextHop: hop}},
	} {
		if _, err := c.encode(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", name, err)
		}
	}
}

func TestRouteMessageDecodesToTheNormalForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRoute(t)
		header, attrs := encodeRoute(r.Normal())
		got, ok, err := decodeRoute(slices.Concat(header, attrs))
		if err != nil || !ok || got != r.Normal() {
			t.Errorf("%+v\nbecame %+v, %v, %v\nwant %+v", r, got, ok, err, r.Normal())
		}
		if n := r.Normal(); n != n.Normal() {
			t.Errorf("the normal form of %+v has another: %+v", n, n.Normal())
		}
	})
}

func TestCachedAndForeignRoutesAreNoEntries(t *testing.T) {
	r := Route{Dst: netip.MustParsePrefix("10.0.0.0/8"), Protocol: 80, Link: 3}.Normal()
	header, attrs := encodeRoute(r)
	cloned := slices.Clone(header)
	binary.NativeEndian.PutUint32(cloned[8:], unix.RTM_F_CLONED)
	mpls := slices.Clone(header)
	mpls[0] = unix.AF_MPLS
	for _, h := range [][]byte{cloned, mpls} {
		if _, ok, err := decodeRoute(slices.Concat(h, attrs)); ok || err != nil {
			t.Errorf("header %x: ok %v, error %v; want neither", h, ok, err)
		}
	}
}

func TestMalformedMessagesAreErrorsNotPanics(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "message")
		if len(b) > 0 {
			b[0] = rapid.SampledFrom([]byte{0, 2, 10}).Draw(t, "family")
		}
		_, _, _ = decodeRoute(b)
		_, _ = decodeLink(b)
		_, _ = decodeNextHop(b)
		_, _ = decodeMultipath(b)
		_, _, _ = decodeAddress(b)
		_, _, _ = decodeNeighbour(b)
		_, _ = decodeEvent(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWLINK}, Data: b})
		_ = peeking{}.values(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWLINK}, Data: b})
		_ = peeking{}.values(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWNETCONF}, Data: b})
		_, _ = verdict(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.NLMSG_ERROR, Flags: unix.NLM_F_ACK_TLVS}, Data: b})
	})
}

func TestInterfaceNamesAreCheckedBeforeTheKernelSeesThem(t *testing.T) {
	for name, valid := range map[string]bool{
		"eth0": true, "cali0123456789a": true, "eth0.100": true,
		"": false, ".": false, "..": false, "a/b": false, "a b": false, "veth%d": false, "sixteen-bytes-it": false, "a:1": false,
	} {
		if err := validName(name); (err == nil) != valid {
			t.Errorf("%q: error is %v", name, err)
		}
	}
}

func TestAnswerIsCompleteInterruptedOrLate(t *testing.T) {
	msg := func(kind, flags uint16, seq uint32) syscall.NetlinkMessage {
		return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind, Flags: flags, Seq: seq}}
	}
	bad := errors.New("cannot decode")
	for name, c := range map[string]struct {
		each error
		msgs []syscall.NetlinkMessage
		seen int
		want error
	}{
		"whole": {nil, []syscall.NetlinkMessage{msg(unix.RTM_NEWROUTE, 0, 7), msg(unix.RTM_NEWROUTE, 0, 7), msg(unix.NLMSG_DONE, 0, 7)}, 2, nil},
		"late": {nil, []syscall.NetlinkMessage{
			msg(unix.RTM_NEWROUTE, 0, 6), msg(unix.NLMSG_DONE, 0, 6), msg(unix.RTM_NEWROUTE, 0, 7), msg(unix.NLMSG_DONE, 0, 7),
		}, 1, nil},
		"interrupted": {nil, []syscall.NetlinkMessage{
			msg(unix.RTM_NEWROUTE, unix.NLM_F_DUMP_INTR, 7), msg(unix.NLMSG_DONE, 0, 7),
		}, 1, ErrDumpInterrupted},
		"interrupted at the end": {nil, []syscall.NetlinkMessage{msg(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, 7)}, 0, ErrDumpInterrupted},
		"undecodable":            {bad, []syscall.NetlinkMessage{msg(unix.RTM_NEWROUTE, 0, 7), msg(unix.RTM_NEWROUTE, 0, 7), msg(unix.NLMSG_DONE, 0, 7)}, 1, bad},
	} {
		seen := 0
		a := answer{seq: 7, each: func(uint16, []byte) error { seen++; return c.each }}
		for i, m := range c.msgs {
			if a.complete {
				t.Errorf("%s: complete before message %d", name, i)
			}
			a.take(m)
		}
		if !a.complete || seen != c.seen || !errors.Is(a.err, c.want) {
			t.Errorf("%s: complete %v, %d messages, error %v; want true, %d and %v", name, a.complete, seen, a.err, c.seen, c.want)
		}
	}
}

func TestMessagesAreCutApartAndACutOffOneIsNoticed(t *testing.T) {
	var sent []byte
	for seq := range uint32(3) {
		sent = request{kind: unix.RTM_NEWLINK, header: make([]byte, 4*(seq+1))}.append(sent, seq)
	}
	rest := sent
	for seq := range uint32(3) {
		var m syscall.NetlinkMessage
		var err error
		if m, rest, err = cutMessage(rest); err != nil || m.Header.Seq != seq || len(m.Data) != int(4*(seq+1)) {
			t.Errorf("message %d is %+v, %v", seq, m, err)
		}
	}
	if len(rest) != 0 {
		t.Errorf("%d bytes are left", len(rest))
	}
	for n := 1; n < 16+4; n++ {
		if _, _, err := cutMessage(sent[:n]); !errors.Is(err, errTruncated) {
			t.Errorf("%d bytes of a message: %v", n, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 1, 64).Draw(t, "bytes")
		if _, rest, err := cutMessage(b); err == nil && len(rest) >= len(b) {
			t.Error("no progress")
		}
	})
}
