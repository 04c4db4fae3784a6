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

// Check compares a pod's wiring with what Add made of it. The error is a
// *DriftError that names each difference, or says why it can't tell. What others
// added since (addresses, routes, a larger set of neighbours) is no difference.
func (n *Net) Check(ctx context.Context, a Attachment) error {
	mac, err := a.validate()
	if err != nil {
		return fmt.Errorf("check pod interface %s: %w", a.IfName, err)
	}
	w := &wiring{net: n, a: a, mac: mac}
	defer w.close()
	err = openNamespace(ctx, w)
	if err == nil {
		err = w.ns.Visit(w.open)
	}
	if err != nil {
		return fmt.Errorf("check pod interface %s: %w", a.IfName, err)
	}
	var d drift
	if err := w.compare(ctx, &d); err != nil {
		return fmt.Errorf("check pod interface %s: %w", a.IfName, err)
	}
	if len(d) > 0 {
		return &DriftError{IfName: a.IfName, HostIf: a.HostIf, Differences: d}
	}
	return nil
}

func (w *wiring) compare(ctx context.Context, d *drift) error {
	var err error
	w.host, err = w.net.host.LinkByName(w.a.HostIf)
	hasHost := err == nil
	switch {
	case errors.Is(err, kernel.ErrNotFound):
		d.add("the node's device %s is missing", w.a.HostIf)
	case err != nil:
		return err
	default:
		w.compareHost(d)
	}
	w.pod, err = w.inside.LinkByName(w.a.IfName)
	switch {
	case errors.Is(err, kernel.ErrNotFound):
		d.add("the pod's interface %s is missing", w.a.IfName)
		return nil
	case err != nil:
		return err
	}
	if hasHost && !arePeers(w.host, w.pod) {
		d.add("%s is not the other end of %s", w.a.IfName, w.a.HostIf)
	}
	return w.comparePod(ctx, d)
}

func (w *wiring) compareHost(d *drift) {
	if !w.host.Up {
		d.add("the node's device %s is down", w.a.HostIf)
	}
	if w.host.MAC != hostMAC() {
		d.add("the node's device %s has MAC address %s instead of %s", w.a.HostIf, w.host.MAC, hostMAC())
	}
	if w.a.MTU != 0 && w.host.MTU != w.a.MTU {
		d.add("the node's device %s has MTU %d instead of %d", w.a.HostIf, w.host.MTU, w.a.MTU)
	}
}

func (w *wiring) comparePod(ctx context.Context, d *drift) error {
	if !w.pod.Up {
		d.add("%s is down", w.a.IfName)
	}
	if w.mac != (kernel.MAC{}) && w.pod.MAC != w.mac {
		d.add("%s has MAC address %s instead of %s", w.a.IfName, w.pod.MAC, w.mac)
	}
	if w.a.MTU != 0 && w.pod.MTU != w.a.MTU {
		d.add("%s has MTU %d instead of %d", w.a.IfName, w.pod.MTU, w.a.MTU)
	}
	addrs, err := w.inside.Addresses(w.pod.Index)
	if err != nil {
		return err
	}
	for _, ip := range w.a.Addrs {
		if !slices.ContainsFunc(addrs, func(h kernel.Address) bool { return h.Prefix.Addr() == ip }) {
			d.add("%s does not have the address %s", w.a.IfName, ip)
		}
	}
	return w.compareWay(ctx, d)
}

// compareWay checks the way out of the pod.
func (w *wiring) compareWay(ctx context.Context, d *drift) error {
	neighbours, err := w.inside.Neighbours(w.pod.Index)
	if err != nil {
		return err
	}
	for _, f := range w.a.families() {
		want := kernel.Neighbour{Link: w.pod.Index, IP: gateway(f), MAC: hostMAC()}
		if !slices.Contains(neighbours, want) {
			d.add("the permanent neighbour %s is missing or has another MAC address than %s", want.IP, want.MAC)
		}
	}
	routes, err := w.inside.Routes(ctx, kernel.RouteFilter{})
	if err != nil {
		return err
	}
	for _, want := range podRoutes(w.a, w.pod.Index) {
		if !slices.ContainsFunc(routes, func(r kernel.Route) bool { return sameWay(r, want) }) {
			d.add("the route %s is missing", describe(want, w.a.IfName))
		}
	}
	return nil
}

func describe(r kernel.Route, ifName string) string {
	dst := r.Dst.String()
	if r.Dst.Bits() == 0 {
		dst = "default"
	}
	if r.Gateway != (netip.Addr{}) {
		dst += " via " + r.Gateway.String()
	}
	return dst + " dev " + ifName
}
