package kernel

import (
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Change is one change of the kernel's state, for [Handle.Apply]: a [LinkUp],
// [LinkGroup], [LinkName], [LinkAddress], [Neighbour], [FDBEntry], [RouteChange] or
// [NextHopChange].
type Change interface {
	// Subject names operation and object as an error of the change does.
	Subject() (op, object string)
	encode() (request, error)
}

// LinkUp switches a link on.
type LinkUp struct{ Link int }

// LinkGroup puts a link in a group, by which [Handle.DeleteGroup] finds it.
type LinkGroup struct {
	Link  int
	Group uint32
}

// LinkName gives a link, which must be down, another name.
type LinkName struct {
	Link int
	Name string
}

// LinkAddress gives a link an address. For IPv6 there is no duplicate address
// detection: it can be used at once. One that is there already is a success.
type LinkAddress struct {
	Link   int
	Prefix netip.Prefix
	// Deprecated keeps an address from being chosen as the source of packets, other than
	// by routes that name it: IPv6 deprecates it, IPv4 has it in the scope of the host.
	Deprecated bool
}

// RouteOp is what is to be done with a route.
type RouteOp uint8

// The operations.
const (
	// Add writes a route where there is none of that destination, table and
	// metric; ErrExists where there is one, whoever owns it.
	Add RouteOp = iota + 1
	// Replace writes a route in place of the one of the same destination, table
	// and metric, whoever owns it, or anew. No packet finds the destination
	// without a route in between.
	Replace
	// Delete removes exactly this route: one of another protocol, gateway or
	// link to the same destination stays. A route that is absent is a success.
	// For IPv4 the kernel reads metric 0 as "any", and takes the lowest.
	Delete
)

// String begins the error of a failed operation.
func (op RouteOp) String() string {
	switch op {
	case Add:
		return "add route"
	case Replace:
		return "replace route"
	case Delete:
		return "delete route"
	}
	return fmt.Sprintf("route operation %d", uint8(op))
}

// flags are those of the request.
func (op RouteOp) flags() uint16 {
	switch op {
	case Add:
		return unix.NLM_F_CREATE | unix.NLM_F_EXCL
	case Replace:
		return unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	}
	return 0
}

// RouteChange is one operation on one route.
type RouteChange struct {
	Op    RouteOp
	Route Route
}

// changesPerMessage is how many changes go to the kernel at once: about as fast as
// any larger number, and their answers always fit the receive buffer.
const changesPerMessage = 64

// Apply works off changes in order, many at once, and returns one error, or nil,
// for each: a change that fails does not keep the others back.
func (h *Handle) Apply(changes ...Change) []error { return apply(h, changes) }

// ChangeRoutes is [Handle.Apply] for routes.
func (h *Handle) ChangeRoutes(changes []RouteChange) []error { return apply(h, changes) }

// AddRoute is the operation [Add].
func (h *Handle) AddRoute(r Route) error { return h.one(RouteChange{Op: Add, Route: r}) }

// ReplaceRoute is the operation [Replace].
func (h *Handle) ReplaceRoute(r Route) error { return h.one(RouteChange{Op: Replace, Route: r}) }

// DeleteRoute is the operation [Delete].
func (h *Handle) DeleteRoute(r Route) error { return h.one(RouteChange{Op: Delete, Route: r}) }

func (h *Handle) one(c Change) error { return h.Apply(c)[0] }

func apply[C Change](h *Handle, changes []C) []error {
	errs := make([]error, len(changes))
	for start := 0; start < len(changes); start += changesPerMessage {
		end := min(start+changesPerMessage, len(changes))
		applyBatch(h, changes[start:end], errs[start:end])
	}
	return errs
}

// applyBatch sends what is valid among the changes.
func applyBatch[C Change](h *Handle, changes []C, errs []error) {
	requests := make([]request, 0, len(changes))
	sent := make([]int, 0, len(changes)) // the change of each request
	for i, c := range changes {
		req, err := c.encode()
		if err != nil {
			errs[i] = changeError(c, err)
			continue
		}
		requests = append(requests, req)
		sent = append(sent, i)
	}
	for j, err := range h.exchangeAll(requests) {
		deletes := requests[j].kind == unix.RTM_DELROUTE || requests[j].kind == unix.RTM_DELNEXTHOP
		if err == nil || deletes && isAbsent(err) {
			continue
		}
		errs[sent[j]] = changeError(changes[sent[j]], err)
	}
}

func changeError(c Change, err error) error {
	op, object := c.Subject()
	return NewError(op, object, err)
}

// Subject implements [Change].
func (c LinkUp) Subject() (op, object string) { return "switch on link", strconv.Itoa(c.Link) }

// Subject implements [Change].
func (c LinkGroup) Subject() (op, object string) { return "set group of link", strconv.Itoa(c.Link) }

// Subject implements [Change].
func (c LinkName) Subject() (op, object string) { return "rename link", strconv.Itoa(c.Link) }

// Subject implements [Change].
func (c LinkAddress) Subject() (op, object string) {
	return "add address", fmt.Sprintf("%s to link %d", c.Prefix, c.Link)
}

// Subject implements [Change].
func (n Neighbour) Subject() (op, object string) { return "set neighbour", n.String() }

// Subject implements [Change].
func (c RouteChange) Subject() (op, object string) {
	if c.Route.Dst.IsValid() {
		c.Route = c.Route.Normal()
	}
	return c.Op.String(), c.Route.String()
}

func (c LinkUp) encode() (request, error) {
	return encodeSetLink(c.Link, unix.IFF_UP, unix.IFF_UP, nil)
}

func (c LinkGroup) encode() (request, error) {
	var attrs attributes
	attrs.uint32(unix.IFLA_GROUP, c.Group)
	return encodeSetLink(c.Link, 0, 0, attrs)
}

func (c LinkName) encode() (request, error) {
	if err := validName(c.Name); err != nil {
		return request{}, fmt.Errorf("to %q: %w", c.Name, err)
	}
	var attrs attributes
	attrs.text(unix.IFLA_IFNAME, c.Name)
	return encodeSetLink(c.Link, 0, 0, attrs)
}

func (c LinkAddress) encode() (request, error) {
	req := request{kind: unix.RTM_NEWADDR, flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE}
	header, attrs := encodeAddress(c.Link, c.Prefix)
	switch {
	case c.Deprecated && FamilyOf(c.Prefix.Addr()) == IPv4:
		header[3] = byte(ScopeHost)
	case c.Deprecated:
		attrs.bytes(unix.IFA_CACHEINFO, deprecatedLifetimes())
	}
	req.header, req.attrs = header, attrs
	return req, nil
}

func (n Neighbour) encode() (request, error) {
	header, attrs := encodeNeighbour(n)
	attrs.bytes(unix.NDA_LLADDR, n.MAC[:])
	return request{
		kind: unix.RTM_NEWNEIGH, flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE, header: header, attrs: attrs,
	}, nil
}

// Validate says why a change cannot be asked of the kernel.
func (c RouteChange) Validate() error {
	switch c.Op {
	case Add, Replace:
		return c.Route.Validate()
	case Delete:
		if !c.Route.Dst.IsValid() || c.Route.Protocol == 0 {
			return fmt.Errorf("no destination or no protocol: %w", ErrInvalid)
		}
		return nil
	}
	return fmt.Errorf("unknown operation: %w", ErrInvalid)
}

func (c RouteChange) encode() (request, error) {
	if err := c.Validate(); err != nil {
		return request{}, err
	}
	req := request{kind: unix.RTM_NEWROUTE, flags: c.Op.flags()}
	if c.Op == Delete {
		req.kind = unix.RTM_DELROUTE
	}
	req.header, req.attrs = encodeRoute(c.Route.Normal())
	return req, nil
}
