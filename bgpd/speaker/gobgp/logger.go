package gobgp

import (
	"fmt"
	"log/slog"
	"net/netip"

	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// bridge is GoBGP's logger. Warnings go on to our log; what explains a session
// that is down goes to causes; the rest is dropped, there is too much of it.
type bridge struct {
	log    *slog.Logger
	causes *causes
	lost   func(peer netip.Addr) // is told when a session that was up ends, and not for a restart
}

// restartReason is GoBGP's word for the end of a session whose peer is taken to restart.
const restartReason = "graceful-restart"

// removedReason is its word for the end of a session whose peer was removed. It comes when
// the connection is closed, which may be after a peer with that address is up again.
const removedReason = "dying"

// fromLibrary is the message of what is passed on as it is.
const fromLibrary = "message from the BGP library"

var _ gobgplog.Logger = (*bridge)(nil)

// GetLevel asks for debug messages while a session is down: only they say why a
// connection failed. With all sessions up they would cost one message a path.
func (b *bridge) GetLevel() gobgplog.LogLevel {
	if b.causes.down.Load() > 0 {
		return gobgplog.DebugLevel
	}
	return gobgplog.InfoLevel
}

// SetLevel is part of the interface; the level follows the sessions.
func (b *bridge) SetLevel(gobgplog.LogLevel) {}

// Panic is called for states that can't be.
func (b *bridge) Panic(msg string, fields gobgplog.Fields) {
	b.log.Error(fromLibrary, attrs(msg, fields)...)
	panic("gobgp: " + msg)
}

// Fatal must not return.
func (b *bridge) Fatal(msg string, fields gobgplog.Fields) { b.Panic(msg, fields) }

// Error passes on to the log.
func (b *bridge) Error(msg string, fields gobgplog.Fields) {
	b.log.Error(fromLibrary, attrs(msg, fields)...)
}

// Warn learns from the message, and passes it on unless it is routine.
func (b *bridge) Warn(msg string, fields gobgplog.Fields) {
	b.learn(msg, fields)
	switch msg {
	case "Closed an accepted connection", "restart flag is not set", "accepted conn is closed to avoid be blocked",
		"active conn is closed to avoid being blocked":
		return // part of every restart of a peer
	}
	switch msg {
	case "received notification":
		b.log.Warn("peer sent a NOTIFICATION", "peer", fields["Key"], "notification", wordsOf(fields))
		return
	case "sent notification":
		b.log.Warn("sent a NOTIFICATION", "peer", fields["Key"], "notification", wordsOf(fields))
		return
	}
	b.log.Warn(fromLibrary, attrs(msg, fields)...)
}

// Info learns from the message.
func (b *bridge) Info(msg string, fields gobgplog.Fields) { b.learn(msg, fields) }

// Debug learns from the message.
func (b *bridge) Debug(msg string, fields gobgplog.Fields) { b.learn(msg, fields) }

func (b *bridge) learn(msg string, fields gobgplog.Fields) {
	switch msg {
	case "failed to connect", "state changed", "sent notification", "received notification", "hold timer expired", "Peer Down",
		notConfigured, wrongAddress:
	default:
		return
	}
	key, _ := fields["Key"].(string)
	addr, err := netip.ParseAddr(key)
	if err != nil {
		return
	}
	switch msg {
	case "failed to connect":
		if err, ok := fields["Error"].(error); ok {
			b.causes.dialFailed(addr, err)
		}
	case "state changed":
		if fields["new"] == bgp.BGP_FSM_IDLE.String() {
			from, _ := fields["old"].(string)
			b.causes.ended(addr, from, fmt.Sprint(fields["reason"]))
		}
	case "Peer Down":
		if reason := fields["Reason"]; reason != restartReason && reason != removedReason {
			b.lost(addr)
		}
	case "hold timer expired":
		b.causes.notified(addr, notificationWords(bgp.BGP_ERROR_HOLD_TIMER_EXPIRED, 0), bgp.BGP_ERROR_HOLD_TIMER_EXPIRED, 0, true)
	case "sent notification", "received notification":
		code, subcode := codesOf(fields)
		b.causes.notified(addr, wordsOf(fields), code, subcode, msg == "sent notification")
	case notConfigured:
		b.causes.strange(addr)
	case wrongAddress:
		b.causes.wrongLocal(addr, fields["Addr"])
	}
}

// Messages of connections that came in and were closed.
const (
	notConfigured = "Can't find configuration for a new passive connection"
	wrongAddress  = "Mismatched local address"
)

// codesOf are the code and subcode of a NOTIFICATION.
func codesOf(fields gobgplog.Fields) (code, subcode uint8) {
	if e, ok := fields["Data"].(*bgp.MessageError); ok {
		return e.TypeCode, e.SubTypeCode
	}
	code, _ = fields["Code"].(uint8)
	subcode, _ = fields["Subcode"].(uint8)
	return code, subcode
}

// wordsOf is a NOTIFICATION as logged: either the error it was made of, or its
// code, subcode and the reason in it (RFC 9003).
func wordsOf(fields gobgplog.Fields) string {
	if e, ok := fields["Data"].(*bgp.MessageError); ok {
		words := notificationWords(e.TypeCode, e.SubTypeCode)
		var want, got uint32
		if n, _ := fmt.Sscanf(e.Message, "as number mismatch expected %d, received %d", &want, &got); n == 2 {
			return fmt.Sprintf("%s: its AS number is %d, configured is %d", words, got, want)
		}
		if e.Message != "" {
			words += ": " + e.Message
		}
		return words
	}
	words := notificationWords(codesOf(fields))
	if reason, ok := fields["Communicated-Reason"].(string); ok && reason != "" {
		words += fmt.Sprintf(": %q", reason)
	}
	return words
}

func attrs(msg string, fields gobgplog.Fields) []any {
	out := []any{"says", msg}
	if key, ok := fields["Key"]; ok {
		out = append(out, "peer", key)
	}
	for _, name := range []string{"Error", "Err", "Data", "Code", "Subcode", "State"} {
		if v, ok := fields[name]; ok && v != nil {
			out = append(out, map[string]string{
				"Error": "err", "Err": "err", "Data": "data", "Code": "code", "Subcode": "subcode", "State": "state",
			}[name], fmt.Sprint(v))
		}
	}
	return out
}
