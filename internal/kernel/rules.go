package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// MarkClear is that of packets which pass WireGuard by though they go to a node behind
// it: the protocol's own, and what is about the network between the nodes itself. It is
// upstream's by default.
const MarkClear = 0x100000

// Rule is one by which the kernel chooses the routing table for a packet. It is comparable.
type Rule struct {
	Family   Family
	Priority int
	Table    int
	// Mark, under Mask, is the one of packets that the rule is for; with Not it is for all
	// others.
	Mark, Mask uint32
	Not        bool
	Protocol   Protocol
	// Others: it has conditions besides. It is read only.
	Others bool
}

// String is the rule as ip(8) would print it.
func (r Rule) String() string {
	not := ""
	if r.Not {
		not = "not "
	}
	return fmt.Sprintf("%s %d: %sfwmark %#x/%#x lookup %d proto %d", r.Family, r.Priority, not, r.Mark, r.Mask, r.Table, r.Protocol)
}

// What linux/fib_rules.h calls it; the action is to look into a table.
const (
	fraPriority, fraMark, fraTable, fraMask, fraProtocol = 6, 10, 15, 16, 21

	fraDestination, fraSource, fraInput, fraOutput, fraUsers, fraIPProtocol, fraSourcePorts, fraDestinationPorts = 1, 2, 3, 17, 20, 22, 23, 24

	ruleToTable    = 1
	ruleInvert     = 2
	ruleHeaderSize = 12
)

// AddRule adds a rule; one that is there already is a success.
func (h *Handle) AddRule(r Rule) error {
	header, attrs := r.encode()
	req := request{kind: unix.RTM_NEWRULE, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, header: header, attrs: attrs}
	err := h.exchangeAll([]request{req})[0]
	if errors.Is(ClassOf(err), ErrExists) {
		return nil
	}
	return NewError("add routing rule", r.String(), err)
}

// DeleteRule takes a rule away. One that is absent is a success.
func (h *Handle) DeleteRule(r Rule) error {
	header, attrs := r.encode()
	err := h.do(unix.RTM_DELRULE, header, attrs)
	if isAbsent(err) {
		return nil
	}
	return NewError("delete routing rule", r.String(), err)
}

func (r Rule) encode() (header []byte, attrs attributes) {
	header = make([]byte, ruleHeaderSize)
	header[0], header[7] = byte(r.Family), ruleToTable
	if r.Table < 256 {
		header[4] = byte(r.Table)
	}
	if r.Not {
		binary.NativeEndian.PutUint32(header[8:], ruleInvert)
	}
	attrs.uint32(fraPriority, uint32(r.Priority))
	attrs.uint32(fraTable, uint32(r.Table))
	if r.Mask != 0 {
		attrs.uint32(fraMark, r.Mark)
		attrs.uint32(fraMask, r.Mask)
	}
	attrs.bytes(fraProtocol, []byte{byte(r.Protocol)})
	return header, attrs
}

// Rules reads the rules of both families that a protocol has made.
func (h *Handle) Rules(ctx context.Context, protocol Protocol) ([]Rule, error) {
	var out []Rule
	for _, family := range []Family{IPv4, IPv6} {
		header := make([]byte, ruleHeaderSize)
		header[0] = byte(family)
		rules, err := dump(ctx, h, request{kind: unix.RTM_GETRULE, header: header}, unix.RTM_NEWRULE,
			func(msg []byte) (Rule, bool, error) {
				r, err := decodeRule(msg)
				return r, r.Protocol == protocol && r.Family == family, err
			})
		if err != nil {
			return nil, NewError("read routing rules", family.String(), err)
		}
		out = append(out, rules...)
	}
	return out, nil
}

func decodeRule(msg []byte) (r Rule, err error) {
	if len(msg) < ruleHeaderSize {
		return r, fmt.Errorf("rule message of %d bytes: %w", len(msg), unix.EBADMSG)
	}
	r.Family, r.Table = Family(msg[0]), int(msg[4])
	r.Not = binary.NativeEndian.Uint32(msg[8:])&ruleInvert != 0
	r.Others = msg[3] != 0 || msg[7] != ruleToTable
	err = eachAttribute(msg[ruleHeaderSize:], func(kind uint16, value []byte) error { return r.decodeAttribute(kind, value) })
	return r, err
}

func (r *Rule) decodeAttribute(kind uint16, value []byte) (err error) {
	n := uint32(0)
	switch kind {
	case fraPriority, fraTable, fraMark, fraMask:
		if n, err = number(value); err != nil {
			return err
		}
	}
	switch kind {
	case fraPriority:
		r.Priority = int(n)
	case fraTable:
		r.Table = int(n)
	case fraMark:
		r.Mark = n
	case fraMask:
		r.Mask = n
	case fraProtocol:
		if len(value) > 0 {
			r.Protocol = Protocol(value[0])
		}
	case fraDestination, fraSource, fraInput, fraOutput, fraUsers, fraIPProtocol, fraSourcePorts, fraDestinationPorts:
		r.Others = true
	}
	return nil
}
