package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"
)

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

// RouteChange is one operation on one route.
type RouteChange struct {
	Op    RouteOp
	Route Route
}

// changesPerMessage is how many route changes go to the kernel at once: about as
// fast as any larger number, and their answers always fit the receive buffer.
const changesPerMessage = 64

// ChangeRoutes works off changes in order and returns one error, or nil, for
// each: a change that fails does not keep the others back.
func (h *Handle) ChangeRoutes(changes []RouteChange) []error {
	errs := make([]error, len(changes))
	for start := 0; start < len(changes); start += changesPerMessage {
		end := min(start+changesPerMessage, len(changes))
		h.changeBatch(changes[start:end], errs[start:end])
	}
	return errs
}

// AddRoute is the operation [Add].
func (h *Handle) AddRoute(r Route) error { return h.change(Add, r) }

// ReplaceRoute is the operation [Replace].
func (h *Handle) ReplaceRoute(r Route) error { return h.change(Replace, r) }

// DeleteRoute is the operation [Delete].
func (h *Handle) DeleteRoute(r Route) error { return h.change(Delete, r) }

func (h *Handle) change(op RouteOp, r Route) error {
	return h.ChangeRoutes([]RouteChange{{Op: op, Route: r}})[0]
}

// changeBatch sends what is valid among the changes.
func (h *Handle) changeBatch(changes []RouteChange, errs []error) {
	requests := make([]request, 0, len(changes))
	sent := make([]int, 0, len(changes)) // the change of each request
	for i, c := range changes {
		req, err := c.encode()
		if err != nil {
			errs[i] = NewError(c.Op.String(), c.Route.String(), err)
			continue
		}
		requests = append(requests, req)
		sent = append(sent, i)
	}
	for j, err := range h.exchangeAll(requests) {
		c := changes[sent[j]]
		if err == nil || c.Op == Delete && isAbsent(err) {
			continue
		}
		errs[sent[j]] = NewError(c.Op.String(), c.Route.Normal().String(), err)
	}
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
	req := request{kind: unix.RTM_NEWROUTE}
	switch c.Op {
	case Add:
		req.flags = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	case Replace:
		req.flags = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	case Delete:
		req.kind = unix.RTM_DELROUTE
	}
	req.header, req.attrs = encodeRoute(c.Route.Normal())
	return req, nil
}
