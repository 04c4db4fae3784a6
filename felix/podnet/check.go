package podnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"tortie/internal/kernel"
)

// DriftError says in what a pod's wiring differs from what it should be.
type DriftError struct {
	IfName, HostIf string
	// Differences are complete phrases, one a difference.
	Differences []string
}

// Error is one line with every difference.
func (e *DriftError) Error() string {
	return fmt.Sprintf("check pod interface %s (%s): %s", e.IfName, e.HostIf, strings.Join(e.Differences, "; "))
}

type drift []string

func (d *drift) add(format string, args ...any) { *d = append(*d, fmt.Sprintf(format, args...)) }

// Told is what the runtime has been told of a pod's side. It began as what Add made of it;
// plugins that came later in the chain may have changed both.
type Told struct {
	MAC   string       // empty: it says none
	MTU   int          // 0: it says none
	Addrs []netip.Addr // of the interface
	// Routes are those with a next hop; nil: it says nothing of routes.
	Routes []Hop
}

// Hop is a route and its next hop.
type Hop struct {
	Dst netip.Prefix
	Via netip.Addr
}

// Check compares a pod's wiring with what Add made of it, and its side with what the
// runtime has been told, where that says something; told is nil when it was told nothing.
// The error is a *DriftError that names each difference, or says why it can't tell. What
// others added since (addresses, routes, a larger set of neighbours) is no difference.
func (n *Net) Check(ctx context.Context, a Attachment, told *Told) error {
	c, err := n.comparison(a, told)
	if err != nil {
		return fmt.Errorf("check pod interface %s: %w", a.IfName, err)
	}
	defer c.close()
	err = openNamespace(ctx, c.wiring)
	if err == nil {
		err = c.ns.Visit(c.open)
	}
	if err == nil {
		err = c.compare(ctx)
	}
	if err != nil {
		return fmt.Errorf("check pod interface %s: %w", a.IfName, err)
	}
	if len(c.drift) > 0 {
		return &DriftError{IfName: a.IfName, HostIf: a.HostIf, Differences: c.drift}
	}
	return nil
}

// comparison is a Check under way. The wiring's MAC address is the one that the pod should
// have.
type comparison struct {
	*wiring
	told *Told
	// otherMAC: that is another than the attachment's. To change it empties the pod's table
	// of neighbours; it then asks for its next hop, and the node answers.
	otherMAC bool
	drift    drift
}

func (n *Net) comparison(a Attachment, told *Told) (*comparison, error) {
	mac, err := a.validate()
	if err != nil {
		return nil, err
	}
	c := &comparison{wiring: &wiring{net: n, a: a, mac: mac}, told: told}
	if told != nil && told.MAC != "" {
		a.MAC = told.MAC
		if c.mac, err = a.validate(); err != nil {
			return nil, fmt.Errorf("the result: %w", err)
		}
		c.otherMAC = c.mac != mac
	}
	return c, nil
}

func (c *comparison) add(format string, args ...any) { c.drift.add(format, args...) }

func (c *comparison) compare(ctx context.Context) error {
	var err error
	c.host, err = c.net.host.LinkByName(c.a.HostIf)
	hasHost := err == nil
	switch {
	case errors.Is(err, kernel.ErrNotFound):
		c.add("the node's device %s is missing", c.a.HostIf)
	case err != nil:
		return err
	default:
		c.compareHost()
	}
	c.pod, err = c.inside.LinkByName(c.a.IfName)
	switch {
	case errors.Is(err, kernel.ErrNotFound):
		c.add("the pod's interface %s is missing", c.a.IfName)
		return nil
	case err != nil:
		return err
	}
	if hasHost && !arePeers(c.host, c.pod) {
		c.add("%s is not the other end of %s", c.a.IfName, c.a.HostIf)
	}
	return c.comparePod(ctx)
}

func (c *comparison) compareHost() {
	if !c.host.Up {
		c.add("the node's device %s is down", c.a.HostIf)
	}
	if c.host.MAC != hostMAC() {
		c.add("the node's device %s has MAC address %s instead of %s", c.a.HostIf, c.host.MAC, hostMAC())
	}
	if c.a.MTU != 0 && c.host.MTU != c.a.MTU {
		c.add("the node's device %s has MTU %d instead of %d", c.a.HostIf, c.host.MTU, c.a.MTU)
	}
}

func (c *comparison) comparePod(ctx context.Context) error {
	if !c.pod.Up {
		c.add("%s is down", c.a.IfName)
	}
	if c.mac != (kernel.MAC{}) && c.pod.MAC != c.mac {
		c.add("%s has MAC address %s instead of %s", c.a.IfName, c.pod.MAC, c.mac)
	}
	c.compareMTU()
	addrs, err := c.inside.Addresses(c.pod.Index)
	if err != nil {
		return err
	}
	want := slices.Clone(c.a.Addrs)
	if c.told != nil {
		want = append(want, c.told.Addrs...)
	}
	for i, ip := range want {
		if !slices.Contains(want[:i], ip) && !slices.ContainsFunc(addrs, func(h kernel.Address) bool { return h.Prefix.Addr() == ip }) {
			c.add("%s does not have the address %s", c.a.IfName, ip)
		}
	}
	return c.compareWay(ctx)
}

// compareMTU: a plugin that lowers the MTU after us, as tuning does, leaves the result as
// it was, so that a lower one can't be told from an accident. Above that of its other end
// packets get lost, whoever wanted it so.
func (c *comparison) compareMTU() {
	want, have := c.a.MTU, c.pod.MTU
	changed := c.told != nil && c.told.MTU != 0 && c.told.MTU != want
	if changed {
		want = c.told.MTU
	}
	switch {
	case want == 0 || have == want:
	case c.told == nil || changed:
		c.add("%s has MTU %d instead of %d", c.a.IfName, have, want)
	case have > want:
		c.add("%s has MTU %d, more than the %d of its other end", c.a.IfName, have, want)
	}
}

// compareWay checks the way out of the pod.
func (c *comparison) compareWay(ctx context.Context) error {
	neighbours, err := c.inside.Neighbours(c.pod.Index)
	if err != nil {
		return err
	}
	for _, f := range c.a.families() {
		want := kernel.Neighbour{Link: c.pod.Index, IP: gateway(f), MAC: hostMAC()}
		gone := !slices.ContainsFunc(neighbours, func(n kernel.Neighbour) bool { return n.IP == want.IP })
		if !slices.Contains(neighbours, want) && !(gone && c.otherMAC) {
			c.add("the permanent neighbour %s is missing or has another MAC address than %s", want.IP, want.MAC)
		}
	}
	routes, err := c.inside.Routes(ctx, kernel.RouteFilter{})
	if err != nil {
		return err
	}
	own := podRoutes(c.a, c.pod.Index)
	for _, want := range own {
		if !slices.ContainsFunc(routes, func(r kernel.Route) bool { return sameWay(r, want) }) && !c.told.lacks(want) {
			c.add("the route %s is missing", describe(want, c.a.IfName))
		}
	}
	if c.told == nil {
		return nil
	}
	for _, hop := range c.told.Routes {
		if !slices.ContainsFunc(slices.Concat(own, routes), hop.is) {
			c.add("the route %s via %s of the result is missing", destination(hop.Dst), hop.Via)
		}
	}
	return nil
}

// lacks reports whether a later plugin has taken a route of ours out of the result, or, of
// the one to our next hop, all that went by it.
func (t *Told) lacks(r kernel.Route) bool {
	return t != nil && t.Routes != nil && !slices.ContainsFunc(t.Routes, func(h Hop) bool { return h.is(r) || h.Via == r.Dst.Addr() })
}

func (h Hop) is(r kernel.Route) bool {
	r = r.Normal()
	return r.Dst == h.Dst.Masked() && r.Gateway == h.Via
}

func describe(r kernel.Route, ifName string) string {
	dst := destination(r.Dst)
	if r.Gateway != (netip.Addr{}) {
		dst += " via " + r.Gateway.String()
	}
	return dst + " dev " + ifName
}

func destination(p netip.Prefix) string {
	if p.Bits() == 0 {
		return "default"
	}
	return p.String()
}
