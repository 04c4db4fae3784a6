package fib

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"tortie/bgpd/speaker"
	"tortie/internal/kernel"
)

// Entry is what has become of the best path to a prefix.
func (f *FIB) Entry(prefix netip.Prefix) (Entry, bool) {
	d, ok := f.best[prefix]
	if !ok || !f.wasRead || !f.wasTold {
		return Entry{}, false
	}
	e := d.entry(prefix)
	if holder, ok := f.displaced[prefix]; ok && e.Kernel != "" && e.Carried == "" {
		e.Wanted, e.Kernel, e.Problem = e.Kernel, "", displacedBy(holder)
	}
	return e, true
}

// displacedBy is why a route is not installed whose place another program holds.
func displacedBy(holder string) string {
	return "another program's route holds its place: " + holder + "; " + whatToDo
}

// Prefixes are those with a best path, in no order.
func (f *FIB) Prefixes() []netip.Prefix {
	if !f.wasRead || !f.wasTold {
		return nil
	}
	return slices.Collect(maps.Keys(f.best))
}

// Tally is how many best paths there are, by what has become of them.
type Tally struct {
	Best, Installed, Without map[kernel.Family]int
	// Unreachable are those whose next hop is; Example is the first in words.
	Unreachable int
	Example     string
}

// Tally counts, without a copy of what may be very many.
func (f *FIB) Tally() Tally {
	t := Tally{Best: map[kernel.Family]int{}, Installed: map[kernel.Family]int{}, Without: map[kernel.Family]int{}}
	if !f.wasRead || !f.wasTold {
		return t
	}
	var first netip.Prefix
	for prefix, d := range f.best {
		family := kernel.FamilyOf(prefix.Addr())
		t.Best[family]++
		_, displaced := f.displaced[prefix]
		switch {
		case d.words() == "" || displaced && d.carried == "":
			t.Without[family]++
		case d.carried == "":
			t.Installed[family]++
		}
		if d.problem == "" || !strings.Contains(d.problem, "unreachable") {
			continue
		}
		t.Unreachable++
		if !first.IsValid() || comparePrefix(prefix, first) < 0 {
			first, t.Example = prefix, d.problem
		}
	}
	if first.IsValid() {
		t.Example = fmt.Sprintf("%s: %s", first, t.Example)
	}
	return t
}

// Len is how many prefixes there is a best path to.
func (f *FIB) Len() int { return len(f.best) }

// Import returns "" for a path that the node's rules let in, else the reason why not.
func (f *FIB) Import(p speaker.Path) (rejected string) { return f.filter.Import(p) }

// Words puts a route of the kernel in words, by the links as they are known now. It may be
// called from any goroutine.
func (f *FIB) Words() func(kernel.Route) string { return f.resolver.say }

// say is a route of the kernel in words, with its maker.
func (r *Resolver) say(route kernel.Route) string {
	var s string
	switch {
	case route.Type == kernel.RouteBlackhole:
		s = "blackhole"
	case route.Type != kernel.RouteUnicast:
		s = route.String()
	case route.Gateway.IsValid():
		s = r.describe(kernel.NextHop{Link: route.Link, Gateway: route.Gateway})
	case route.Link != 0:
		s = "dev " + r.linkName(route.Link)
	default:
		var all []string
		for _, h := range route.NextHops.All() {
			all = append(all, r.describe(h))
		}
		s = strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s proto %d (%s)", s, route.Protocol, makerOf(route.Protocol))
}

// makerOf names the program whose routes carry a protocol, as iproute2 does.
func makerOf(p kernel.Protocol) string {
	names := map[kernel.Protocol]string{
		kernel.ProtocolBGP: "bgpd", kernel.ProtocolFelix: "felix", kernel.ProtocolKernel: "kernel", kernel.ProtocolBoot: "boot",
		kernel.ProtocolStatic: "static", 1: "redirect", 9: "router advertisement", 11: "zebra", 12: "BIRD", 16: "DHCP", 18: "keepalived",
		42: "babel", 186: "FRR, BGP", 187: "FRR, IS-IS", 188: "FRR, OSPF", 189: "FRR, RIP",
	}
	if name, ok := names[p]; ok {
		return name
	}
	return "another program"
}
