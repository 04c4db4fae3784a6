package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"tortie/bgpd/fib"
	"tortie/bgpd/speaker"
	"tortie/internal/kernel"
)

// Whoever asks must not hold up convergence: the engine's goroutine gives out what it has
// in small parts, and the kernel is read in that of the asker.

// routeReader reads the kernel's routes.
type routeReader interface {
	Routes(ctx context.Context, f kernel.RouteFilter) ([]kernel.Route, error)
}

// entriesAtOnce is how many entries are copied in one turn of the engine's, which takes it
// less than a millisecond.
const entriesAtOnce = 1024

// entriesOf is what has become of some prefixes, each at the moment it is looked at.
func (s *statusService) entriesOf(ctx context.Context, prefixes []netip.Prefix) (map[netip.Prefix]fib.Entry, error) {
	out := make(map[netip.Prefix]fib.Entry, len(prefixes))
	for part := range slices.Chunk(prefixes, entriesAtOnce) {
		err := s.engine.do(ctx, func() {
			for _, p := range part {
				if e, ok := s.engine.fib.Entry(p); ok {
					out[p] = e
				}
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// prefixesOf are those of paths that come in the order of their prefixes.
func prefixesOf(paths []speaker.Path) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(paths))
	for _, p := range paths {
		out = append(out, p.Prefix)
	}
	return slices.Compact(out)
}

// kernelHas is what the kernel has in its main table, in words: of all programs or of one,
// and to all prefixes or to one. A dump can be had by family and protocol only; what else is
// in it is put in no words.
func (s *statusService) kernelHas(ctx context.Context, of kernel.Protocol, prefix netip.Prefix) (map[netip.Prefix][]string, error) {
	var words func(kernel.Route) string
	if err := s.engine.do(ctx, func() { words = s.engine.fib.Words() }); err != nil {
		return nil, err
	}
	f := kernel.RouteFilter{Protocol: of}
	if prefix.IsValid() {
		f.Family = kernel.FamilyOf(prefix.Addr())
	}
	routes, err := s.engine.reader.Routes(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("read the kernel's routes: %w", err)
	}
	out := map[netip.Prefix][]string{}
	for _, r := range routes {
		if !prefix.IsValid() || r.Dst == prefix {
			out[r.Dst] = append(out[r.Dst], words(r))
		}
	}
	return out, nil
}
