package cniserver

import (
	"context"
	"fmt"
	"net/netip"

	"tortie/felix/cniserver/netconf"
	"tortie/felix/journal"
	"tortie/internal/api"
)

// Permits says why a pod may not have what it asks for besides addresses, and what to do;
// nil when it may.
type Permits interface {
	// Sources: to send from other addresses than its own.
	Sources() error
	// Floating: to be reached at an address that is not its own.
	Floating(netip.Addr) error
}

// grantMore takes up what a pod's annotations ask for besides its interface.
func (a *addition) grantMore(w netconf.Wishes) error {
	if len(w.Sources) > 0 {
		if err := a.server.permits.Sources(); err != nil {
			return &netconf.AnnotationError{Name: "allowedSourcePrefixes", Reason: err.Error()}
		}
	}
	if len(w.Floating) > 0 && !a.call.conf.FloatingIPs {
		return &netconf.AnnotationError{Name: "floatingIPs", Reason: `the network configuration does not allow it; add "feature_control": {"floating_ips": true}`}
	}
	for _, addr := range w.Floating {
		if err := a.server.permits.Floating(addr); err != nil {
			return &netconf.AnnotationError{Name: "floatingIPs", Reason: err.Error()}
		}
	}
	a.entry.Sources, a.entry.Floating = w.Sources, w.Floating
	return nil
}

// asksMore reports whether packet rules of its own stand behind the pod.
func (a *addition) asksMore() bool { return len(a.entry.Sources) > 0 || len(a.entry.Floating) > 0 }

// settle waits until the packet rules stand that the pod's endpoint asks for: it is in the
// store by now.
func (a *addition) settle(ctx context.Context) error {
	for _, addr := range a.entry.Floating {
		if !internal(a.entry, addr).IsValid() {
			return &netconf.AnnotationError{Name: "floatingIPs", Reason: fmt.Sprintf("%s is of an IP version that the pod has no address of", addr)}
		}
	}
	return a.server.routes.Settle(ctx, a.call.endpoint, a.entry.ContainerID)
}

// internal is the pod's first address of the floating one's version.
func internal(e journal.Entry, floating netip.Addr) netip.Addr {
	for _, addr := range e.Addrs {
		if addr.Is4() == floating.Is4() {
			return addr
		}
	}
	return netip.Addr{}
}

// fillMore sets what a new container asks for. What stands in the endpoint of one that
// runs is its operator's to change.
func fillMore(spec *api.WorkloadEndpointSpec, e journal.Entry) {
	if spec.ContainerID == e.ContainerID {
		return
	}
	spec.AllowSpoofedSourcePrefixes, spec.IPNATs = nil, nil
	for _, p := range e.Sources {
		spec.AllowSpoofedSourcePrefixes = append(spec.AllowSpoofedSourcePrefixes, p.String())
	}
	for _, external := range e.Floating {
		if own := internal(e, external); own.IsValid() {
			spec.IPNATs = append(spec.IPNATs, api.IPNAT{InternalIP: own.String(), ExternalIP: external.String()})
		}
	}
}

// manySources reports whether the pod may send from others' addresses: as it asked, or as
// its endpoint says by now.
func (a *addition) manySources() bool {
	if _, wep, ok := a.server.state.endpoint(a.call.endpoint); ok && wep.Spec.ContainerID == a.entry.ContainerID {
		return len(wep.Spec.AllowSpoofedSourcePrefixes) > 0
	}
	return len(a.entry.Sources) > 0
}
