package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tortie/felix/calc"
	"tortie/internal/kernel"
	"tortie/internal/overlay"
)

// successorWait bounds how long a route to another node that nothing asks for any more
// waits for bgpd's in its place.
const successorWait = 10 * time.Second

// remotes are the routes to other nodes' pods.
type remotes struct {
	// declared are those the route table knows, by destination, but for those in whose
	// place this node has something of its own.
	declared map[netip.Prefix]kernel.Route
	// retired are the declared ones that nothing asks for any more: since when.
	retired map[netip.Prefix]time.Time
	// links are those they lead out of.
	links map[int]bool
	// complete: all of them have been declared once. begun is when that was first tried.
	complete bool
	begun    time.Time
}

// unknown reports whether a restarted felix can't tell yet what leads to other nodes,
// and so must leave alone what it found. What keeps failing does not count for ever.
func (r *remotes) unknown(err error) bool {
	r.complete = r.complete || err == nil
	if r.begun.IsZero() {
		r.begun = time.Now()
	}
	return !r.complete && time.Since(r.begun) < successorWait
}

func newRemotes() remotes {
	return remotes{declared: map[netip.Prefix]kernel.Route{}, retired: map[netip.Prefix]time.Time{}, links: map[int]bool{}}
}

// same spares the comparison of what calc has not computed anew.
func same(a, b []calc.Remote) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

func sameTunnels(a, b []overlay.Tunnel) bool {
	return slices.EqualFunc(a, b, func(a, b overlay.Tunnel) bool { return a.Here == b.Here && slices.Equal(a.Peers, b.Peers) })
}

// applyTunnels leaves a failed attempt alone until the pause after it is over, so that
// it does not slow every CNI call down. Where it wrote, routes may have another link.
func (l *Loop) applyTunnels(ctx context.Context, w *work, retry bool) error {
	if l.cfg.Tunnels == nil || !w.inSync {
		return nil
	}
	if !w.tunnels && !w.hints.resync && !(l.tunnelErr != nil && retry) {
		return l.tunnelErr
	}
	w.remotes = true
	l.tunnelErr = l.cfg.Tunnels.Apply(ctx)
	links := map[int]bool{}
	for _, by := range carriers() {
		for _, v6 := range []bool{false, true} {
			if link, up := l.cfg.Tunnels.Link(by, v6); up {
				links[link] = true
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tunnelLinks = links
	return l.tunnelErr
}

// carriers are those that have a device.
func carriers() []overlay.Carrier {
	return []overlay.Carrier{overlay.VXLAN, overlay.IPIP, overlay.WireGuard}
}

// tunnelAddrs are the addresses that the tunnels' devices have, by the State. It is called
// with the lock held.
func (l *Loop) tunnelAddrs() []netip.Addr {
	addrs := []netip.Addr{l.state.IPIP}
	for _, t := range l.state.Tunnels {
		addrs = append(addrs, t.Here.Tunnel)
	}
	for _, t := range l.state.Secure {
		addrs = append(addrs, t.Here.Secure.Tunnel)
	}
	return addrs
}

// declareRemotes tells the route table what changed about the routes to other nodes.
// What this node has of its own comes before them.
func (l *Loop) declareRemotes(ctx context.Context, w *work, retry bool) error {
	l.mu.Lock()
	waiting := len(l.remotes.retired) > 0
	l.mu.Unlock()
	if !w.inSync || !w.remotes && !w.hints.resync && !waiting && !(l.remoteErr != nil && retry) {
		return l.remoteErr
	}
	l.remoteErr = l.updateRemotes(ctx)
	return l.remoteErr
}

func (l *Loop) updateRemotes(ctx context.Context) error {
	links, err := l.remoteLinks()
	if err != nil {
		return err
	}
	var unready, successors map[netip.Prefix]bool
	if l.cfg.Tunnels != nil {
		unready = l.cfg.Tunnels.Unready()
	}
	if successors, err = l.successors(ctx, len(unready) > 0); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := make(map[netip.Prefix]bool, len(l.state.Remote))
	for _, r := range l.state.Remote {
		wanted[r.Dst] = true
		delete(l.remotes.retired, r.Dst)
		link, up := links.of(r)
		if !up {
			l.withdraw(r.Dst)
			continue
		}
		route := remoteRoute(r, link, l.tunnelAddr(r))
		if was, declared := l.remotes.declared[r.Dst]; unready[r.Dst] && was != route && (successors[r.Dst] || declared && links.lead(was)) {
			continue
		}
		l.establish(route)
	}
	for dst, r := range l.remotes.declared {
		if wanted[dst] {
			continue
		}
		since, retired := l.remotes.retired[dst]
		if !retired {
			since = time.Now()
			l.remotes.retired[dst] = since
		}
		if successors[dst] || time.Since(since) >= successorWait || !links.lead(r) {
			delete(l.remotes.retired, dst)
			l.withdraw(dst)
		}
	}
	clear(l.remotes.links)
	for _, r := range l.remotes.declared {
		l.remotes.links[r.Link] = true
	}
	return nil
}

// establish and withdraw are called with the lock held.
func (l *Loop) establish(r kernel.Route) {
	if l.remotes.declared[r.Dst] == r {
		return
	}
	l.remotes.declared[r.Dst] = r
	if _, own := l.desired[r.Dst]; !own {
		l.cfg.Routes.Update(r)
	}
}

func (l *Loop) withdraw(dst netip.Prefix) {
	if _, was := l.remotes.declared[dst]; !was {
		return
	}
	delete(l.remotes.declared, dst)
	if _, own := l.desired[dst]; !own {
		l.cfg.Routes.Remove(dst)
	}
}

// giveUp is for a destination at which this node has nothing of its own any more.
func (l *Loop) giveUp(dst netip.Prefix) {
	if r, remote := l.remotes.declared[dst]; remote {
		l.cfg.Routes.Update(r)
		return
	}
	l.cfg.Routes.Remove(dst)
}

// tunnelAddr is the source of this node's own packets on a route into a tunnel: the
// answers to it come back through the tunnel.
func (l *Loop) tunnelAddr(r calc.Remote) netip.Addr {
	switch r.Carrier {
	case overlay.IPIP:
		return l.state.IPIP
	case overlay.WireGuard:
		for _, t := range l.state.Secure {
			if a := t.Here.Secure.Tunnel; a.Is6() == r.Dst.Addr().Is6() {
				return a
			}
		}
	}
	for _, t := range l.state.Tunnels {
		if r.Carrier == overlay.VXLAN && t.Here.Tunnel.Is6() == r.Dst.Addr().Is6() {
			return t.Here.Tunnel
		}
	}
	return netip.Addr{}
}

// remoteRoute: the next hop of a tunnel is on no subnet of this node.
func remoteRoute(r calc.Remote, link int, src netip.Addr) kernel.Route {
	route := kernel.Route{
		Dst: r.Dst, Table: kernel.TableMain, Protocol: kernel.ProtocolFelix, Type: kernel.RouteUnicast,
		Link: link, Gateway: r.Via, OnLink: r.Carrier.Encapsulates(), Src: src, Priority: kernel.MetricOverlay,
	}
	if !r.Via.IsValid() {
		route.Scope = kernel.ScopeLink
	}
	return route.Normal()
}

// remoteLinks are the devices that routes to other nodes lead out of.
type remoteLinks struct {
	tunnels  Tunnels
	segments []kernel.Address // this node's addresses that have a subnet
}

// remoteLinks reads where this node's own addresses are, if a route along a segment
// asks for it.
func (l *Loop) remoteLinks() (remoteLinks, error) {
	l.mu.Lock()
	own := l.state.NodeAddrs
	along := slices.ContainsFunc(l.state.Remote, func(r calc.Remote) bool { return r.Carrier == overlay.Segment })
	l.mu.Unlock()
	links := remoteLinks{tunnels: l.cfg.Tunnels}
	if !along {
		return links, nil
	}
	held, err := l.cfg.Kernel.Addresses(0)
	if err != nil {
		return links, fmt.Errorf("find the segments of routes to other nodes: %w", err)
	}
	for _, a := range held {
		for _, p := range own {
			if p.Addr() == a.Prefix.Addr() {
				// The length is the registered one, by which the carrier was chosen.
				a.Prefix = p
				links.segments = append(links.segments, a)
			}
		}
	}
	return links, nil
}

func (l remoteLinks) of(r calc.Remote) (link int, up bool) {
	if r.Carrier.Encapsulates() {
		if l.tunnels == nil {
			return 0, false
		}
		return l.tunnels.Link(r.Carrier, r.Dst.Addr().Is6())
	}
	for _, a := range l.segments {
		if a.Prefix.Contains(r.Via) {
			return a.Link, true
		}
	}
	return 0, false
}

// lead reports whether a route's device is still there, if it is a tunnel's.
func (l remoteLinks) lead(r kernel.Route) bool {
	if !r.OnLink && r.Gateway.IsValid() {
		return true
	}
	return slices.ContainsFunc(carriers(), func(by overlay.Carrier) bool {
		link, up := l.tunnels.Link(by, r.Dst.Addr().Is6())
		return up && link == r.Link
	})
}

// successors are the destinations of bgpd's routes, read while a retired one waits, or
// a new one.
func (l *Loop) successors(ctx context.Context, waiting bool) (map[netip.Prefix]bool, error) {
	l.mu.Lock()
	waiting = waiting || len(l.remotes.retired) > 0 || l.remotesLeave()
	l.mu.Unlock()
	if !waiting {
		return nil, nil
	}
	routes, err := l.cfg.Kernel.Routes(ctx, kernel.RouteFilter{Protocol: kernel.ProtocolBGP})
	if err != nil {
		return nil, fmt.Errorf("see whether routes to other nodes have a successor: %w", err)
	}
	out := make(map[netip.Prefix]bool, len(routes))
	for _, r := range routes {
		out[r.Dst] = true
	}
	return out, nil
}

// remotesLeave reports whether a declared route is about to be retired.
func (l *Loop) remotesLeave() bool {
	wanted := make(map[netip.Prefix]bool, len(l.state.Remote))
	for _, r := range l.state.Remote {
		wanted[r.Dst] = true
	}
	for dst := range l.remotes.declared {
		if !wanted[dst] {
			return true
		}
	}
	return false
}

// nextRetirement is when a retired route goes without a successor.
func (l *Loop) nextRetirement() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := idle
	for _, since := range l.remotes.retired {
		next = min(next, max(successorWait-time.Since(since), time.Millisecond))
	}
	return next
}

// heedSuccessor is called with the lock held: a route of bgpd's for which a retired one
// waits is worth a turn.
func (l *Loop) heedSuccessor(ev kernel.RouteEvent) bool {
	_, retired := l.remotes.retired[ev.Route.Dst]
	return retired && !ev.Gone && ev.Route.Protocol == kernel.ProtocolBGP && ev.Route.Table == kernel.TableMain
}

// heedRemoteLink is called with the lock held for a device that is no pod's: the kernel drops the routes over a device that goes down without a
// word, and a tunnel's device that somebody changed is to be mended.
func (l *Loop) heedRemoteLink(link kernel.Link) bool {
	tunnel := l.cfg.Tunnels != nil && l.cfg.Tunnels.Owns(link)
	return (tunnel || l.remotes.links[link.Index]) && l.heedForeign()
}
