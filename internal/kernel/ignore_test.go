package kernel

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// TestProgramAgreesWithCovers runs the program in the kernel on messages of every
// form, on a pair of sockets instead of netlink: what it drops is what Covers says
// of the event that the message is.
func TestProgramAgreesWithCovers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.SampledFrom([]string{"cali", "calx", "c", "cal", "fifteen-letters"})
		ignore := Ignore{
			Protocol:     Protocol(rapid.SampledFrom([]int{0, 4, 80, 81, 255}).Draw(t, "protocol")),
			LinkPrefixes: rapid.SliceOfN(prefix, 0, 8).Draw(t, "prefixes"),
			LinkLocal:    rapid.Bool().Draw(t, "link-local"),
		}
		messages := rapid.SliceOfN(rapid.Custom(anyEventMessage), 1, 10).Draw(t, "messages")
		var want []int
		for i, m := range messages {
			ev, err := decodeEvent(m)
			if err != nil {
				t.Fatal(err)
			}
			if ev == nil || !ignore.Covers(ev) {
				want = append(want, i)
			}
		}
		got := passed(t, ignore, messages)
		if len(got) != len(want) {
			t.Fatalf("messages %v pass, want %v", got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("messages %v pass, want %v", got, want)
			}
		}
	})
}

// anyEventMessage is a message about a link, an address or a route.
func anyEventMessage(t *rapid.T) syscall.NetlinkMessage {
	kind := rapid.SampledFrom([]uint16{
		unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_NEWROUTE, unix.RTM_DELROUTE,
	}).Draw(t, "type")
	var attrs attributes
	var header []byte
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		header = make([]byte, unix.SizeofIfInfomsg)
		if rapid.Bool().Draw(t, "MTU first") {
			attrs.uint32(unix.IFLA_MTU, 1500)
		}
		if rapid.IntRange(0, 9).Draw(t, "has name") > 0 {
			names := []string{"a", "c", "ca", "cal", "cali", "cali0", "calx9", "xcali", "eth0", "fifteen-letters", "fourteen-lette"}
			attrs.text(unix.IFLA_IFNAME, rapid.SampledFrom(names).Draw(t, "name"))
		}
		if rapid.Bool().Draw(t, "alias last") {
			attrs.text(unix.IFLA_IFALIAS, "cali")
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		scope := byte(rapid.SampledFrom([]Scope{ScopeUniverse, ScopeLink, 254}).Draw(t, "scope"))
		if rapid.Bool().Draw(t, "IPv6 address") {
			header = []byte{unix.AF_INET6, 64, 0, scope, 80, 80, 80, 80}
			attrs.bytes(unix.IFA_ADDRESS, netip.MustParseAddr("fe80::1").AsSlice())
		} else {
			header = []byte{unix.AF_INET, 24, 0, scope, 80, 80, 80, 80}
			attrs.bytes(unix.IFA_LOCAL, []byte{169, 254, 0, 1})
			attrs.text(unix.IFA_LABEL, "cali0")
		}
	default:
		header = make([]byte, unix.SizeofRtMsg)
		header[5] = byte(rapid.SampledFrom([]int{0, 2, 4, 80, 81, 255}).Draw(t, "protocol of route"))
		dst := netip.MustParseAddr(rapid.SampledFrom([]string{
			"::", "fe80::", "febf::1", "fec0::", "fe7f::", "fe00::", "ff00::", "ff02::1", "fd00::", "0.0.0.0", "254.128.0.0", "255.0.0.0", "10.0.0.0",
		}).Draw(t, "destination"))
		header[0] = byte(FamilyOf(dst))
		header[1] = byte(dst.BitLen())
		if rapid.Bool().Draw(t, "table first") {
			attrs.uint32(unix.RTA_TABLE, 254)
		}
		if dst.IsUnspecified() {
			header[1] = 0 // the kernel gives no destination of a default route
		} else {
			attrs.bytes(unix.RTA_DST, dst.AsSlice())
		}
		if rapid.Bool().Draw(t, "has gateway") {
			attrs.bytes(unix.RTA_GATEWAY, dst.Next().AsSlice())
		}
		if metric := rapid.SampledFrom([]uint32{0, 1024, MetricOverlay, 0x00080000}).Draw(t, "metric"); metric != 0 {
			attrs.uint32(unix.RTA_PRIORITY, metric)
		}
	}
	return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind}, Data: append(header, attrs...)}
}

// passed tells which messages the program keeps.
func passed(t *rapid.T, ignore Ignore, messages []syscall.NetlinkMessage) (kept []int) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	s := &eventSocket{file: os.NewFile(uintptr(fds[1]), "filtered")}
	defer s.close()
	if s.conn, err = s.file.SyscallConn(); err != nil {
		t.Fatal(err)
	}
	if err := s.filter(ignore.program()); err != nil {
		t.Fatal(err)
	}
	for i, m := range messages {
		b := request{kind: m.Header.Type, header: m.Data}.append(nil, 0)
		if _, err := unix.Write(fds[0], b); err != nil && !errors.Is(err, unix.EPERM) { // EPERM: dropped
			t.Fatal(err)
		}
		if _, err := unix.Read(fds[1], make([]byte, 4096)); err == nil {
			kept = append(kept, i)
		}
	}
	return kept
}

// TestEventSocketWaitsNoLongerThanAsked: what wait bounds is one receive, and 0
// takes the bound away.
func TestEventSocketWaitsNoLongerThanAsked(t *testing.T) {
	s, err := openEventSocket(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	s.wait(time.Millisecond)
	if _, _, err := s.receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error is %v, want ErrDeadlineExceeded", err)
	}
	s.wait(0)
	time.AfterFunc(20*time.Millisecond, s.close)
	if _, _, err := s.receive(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error is %v, want that of a closed socket", err)
	}
}

func TestProgramIsOfAnAcceptableLength(t *testing.T) {
	prefixes := strings.Split(strings.Repeat("fifteen-letters,", 100), ",")[:100]
	s, err := openEventSocket(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.filter(Ignore{Protocol: 80, LinkPrefixes: prefixes, LinkLocal: true}.program()); err != nil {
		t.Errorf("a hundred prefixes: %v", err)
	}
}
