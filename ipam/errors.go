package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// The classes of failure, for errors.Is. datastore.ErrUnavailable,
// datastore.ErrUnauthorized, datastore.ErrInvalid (a key of the store that can't
// be read) and the error of a done context pass through.
var (
	// ErrNoPool: no pool may serve the request.
	ErrNoPool = errors.New("no usable IP pool")
	// ErrPoolFull: pools may serve, but have no free address for this node.
	ErrPoolFull = errors.New("no free address")
	// ErrBlockLimit: the node owns as many blocks as it may, and they are full.
	ErrBlockLimit = errors.New("block limit of the node reached")
	// ErrNodeUnknown: there is no Node resource for this node.
	ErrNodeUnknown = errors.New("node is not known")
	// ErrInUse: the address asked for is somebody's.
	ErrInUse = errors.New("address is in use")
	// ErrNotOurs: the address asked for lies in a block of which this node may not take
	// addresses.
	ErrNotOurs = errors.New("address is another's to give")
	// ErrClosed: the allocator is closed.
	ErrClosed = errors.New("allocator closed")
	// ErrInvalid: the request itself makes no sense.
	ErrInvalid = errors.New("invalid request")
)

// ExhaustedError says why no address could be assigned: everything that was
// considered and why it didn't serve. errors.Is matches its Class.
type ExhaustedError struct {
	// Class is ErrNoPool, ErrPoolFull, ErrBlockLimit or ErrNodeUnknown.
	Class error
	// Version is 4 or 6, Wanted the number of addresses asked for.
	Version, Wanted int
	Node            string
	// Virtual says that Node is no node but another owner of blocks.
	Virtual bool
	// Pools has a verdict on every pool of the IP version, and on each that can't be read.
	Pools []Verdict
	// Blocks and Limit count the node's blocks of this IP version; Limit is 0 for none.
	Blocks, Limit int
	// Free are the addresses left in those of them that may serve, Reserved those left
	// out because of an IPReservation, Cooling those released too short a while ago,
	// Borrowed those that other nodes use.
	Free, Reserved, Cooling, Borrowed int
	// Lendable are the free addresses in blocks of other nodes.
	Lendable int
	// Advice says what would help.
	Advice string
}

// Error is one line: what, why, what to do.
func (e *ExhaustedError) Error() string {
	var s strings.Builder
	where := "on node"
	if e.Virtual {
		where = "for"
	}
	fmt.Fprintf(&s, "assign %s %s %s: %v", count(e.Wanted, family(e.Version).String()+" address"), where, e.Node, e.Class)
	separator := ": "
	for _, v := range e.Pools {
		s.WriteString(separator + v.String())
		separator = "; "
	}
	if e.Limit > 0 {
		fmt.Fprintf(&s, "; the node owns %d of at most %d %s blocks, with %s free", e.Blocks, e.Limit, family(e.Version), count(e.Free, "address"))
		for _, part := range []struct {
			n    int
			what string
		}{{e.Reserved, "reserved"}, {e.Cooling, "cooling down"}, {e.Borrowed, "borrowed by other nodes"}} {
			if part.n > 0 {
				fmt.Fprintf(&s, ", %d %s", part.n, part.what)
			}
		}
	}
	if e.Advice != "" {
		s.WriteString(". " + e.Advice)
	}
	return s.String()
}

// Unwrap makes errors.Is see the class.
func (e *ExhaustedError) Unwrap() error { return e.Class }

// AddressError says why an address that was asked for could not be assigned.
type AddressError struct {
	Addr netip.Addr
	// Class is ErrNoPool, ErrInUse, ErrNotOurs or ErrBlockLimit.
	Class error
	// Reason says what is in the way, Advice what would help.
	Reason, Advice string
}

// Error is one line: what, why, what to do.
func (e *AddressError) Error() string {
	s := fmt.Sprintf("%s: %v: %s", e.Addr, e.Class, e.Reason)
	if e.Advice != "" {
		s += ". " + e.Advice
	}
	return s
}

// Unwrap makes errors.Is see the class.
func (e *AddressError) Unwrap() error { return e.Class }

// count is "1 block", "2 addresses".
func count(n int, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "s"):
		return fmt.Sprintf("%d %ses", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
