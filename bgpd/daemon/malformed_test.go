package daemon_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"tortie/bgpd/bgptest"
	"tortie/bgpd/daemon"
	"tortie/bgpd/speaker"
	"tortie/internal/kernel/kerneltest"
)

// wrong is an UPDATE, or worse, that a peer sends.
type wrong struct {
	name string
	send func(s *sender) []byte
	want outcome
	// says are words of the status.
	says string
}

// outcome is what becomes of it, in the words of RFC 7606.
type outcome int

const (
	withdrawn outcome = iota // treat-as-withdraw: the prefix is gone, the session stays
	taken                    // attribute discard, or nothing wrong: the prefix stays, and the session
	reset                    // session reset, with a NOTIFICATION
)

// sender is a peer that sends one.
type sender struct {
	*bgptest.Peer
	address              netip.Addr
	early, subject, late netip.Prefix
	wrong                wrong
}

const senderASN = 65001

// update announces the subject with right attributes, and others after or in place of them.
func (s *sender) update(attributes ...[]byte) []byte {
	return bgptest.Message(bgptest.Update, bgptest.Body(nil, slices.Concat(attributes...), bgptest.Prefixes(s.subject)))
}

func (s *sender) with(more ...byte) []byte {
	return s.update(bgptest.Origin(), bgptest.ASPath(senderASN), bgptest.NextHop(s.address), more)
}

func (s *sender) announce(p netip.Prefix) error {
	return s.Send(bgptest.Update, bgptest.Announce(senderASN, s.address, []netip.Prefix{p}))
}

func wrongs() []wrong {
	const t, o = bgptest.Transitive, bgptest.Optional
	attr := bgptest.Attribute
	origin, path := bgptest.Origin(), bgptest.ASPath(senderASN)
	also := func(flags, kind byte, value ...byte) func(*sender) []byte {
		return func(s *sender) []byte { return s.with(attr(flags, kind, value...)...) }
	}
	body := func(b ...byte) func(*sender) []byte {
		return func(*sender) []byte { return bgptest.Message(bgptest.Update, b) }
	}
	return []wrong{
		{"ORIGIN of value 7", func(s *sender) []byte {
			return s.update(attr(t, bgptest.TypeOrigin, 7), path, bgptest.NextHop(s.address))
		}, withdrawn, "invalid origin attribute. value : 7"},
		{"ORIGIN of two bytes", func(s *sender) []byte {
			return s.update(attr(t, bgptest.TypeOrigin, 0, 0), path, bgptest.NextHop(s.address))
		}, withdrawn, "Origin attribute length is incorrect"},
		{"ORIGIN with the flag optional", func(s *sender) []byte {
			return s.update(attr(o|t, bgptest.TypeOrigin, 0), path, bgptest.NextHop(s.address))
		}, withdrawn, "flags are invalid. attribute type: BGP_ATTR_TYPE_ORIGIN, expect: TRANSITIVE, actual: TRANSITIVE|OPTIONAL"},
		{"AS_PATH with an unknown segment", func(s *sender) []byte {
			return s.update(origin, attr(t, bgptest.TypeASPath, 9, 1, 0, 0, 0xfd, 0xe9), bgptest.NextHop(s.address))
		}, withdrawn, "can't parse AS_PATH"},
		{"AS_PATH longer than its attribute", func(s *sender) []byte {
			return s.update(origin, attr(t, bgptest.TypeASPath, 2, 9, 0, 0, 0xfd, 0xe9), bgptest.NextHop(s.address))
		}, withdrawn, "can't parse AS_PATH"},
		{"AS_PATH with an empty segment", func(s *sender) []byte {
			return s.update(origin, attr(t, bgptest.TypeASPath, 2, 0), bgptest.NextHop(s.address))
		}, withdrawn, "can't parse AS_PATH"},
		{"AS_PATH with a confederation's segment", func(s *sender) []byte {
			return s.update(origin, attr(t, bgptest.TypeASPath, 3, 1, 0, 0, 0xfd, 0xe9), bgptest.NextHop(s.address))
		}, withdrawn, "segment type confederation(3) found"},
		{"NEXT_HOP of three bytes", func(s *sender) []byte { return s.update(origin, path, attr(t, bgptest.TypeNextHop, 10, 1, 1)) }, withdrawn, "nexthop length isn't correct"},
		{"NEXT_HOP of no bytes", func(s *sender) []byte { return s.update(origin, path, attr(t, bgptest.TypeNextHop)) }, withdrawn, "nexthop length isn't correct"},
		{"NEXT_HOP that is a group's", func(s *sender) []byte { return s.update(origin, path, attr(t, bgptest.TypeNextHop, 224, 0, 0, 1)) }, withdrawn, "invalid nexthop address"},
		{"no ORIGIN", func(s *sender) []byte { return s.update(path, bgptest.NextHop(s.address)) }, withdrawn, "well-known mandatory attributes are not present. type : 1"},
		{"no AS_PATH", func(s *sender) []byte { return s.update(origin, bgptest.NextHop(s.address)) }, withdrawn, "well-known mandatory attributes are not present. type : 2"},
		{"no NEXT_HOP", func(s *sender) []byte { return s.update(origin, path) }, withdrawn, "well-known mandatory attributes are not present. type : 3"},
		{"no attributes", func(s *sender) []byte { return s.update() }, withdrawn, "well-known mandatory attributes are not present. type : 1"},
		{"MULTI_EXIT_DISC of three bytes", also(o, bgptest.TypeMED, 1, 2, 3), withdrawn, "med length isn't correct"},
		{"LOCAL_PREF of three bytes from another AS", also(t, bgptest.TypeLocalPref, 1, 2, 3), withdrawn, "local pref length isn't correct"},
		{"COMMUNITIES of five bytes", also(o|t, bgptest.TypeCommunities, 1, 2, 3, 4, 5), withdrawn, "communities length isn't correct"},
		{"ORIGINATOR_ID of three bytes", also(o, bgptest.TypeOriginatorID, 1, 2, 3), withdrawn, "originator id length isn't correct"},
		{"CLUSTER_LIST of five bytes", also(o, bgptest.TypeClusterList, 1, 2, 3, 4, 5), withdrawn, "clusterlist length isn't correct"},
		{"extended communities of seven bytes", also(o|t, bgptest.TypeExtCommunities, 1, 2, 3, 4, 5, 6, 7), withdrawn, "extendedcommunities length isn't correct"},
		{"large communities of thirteen bytes", also(o|t, bgptest.TypeLargeCommunity, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13), withdrawn, "large communities length isn't correct"},
		{"attributes that end within one", func(s *sender) []byte { return s.with(o, bgptest.TypeMED) }, withdrawn, "insufficient data to decode"},
		{"attribute longer than the message", func(s *sender) []byte { return s.with(o, bgptest.TypeMED, 200, 1) }, reset, "begun anew, as its routes can't be told: attribute value length is short"},
		{"attribute that reaches into the prefixes", func(s *sender) []byte { return s.with(o|t, bgptest.TypeCommunities, 4) }, reset, "attribute type length is short"},
		{"ATOMIC_AGGREGATE of one byte", also(t, bgptest.TypeAtomicAggregate, 1), taken, "atomic aggregate should have no value"},
		{"AGGREGATOR of three bytes", also(o|t, bgptest.TypeAggregator, 1, 2, 3), taken, "aggregator length isn't correct"},
		{"ORIGIN twice", also(t, bgptest.TypeOrigin, 2), taken, "the path attribute appears twice. Type : 1"},
		{"unknown optional attribute", also(o, 211, 1, 2, 3), taken, ""},
		{"unknown attribute that all must know", also(t, 212, 1), reset, "unrecognized well-known attribute BGPAttrType(212)"},
		{"withdrawn routes longer than the message", body(0, 9, 24, 10), reset, "withdrawn route length exceeds message length"},
		{"attributes longer than the message", body(0, 0, 0, 9, 1), reset, "path total attribute length exceeds message length"},
		{"message without attributes' length", body(0, 0), reset, "message length isn't enough for path total attribute length"},
		{"prefix of 33 bits", body(slices.Concat([]byte{0, 0, 0, byte(len(origin) + len(path))}, origin, path, []byte{33, 10, 1, 1, 1, 1})...), reset, "network bit length is too long"},
		{"prefix that ends early", body(slices.Concat([]byte{0, 0, 0, byte(len(origin) + len(path))}, origin, path, []byte{24, 10})...), reset, "network bytes is short"},
		{"MP_REACH_NLRI that ends early", also(o, bgptest.TypeMPReach, 0, 1, 1, 4, 10), reset, "begun anew, as its routes can't be told: mpreach nexthop length is short"},
		{"MP_REACH_NLRI twice", func(s *sender) []byte {
			one := bgptest.Attribute(o, bgptest.TypeMPReach, 0, 1, 1, 4, 10, 1, 1, 9, 0, 24, 10, 70, 99)
			return s.with(slices.Concat(one, one)...)
		}, reset, "the path attribute appears twice. Type : 14"},
		{"MP_REACH_NLRI of a family that the session hasn't", func(s *sender) []byte {
			return s.with(bgptest.MPReach(netip.MustParseAddr("fd01::1"), netip.MustParsePrefix("fd70::/64"))...)
		}, reset, "Address-family rf 131073 not available for session"},
		{"MP_UNREACH_NLRI that ends early", also(o, bgptest.TypeMPUnreach, 0, 1), reset, "unreach header length is incorrect"},
		{"message shorter than its header", func(*sender) []byte { m := bgptest.Message(bgptest.Keepalive, nil); m[17] = 18; return m }, reset, "unknown message type"},
		{"message longer than any", func(*sender) []byte { return bgptest.Message(bgptest.Update, make([]byte, 5000)) }, taken, "well-known mandatory attributes are not present. type : 1"},
		{"keepalive with a body", func(*sender) []byte { return bgptest.Message(bgptest.Keepalive, []byte{1}) }, taken, ""},
		{"second OPEN", func(*sender) []byte { return bgptest.Message(bgptest.Open, []byte{4}) }, reset, "Not all BGP Open message bytes available"},
		{"route refresh of one byte", func(*sender) []byte { return bgptest.Message(bgptest.RouteRefresh, []byte{1}) }, reset, "Not all RouteRefresh bytes available"},
		{"NOTIFICATION of one byte", func(*sender) []byte { return bgptest.Message(bgptest.Notification, []byte{1}) }, reset, "Not all Notification bytes available"},
	}
}

// TestMalformedUpdatesAreTreatedAsRFC7606Says: each of many peers sends something else
// that is wrong. bgpd stays, keeps what the others said, and says of each what it sent.
func TestMalformedUpdatesAreTreatedAsRFC7606Says(t *testing.T) {
	if _, err := exec.LookPath("bird"); err != nil {
		kerneltest.Require(t, "the BIRD routing daemon (Debian package bird2)")
	}
	l := newLab(t)
	good := netip.MustParseAddr("10.1.1.254")
	st := daemon.Static{Name: "node1", Socket: l.socket("node1"), Global: speaker.Global{
		ASN: 64512, RouterID: netip.MustParseAddr("10.1.1.11"), Port: 179, Listen: []netip.Addr{netip.IPv4Unspecified()},
	}}
	st.Peers = append(st.Peers, speaker.Peer{Address: good, ASN: routerASN, RestartTime: time.Minute})
	var senders []*sender
	for i, w := range wrongs() {
		s := &sender{wrong: w, address: netip.AddrFrom4([4]byte{10, 1, 1, byte(100 + i)})}
		for third, p := range map[byte]*netip.Prefix{70: &s.early, 71: &s.subject, 72: &s.late} {
			*p = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, third, byte(i), 0}), 24)
		}
		l.run("node2", "ip", "addr", "add", s.address.String()+"/24", "dev", "eth0")
		st.Peers = append(st.Peers, speaker.Peer{Address: s.address, ASN: senderASN, Passive: true})
		senders = append(senders, s)
	}
	l.startBIRDIn("router", tor+fmt.Sprintf(tor4, ""))
	l.start(child{Name: "node1", Static: &st})
	l.learned("node1", "10.200.0.0/24")
	before, _ := l.peer("node1", good.String())
	for _, s := range senders {
		s.Peer = l.dial("node2", s.address, netip.MustParseAddr("10.1.1.11"), bgptest.Config{ASN: senderASN, ID: s.address})
		for _, p := range []netip.Prefix{s.early, s.subject} {
			if err := s.announce(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, s := range senders {
		l.learned("node1", s.early.String(), s.subject.String())
	}
	for _, s := range senders {
		t.Run(s.wrong.name, func(t *testing.T) {
			within := *l
			within.t = t
			within.sends(s)
		})
	}
	now, says := l.peer("node1", good.String())
	if now == nil || now.State != string(speaker.Established) || now.Since != before.Since {
		t.Errorf("the session of a good peer: %s, was %v", says, before)
	}
	l.learned("node1", "10.200.0.0/24")
}

// dial opens a session from a namespace with a bgpd in another.
func (l *lab) dial(ns string, from, to netip.Addr, cfg bgptest.Config) *bgptest.Peer {
	l.t.Helper()
	var out *bgptest.Peer
	l.until("a session of "+from.String(), func() (bool, string) {
		var conn net.Conn
		err := l.ns[ns].Do(func() (err error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: time.Second}
			conn, err = d.Dial("tcp", netip.AddrPortFrom(to, 179).String())
			return err
		})
		if err == nil {
			out, err = bgptest.Establish(conn, cfg)
		}
		return err == nil, fmt.Sprint(err)
	})
	l.t.Cleanup(out.Close)
	return out
}

// sends has a peer send what is wrong, and looks at what becomes of it.
func (l *lab) sends(s *sender) {
	t := l.t
	if err := s.SendRaw(s.wrong.send(s)); err != nil {
		t.Fatal(err)
	}
	_ = s.announce(s.late) // fails when the session has ended
	kernel := func() string { return l.run("node1", "ip", "route", "show", "proto", "81") }
	if s.wrong.want == reset {
		select {
		case <-s.Done():
		case <-time.After(patience):
			t.Fatal("the session goes on")
		}
		if _, ok := errors.AsType[bgptest.NotificationError](s.End()); !ok {
			t.Errorf("the session ended without a NOTIFICATION: %v", s.End())
		}
		l.until("the peer's routes to go", func() (bool, string) {
			out := kernel()
			return !strings.Contains(out, s.early.String()) && !strings.Contains(out, s.subject.String()) && !strings.Contains(out, s.late.String()), out
		})
	} else {
		l.until("what was sent afterwards", func() (bool, string) {
			select {
			case <-s.Done():
				t.Fatalf("the session ended: %v", s.End())
			default:
			}
			out := kernel()
			return strings.Contains(out, s.late.String()), out
		})
		out := kernel()
		if !strings.Contains(out, s.early.String()) || strings.Contains(out, s.subject.String()) != (s.wrong.want == taken) {
			t.Errorf("%s is to stay, %s is to stay: %t; the kernel has\n%s", s.early, s.subject, s.wrong.want == taken, out)
		}
	}
	l.until("the cause in the status: "+s.wrong.says, func() (bool, string) {
		p, says := l.peer("node1", s.address.String())
		if p == nil || s.wrong.says == "" {
			return p != nil && p.Info == "", says
		}
		return strings.Contains(p.Info, "the peer sends what BGP forbids: ") && strings.Contains(p.Info, s.wrong.says), says
	})
}
