package routetable

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"tortie/internal/kernel"
)

// failuresShown bounds an error's length: ten thousand routes can fail for one
// reason.
const failuresShown = 10

// failures gathers what an Apply could not do.
type failures struct {
	routes []failure
	links  map[int]*missingLink
}

type failure struct {
	dst netip.Prefix
	err error
}

// missingLink is a link that is gone or down, and the routes waiting for it.
type missingLink struct {
	cause error
	dsts  []netip.Prefix
}

// add files a failure; those for want of a link are told together.
func (f *failures) add(r kernel.Route, err error) {
	if r.Link == 0 || !errors.Is(err, kernel.ErrNotFound) && !errors.Is(err, kernel.ErrLinkDown) {
		f.routes = append(f.routes, failure{dst: r.Dst, err: err})
		return
	}
	if f.links == nil {
		f.links = map[int]*missingLink{}
	}
	m := f.links[r.Link]
	if m == nil {
		m = &missingLink{cause: err}
		f.links[r.Link] = m
	}
	m.dsts = append(m.dsts, r.Dst)
}

// errs are in the order of the destinations, so that the same failures always read
// the same.
func (f *failures) errs() []error {
	var errs []error
	slices.SortFunc(f.routes, func(a, b failure) int { return a.dst.Compare(b.dst) })
	for _, r := range f.routes[:min(len(f.routes), failuresShown)] {
		errs = append(errs, r.err)
	}
	if more := len(f.routes) - failuresShown; more > 0 {
		errs = append(errs, fmt.Errorf("and %d more routes", more))
	}
	links := make([]*LinkError, 0, len(f.links))
	for index, m := range f.links {
		links = append(links, newLinkError(index, m))
	}
	slices.SortFunc(links, func(a, b *LinkError) int { return cmp.Compare(a.Link, b.Link) })
	for _, e := range links {
		errs = append(errs, e)
	}
	return errs
}

// LinkError says that routes wait for a link that is gone or down. They are
// written once it is back; see [Table.LinkChanged].
type LinkError struct {
	Link  int
	Dsts  []netip.Prefix // in order
	Cause error          // of class kernel.ErrNotFound or kernel.ErrLinkDown
}

func newLinkError(index int, m *missingLink) *LinkError {
	slices.SortFunc(m.dsts, netip.Prefix.Compare)
	return &LinkError{Link: index, Dsts: m.dsts, Cause: m.cause}
}

// Error names the link and the first of the routes.
func (e *LinkError) Error() string {
	shown := make([]string, 0, failuresShown)
	for _, dst := range e.Dsts[:min(len(e.Dsts), failuresShown)] {
		shown = append(shown, dst.String())
	}
	list := strings.Join(shown, ", ")
	if more := len(e.Dsts) - len(shown); more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("link %d is gone or down, routes wait for it: %s: %v", e.Link, list, e.Cause)
}

// Unwrap gives the kernel's answer to the first of the routes.
func (e *LinkError) Unwrap() error { return e.Cause }
