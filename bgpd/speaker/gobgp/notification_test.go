package gobgp

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"golang.org/x/sys/unix"

	"tortie/bgpd/speaker"
)

func TestNotificationsAreInWords(t *testing.T) {
	for _, tt := range []struct {
		code, subcode uint8
		want          string
	}{
		{1, 2, "message header error/bad message length (1/2)"},
		{2, 2, "open message error/bad peer AS (2/2)"},
		{2, 0, "open message error (2/0)"},
		{3, 11, "update message error/malformed AS_PATH (3/11)"},
		{4, 0, "hold timer expired (4/0)"},
		{5, 3, "finite state machine error/unexpected message in Established (5/3)"},
		{6, 2, "cease/administrative shutdown (6/2)"},
		{6, 3, "cease/peer de-configured (6/3)"},
		{6, 9, "cease/hard reset (6/9)"},
		{6, 99, "cease/unknown subcode (6/99)"},
		{99, 1, "unknown error (99/1)"},
	} {
		if got := notificationWords(tt.code, tt.subcode); got != tt.want {
			t.Errorf("%d/%d: %q, want %q", tt.code, tt.subcode, got, tt.want)
		}
	}
}

func TestCausesReadOnAfterTheState(t *testing.T) {
	peer := speaker.Peer{Address: netip.MustParseAddr("10.1.1.12"), LocalAddress: netip.MustParseAddr("10.1.1.11")}
	key := peer.Address.String()
	for _, tt := range []struct {
		name   string
		msg    string
		fields gobgplog.Fields
		want   string
	}{
		{"nothing yet", "", nil, "connecting"},
		{
			"removed there", "received notification",
			gobgplog.Fields{"Code": uint8(6), "Subcode": uint8(3), "Data": []byte{}},
			"the peer sent NOTIFICATION cease/peer de-configured (6/3); it has no session with us any more: configure it there, or delete the peer here",
		},
		{
			"shut down there with a reason", "received notification",
			gobgplog.Fields{"Code": uint8(6), "Subcode": uint8(2), "Communicated-Reason": "maintenance until noon"},
			`the peer sent NOTIFICATION cease/administrative shutdown (6/2): "maintenance until noon"; somebody has shut the session down there`,
		},
		{
			"its hold timer", "received notification",
			gobgplog.Fields{"Code": uint8(4), "Subcode": uint8(0)},
			"the peer sent NOTIFICATION hold timer expired (4/0); it heard nothing from us for the hold time: packets are lost between the two, or this node is overloaded",
		},
		{
			"connection rejected", "received notification",
			gobgplog.Fields{"Code": uint8(6), "Subcode": uint8(5)},
			"the peer sent NOTIFICATION cease/connection rejected (6/5); check that it has a session for 10.1.1.11 with AS 64512",
		},
		{
			"wrong AS number, as the peer says", "received notification",
			gobgplog.Fields{"Code": uint8(2), "Subcode": uint8(2)},
			"the peer sent NOTIFICATION open message error/bad peer AS (2/2); check that it expects AS 64512 from us",
		},
		{
			"another AS number than configured", "sent notification",
			gobgplog.Fields{"Data": bgp.NewMessageError(2, 2, nil, "as number mismatch expected 64513, received 64512")},
			"we sent NOTIFICATION open message error/bad peer AS (2/2): its AS number is 64512, configured is 64513",
		},
		{
			"silent", "hold timer expired",
			gobgplog.Fields{},
			"we sent NOTIFICATION hold timer expired (4/0): nothing was heard from the peer for the hold time",
		},
		{
			"refused", "failed to connect",
			gobgplog.Fields{"Error": error(unix.ECONNREFUSED)},
			"connection refused: no BGP speaker listens on port 179 of 10.1.1.12",
		},
		{
			"another failure", "failed to connect",
			gobgplog.Fields{"Error": errors.New("no sockets left")},
			"connect to 10.1.1.12: no sockets left",
		},
		{
			"not configured there", "state changed",
			gobgplog.Fields{"new": "BGP_FSM_IDLE", "old": "BGP_FSM_OPENSENT", "reason": "read-failed"},
			"the peer closed the connection before the session was up: check that it has a session for 10.1.1.11 with AS 64512",
		},
		{
			"connection lost", "state changed",
			gobgplog.Fields{"new": "BGP_FSM_IDLE", "old": "BGP_FSM_ESTABLISHED", "reason": "read-failed"},
			"connection lost",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &bridge{log: slog.New(slog.DiscardHandler), causes: newCauses()}
			if tt.msg != "" {
				tt.fields["Key"] = key
				b.Warn(tt.msg, tt.fields)
			}
			if got := b.causes.explain(peer, 64512); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// TestNoCauseIsNamedBeforeItIsOne: for some seconds after a start or a loss the other side
// may refuse connections, which nobody has to mend. What ended a session stays its cause.
func TestNoCauseIsNamedBeforeItIsOne(t *testing.T) {
	peer := speaker.Peer{Address: netip.MustParseAddr("10.1.1.12"), LocalAddress: netip.MustParseAddr("10.1.1.11")}
	refused := gobgplog.Fields{"Error": error(unix.ECONNREFUSED)}
	closed := gobgplog.Fields{"new": "BGP_FSM_IDLE", "old": "BGP_FSM_OPENSENT", "reason": "read-failed"}
	lost := gobgplog.Fields{"new": "BGP_FSM_IDLE", "old": "BGP_FSM_ESTABLISHED", "reason": "read-failed"}
	rejected := gobgplog.Fields{"Code": uint8(6), "Subcode": uint8(5)}
	wrongAS := gobgplog.Fields{"Code": uint8(2), "Subcode": uint8(2)}
	const closedWords = "the peer closed the connection before the session was up: check that it has a session for 10.1.1.11 with AS 64512"
	type said struct {
		msg    string
		fields gobgplog.Fields
	}
	for _, tt := range []struct {
		name       string
		said       []said
		soon, late string
	}{
		{"refused", []said{{"failed to connect", refused}}, "still connecting", "connection refused: no BGP speaker listens on port 179 of 10.1.1.12"},
		{"closed", []said{{"state changed", closed}}, "still connecting", closedWords},
		{
			"rejected",
			[]said{{"received notification", rejected}},
			"still connecting",
			"the peer sent NOTIFICATION cease/connection rejected (6/5); check that it has a session for 10.1.1.11 with AS 64512",
		},
		{"lost, then closed", []said{{"state changed", lost}, {"state changed", closed}}, "connection lost", closedWords},
		{
			"a cause at once",
			[]said{{"received notification", wrongAS}},
			"the peer sent NOTIFICATION open message error/bad peer AS (2/2); check that it expects AS 64512 from us",
			"the peer sent NOTIFICATION open message error/bad peer AS (2/2); check that it expects AS 64512 from us",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
			c := newCauses()
			c.now, c.md5 = func() time.Time { return now }, func() md5Counters { return md5Counters{} }
			b := &bridge{log: slog.New(slog.DiscardHandler), causes: c}
			c.begin(peer.Address)
			now = now.Add(4 * time.Second)
			for _, s := range tt.said {
				s.fields["Key"] = peer.Address.String()
				b.Warn(s.msg, s.fields)
			}
			if got := c.explain(peer, 64512); got != tt.soon {
				t.Errorf("after 4 s %q, want %q", got, tt.soon)
			}
			now = now.Add(settling)
			if got := c.explain(peer, 64512); got != tt.late {
				t.Errorf("later %q, want %q", got, tt.late)
			}
		})
	}
}

func TestLogHasNotificationsInWords(t *testing.T) {
	var out bytes.Buffer
	b := &bridge{log: slog.New(slog.NewTextHandler(&out, nil)), causes: newCauses()}
	b.Warn("received notification", gobgplog.Fields{"Key": "10.1.1.12", "Code": uint8(6), "Subcode": uint8(3), "Data": []byte{}})
	const want = `msg="peer sent a NOTIFICATION" peer=10.1.1.12 notification="cease/peer de-configured (6/3)"` + "\n"
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("log %s, want …%s", out.String(), want)
	}
}
