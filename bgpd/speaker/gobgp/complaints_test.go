package gobgp

import (
	"net/netip"
	"testing"
	"time"

	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
)

func TestComplaintsAreKeptForAnHourAndTellWhatCanNotGoOn(t *testing.T) {
	peer := netip.MustParseAddr("10.1.1.1")
	const begin = "the peer sends what BGP forbids: "
	for _, tt := range []struct {
		name, msg, err, want string
		untrue               bool
	}{
		{"another message", "Closed an accepted connection", "x", "", false},
		{"discarded", attributesDiscarded, "odd", begin + "an attribute of an UPDATE is malformed and was discarded: odd", false},
		{"withdrawn", treatedAsWithdraw, "odd", begin + "an UPDATE is malformed and was taken as the withdrawal of its routes: odd", false},
		{
			"withdrawn, but of what", treatedAsWithdraw, "attribute length is short",
			begin + "an UPDATE is malformed, and the session was begun anew, as its routes can't be told: attribute length is short", true,
		},
		{"family disabled", familyDisabled, "", begin + "an UPDATE is malformed, and the session was begun anew, as its routes can't be told", true},
		{"ended", malformedMessage, "odd", begin + "a message is malformed, which ended the session: odd", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Unix(1000, 0)
			c := newComplaints(func() time.Time { return now })
			fields := gobgplog.Fields{}
			if tt.err != "" {
				fields["error"] = tt.err
			}
			if untrue := c.note(peer, tt.msg, fields); untrue != tt.untrue {
				t.Errorf("can't go on: %t", untrue)
			}
			if got := c.words(peer); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if tt.want == "" {
				return
			}
			c.note(peer, tt.msg, fields)
			if got := c.words(peer); got != tt.want+" (2 such messages, this is the last)" {
				t.Errorf("of two: %q", got)
			}
			now = now.Add(complaintTime + 1)
			if got := c.words(peer); got != "" {
				t.Errorf("an hour later: %q", got)
			}
			c.note(peer, tt.msg, fields)
			if got := c.words(peer); got != tt.want {
				t.Errorf("the first of another hour: %q", got)
			}
			c.forget(peer)
			if got := c.words(peer); got != "" {
				t.Errorf("of a peer that is gone: %q", got)
			}
		})
	}
}
