package podnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"tortie/internal/kernel"
)

// wiring is one pod on its way through the steps.
type wiring struct {
	net *Net
	a   Attachment
	mac kernel.MAC // wanted in the pod; zero for any

	ns     *kernel.Netns
	inside Pod
	host   kernel.Link // the node's end
	pod    kernel.Link // the pod's end
	// adopted says that the pair was there before: then nothing of it is undone.
	adopted bool
	// prepared are the addresses that were assigned in the expectation that they will
	// be the ones.
	prepared []netip.Addr
	// loWasDown and old are the namespace's own state before us.
	loWasDown bool
	old       []kernel.Setting
}

func (w *wiring) close() {
	if w.inside != nil {
		w.inside.Close()
	}
	if w.ns != nil {
		w.ns.Close()
	}
}

// step is one part of the wiring. undo takes back what do did to the pod's
// namespace or the node; it is nil for what goes away with the veth pair. It is
// called also for the step that failed, which may have done half its work.
type step struct {
	name string
	do   func(context.Context, *wiring) error
	undo func(*wiring) error
}

// steps is the order of the wiring. The node's end is switched on only when its
// settings hold, and the pod's end after it, so that no packet is ever treated
// by the kernel's defaults.
func steps() []step {
	return []step{
		{name: "open namespace", do: openNamespace},
		{name: "create veth pair", do: createPair, undo: deletePair},
		{name: "set up node's end", do: setUpHostEnd},
		{name: "set pod's sysctls", do: setPodSysctls, undo: restorePodSysctls},
		{name: "set up pod's end", do: setUpPodEnd, undo: downLoopback},
		// Last, so that little is left to do when the addresses come late.
		{name: "prepare addresses", do: prepareAddresses},
		{name: "await addresses", do: awaitAddresses},
		{name: "assign addresses", do: assignAddresses},
	}
}

// run carries out the steps; when one fails, it undoes that one and those before,
// in reverse.
func run(ctx context.Context, w *wiring, steps []step) error {
	for i, s := range steps {
		err := ctx.Err()
		if err == nil {
			err = s.do(ctx, w)
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s: %w", s.name, err)
		for _, done := range slices.Backward(steps[:i+1]) {
			if done.undo == nil {
				continue
			}
			if undoErr := done.undo(w); undoErr != nil {
				err = errors.Join(err, fmt.Errorf("undo %s: %w", done.name, undoErr))
			}
		}
		return err
	}
	return nil
}

func openNamespace(_ context.Context, w *wiring) error {
	ns, err := kernel.OpenNetns(w.a.Netns)
	if err != nil {
		return &NetnsError{w.a.Netns, err}
	}
	w.ns = ns
	id, err := ns.ID()
	if err != nil {
		return err
	}
	if id == w.net.home {
		return &NetnsError{w.a.Netns, errors.New("it is the node's own namespace; a pod on the host network has no attachment")}
	}
	return nil
}

// open makes the pod's kernel reachable; done once, it does nothing more. It is to
// be called inside the pod's namespace.
func (w *wiring) open() (err error) {
	if w.inside == nil {
		w.inside, err = w.net.openPod(w.ns)
	}
	return err
}

func setUpHostEnd(_ context.Context, w *wiring) error {
	if err := w.net.host.Configure(w.host, hostSettings(w.a, w.net.ipv6)); err != nil {
		return err
	}
	var changes []kernel.Change
	if w.a.has(kernel.IPv6) {
		changes = append(changes, gatewayAddress(w.host.Index))
	}
	if !w.host.Up {
		changes = append(changes, kernel.LinkUp{Link: w.host.Index})
	}
	return cmp.Or(w.net.host.Apply(changes...)...)
}

// gatewayAddress: the kernel would make it by itself, but on probation at first.
func gatewayAddress(link int) kernel.LinkAddress {
	return kernel.LinkAddress{Link: link, Prefix: netip.PrefixFrom(gateway(kernel.IPv6), linkLocalBits)}
}

// linkLocalBits is the length of the link-local prefix (RFC 4291, section 2.5.6).
const linkLocalBits = 64

// setPodSysctls does in one visit to the pod's namespace all that takes a thread
// there.
func setPodSysctls(_ context.Context, w *wiring) error {
	return w.ns.Visit(func() (err error) {
		if err = w.open(); err != nil {
			return err
		}
		w.old, err = w.inside.SwapSysctls(podSettings(w.a))
		w.old = slices.DeleteFunc(w.old, func(s kernel.Setting) bool { return isOfInterface(s, w.a.IfName) })
		return err
	})
}

func restorePodSysctls(w *wiring) error {
	if len(w.old) == 0 {
		return nil
	}
	return w.inside.SetSysctls(w.old)
}

// loopbackIndex is the index of the loopback in every namespace.
const loopbackIndex = 1

// setUpPodEnd switches on what is in the pod and gives it its way out, by one
// message. The next hop is made known for good: it is never asked for by ARP or ND,
// and does not count against the size of the kernel's table of neighbours.
func setUpPodEnd(ctx context.Context, w *wiring) error {
	loIsUp, err := w.inside.IsUp("lo")
	if err == nil && w.pod.MAC == (kernel.MAC{}) {
		w.pod, err = w.inside.LinkByIndex(w.pod.Index) // the kernel chose the address
	}
	if err != nil {
		return err
	}
	var changes []kernel.Change
	if w.loWasDown = !loIsUp; w.loWasDown {
		changes = append(changes, kernel.LinkUp{Link: loopbackIndex})
	}
	changes = append(changes, kernel.LinkUp{Link: w.pod.Index})
	for _, f := range w.a.families() {
		changes = append(changes, kernel.Neighbour{Link: w.pod.Index, IP: gateway(f), MAC: hostMAC()})
	}
	routes := podRoutes(w.a, w.pod.Index)
	for _, r := range routes {
		changes = append(changes, kernel.RouteChange{Op: kernel.Add, Route: r})
	}
	errs := w.inside.Apply(changes...)
	first := len(changes) - len(routes)
	if err := cmp.Or(errs[:first]...); err != nil {
		return err
	}
	if slices.ContainsFunc(errs[first:], isTaken) {
		// The others may have failed for want of the first.
		return addRoutes(ctx, w, routes)
	}
	return cmp.Or(errs[first:]...)
}

func isTaken(err error) bool { return errors.Is(err, kernel.ErrExists) }

func downLoopback(w *wiring) error {
	if !w.loWasDown {
		return nil
	}
	return w.inside.SetDown(loopbackIndex)
}

// prepareAddresses assigns what is expected, unless an interface is adopted: that
// one may serve a pod.
func prepareAddresses(_ context.Context, w *wiring) error {
	if !w.a.awaited() || w.a.Expected == nil || w.adopted {
		return nil
	}
	expected := w.a
	expected.Addrs = w.a.Expected()
	if usable := expected.Addrs != nil && expected.validateAddrs() == nil; !usable {
		return nil // what comes will be judged
	}
	w.prepared = expected.Addrs
	return w.assign(w.prepared)
}

// awaitAddresses makes the addresses known; done once, it does nothing more.
func awaitAddresses(ctx context.Context, w *wiring) error {
	if !w.a.awaited() {
		return nil
	}
	families := w.a.families()
	addrs, err := w.a.Late(ctx)
	if err != nil {
		return err
	}
	w.a.Addrs = addrs
	if err := w.a.validateAddrs(); err != nil {
		return err
	}
	if got := w.a.families(); !slices.Equal(got, families) {
		return fmt.Errorf("%w: addresses %v, want some of %v each and no other", ErrInvalid, addrs, families)
	}
	return nil
}

func assignAddresses(_ context.Context, w *wiring) error {
	if w.prepared != nil && slices.Equal(w.prepared, w.a.Addrs) {
		return nil
	}
	if err := w.assign(w.a.Addrs); err != nil {
		return err
	}
	if w.adopted || w.prepared != nil {
		// Only now: with the last IPv4 address of an interface go its routes.
		return dropOtherAddresses(w)
	}
	return nil
}

func (w *wiring) assign(addrs []netip.Addr) error {
	var changes []kernel.Change
	for _, ip := range addrs {
		changes = append(changes, kernel.LinkAddress{Link: w.pod.Index, Prefix: prefix(ip)})
	}
	return cmp.Or(w.inside.Apply(changes...)...)
}

// dropOtherAddresses takes from an interface what it is not to have.
func dropOtherAddresses(w *wiring) error {
	have, err := w.inside.Addresses(w.pod.Index)
	if err != nil {
		return err
	}
	for _, h := range have {
		ip := h.Prefix.Addr()
		if ip.IsLinkLocalUnicast() || slices.Contains(w.a.Addrs, ip) {
			continue
		}
		if err := w.inside.DeleteAddress(w.pod.Index, h.Prefix); err != nil {
			return err
		}
	}
	return nil
}

// addRoutes adds routes one after another, with an eye to those that are there.
func addRoutes(ctx context.Context, w *wiring, routes []kernel.Route) error {
	for _, r := range routes {
		err := w.inside.AddRoute(r)
		if isTaken(err) {
			err = acceptRoute(ctx, w, r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// acceptRoute is for a destination that has a route already: fine when it is the
// one wanted, and no hindrance when it is that of an interface whose DEL was
// answered a moment ago.
func acceptRoute(ctx context.Context, w *wiring, want kernel.Route) error {
	have, err := w.inside.Routes(ctx, kernel.RouteFilter{Family: kernel.FamilyOf(want.Dst.Addr())})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(have, func(r kernel.Route) bool { return sameWay(r, want) }) {
		return nil
	}
	cleared, err := clearDetached(w, have, want)
	if err != nil {
		return err
	}
	if !cleared {
		return fmt.Errorf("%w: the pod has another route to %s already, from another network", ErrInterfaceExists, want.Dst)
	}
	return w.inside.AddRoute(want)
}

// clearDetached deletes the interfaces that have a route to the wanted destination
// and whose other end waits for its deletion. It reports whether any did.
func clearDetached(w *wiring, have []kernel.Route, want kernel.Route) (cleared bool, err error) {
	for _, r := range have {
		if r.Link == w.pod.Index || r.Normal().Dst != want.Normal().Dst {
			continue
		}
		link, err := w.inside.LinkByIndex(r.Link)
		if err == nil {
			err = clearPodName(w, link)
		}
		switch {
		case errors.Is(err, ErrInterfaceExists): // in service
		case err == nil, errors.Is(err, kernel.ErrNotFound):
			cleared = true
		default:
			return cleared, err
		}
	}
	return cleared, nil
}

// podRoutes are the routes in the pod, in the order they can be added: the next
// hop, then everything through it. A link-local IPv6 next hop is on its link by
// definition (RFC 4291, section 2.5.6) and needs no route.
func podRoutes(a Attachment, link int) []kernel.Route {
	var out []kernel.Route
	for _, f := range a.families() {
		base := kernel.Route{Table: kernel.TableMain, Protocol: kernel.ProtocolBoot, Type: kernel.RouteUnicast, Link: link}
		gw, all := gateway(f), netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if f == kernel.IPv4 {
			all = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			hop := base
			hop.Dst, hop.Scope = prefix(gw), kernel.ScopeLink
			out = append(out, hop)
		}
		way := base
		way.Dst, way.Gateway = all, gw
		out = append(out, way)
	}
	return out
}

// sameWay compares what a packet sees of two routes.
func sameWay(a, b kernel.Route) bool {
	a, b = a.Normal(), b.Normal()
	return a.Dst == b.Dst && a.Type == b.Type && a.Link == b.Link && a.Gateway == b.Gateway
}
