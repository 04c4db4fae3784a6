package cniserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"tortie/felix/calc"
	"tortie/felix/cniserver/netconf"
	"tortie/felix/journal"
	"tortie/felix/podnet"
	"tortie/internal/api"
	"tortie/internal/kernel"
)

// attach makes the device while the addresses are assigned, for the one costs as
// much as the other.
func (a *addition) attach(ctx context.Context) error {
	s := a.server
	a.deviceUp = true // or may be, from here on
	device := a.attachment()
	device.Families, device.Expected = families(a.call.conf), a.expected
	assigned := make(chan error, 1)
	device.Late = func(ctx context.Context) ([]netip.Addr, error) {
		select {
		case err := <-assigned:
			if err != nil {
				return nil, errNotAssigned
			}
			return a.entry.Addrs, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	wiring, giveUp := context.WithCancel(ctx)
	defer giveUp()
	sent, stored := make(chan struct{}), make(chan error, 1)
	tellSent := sync.OnceFunc(func() { close(sent) })
	go func() {
		defer tellSent()
		// Not with the wiring's context: an assignment that is broken off leaves doubt.
		err := a.assign(ctx, tellSent)
		assigned <- err
		if err == nil && !a.published {
			err = a.publish(ctx, a.entry)
		}
		if err != nil {
			giveUp()
		}
		stored <- err
	}()
	// The store first: it has its own work to do, and on a machine of few processors
	// the wiring would keep the request from leaving.
	<-sent
	attached, err := s.pods.Add(wiring, device)
	if storeErr := <-stored; storeErr != nil {
		err = storeErr // which ended the wiring as well
	}
	return a.wired(ctx, attached, err)
}

// expected are the addresses this pod will have if the transaction under way
// succeeds.
func (a *addition) expected() []netip.Addr {
	if planned := a.planned.Load(); planned != nil {
		return *planned
	}
	return nil
}

// families are the families of the addresses an ADD asks for.
func families(conf netconf.Conf) []kernel.Family {
	var out []kernel.Family
	for _, addr := range conf.Addrs {
		out = append(out, kernel.FamilyOf(addr))
	}
	if len(out) > 0 {
		return out
	}
	if conf.IPAM.IPv4 {
		out = append(out, kernel.IPv4)
	}
	if conf.IPAM.IPv6 {
		out = append(out, kernel.IPv6)
	}
	return out
}

// wire makes the device and, meanwhile, writes the endpoint: neither needs the
// other.
func (a *addition) wire(ctx context.Context) error {
	s := a.server
	a.deviceUp = true // or may be, from here on
	g, gctx := errgroup.WithContext(ctx)
	var attached podnet.Attached
	g.Go(func() (err error) {
		attached, err = s.pods.Add(gctx, a.attachment())
		return err
	})
	entry := a.entry
	g.Go(func() error { return a.publish(ctx, entry) })
	err := g.Wait()
	return a.wired(ctx, attached, err)
}

// wired takes in what became of the device and the endpoint.
func (a *addition) wired(ctx context.Context, attached podnet.Attached, err error) error {
	if attached.HostIndex != 0 {
		err = errors.Join(err, a.server.takeOver(a.entry))
	}
	if err != nil {
		return err
	}
	a.link = attached.HostIndex
	mac := a.entry.MAC
	a.entry.MAC, a.entry.MTU = attached.PodMAC, attached.MTU
	if a.entry.MAC != mac { // the pod had the interface already
		return a.publish(ctx, a.entry)
	}
	return nil
}

// publish writes the profile and the endpoint, in this order: an endpoint whose
// profile is missing is cut off.
func (a *addition) publish(ctx context.Context, e journal.Entry) error {
	s, c := a.server, a.call
	ctx, cancel := toTheEnd(ctx)
	defer cancel()
	if !c.args.IsPod() || !c.conf.PolicyK8s {
		if err := s.endpoints.ensureProfile(ctx, c.conf.Name); err != nil {
			return err
		}
	}
	known, _, ok := s.state.endpoint(c.endpoint)
	if !ok {
		return s.endpoints.put(ctx, c, e, nil)
	}
	return s.endpoints.put(ctx, c, e, &known)
}

// toTheEnd is for writes to the store: they end with the call's time, but are not
// broken off when the call is given up or its other half fails. A write whose
// outcome is unknown could take effect after its undoing has looked.
func toTheEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	detached := context.WithoutCancel(ctx)
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithDeadline(detached, deadline)
	}
	return context.WithCancel(detached)
}

func (a *addition) attachment() podnet.Attachment {
	mtu := a.entry.MTU // what it was attached with
	if mtu == 0 {
		mtu = a.call.conf.MTU
	}
	if mtu == 0 {
		mtu = a.server.mtu()
	}
	if a.hasIPv6() {
		mtu = max(mtu, podnet.LeastMTU6)
	}
	return podnet.Attachment{
		Netns: a.entry.Netns, IfName: a.entry.IfName, HostIf: a.entry.HostIf, MAC: a.entry.MAC, Addrs: a.entry.Addrs,
		MTU: mtu, NumQueues: a.call.conf.NumQueues, AllowIPForwarding: a.call.conf.AllowIPForwarding,
		FromLoopback: len(a.entry.HostPorts) > 0, ManySources: a.manySources(),
	}
}

// hasIPv6: the pod has an IPv6 address, or is to get one.
func (a *addition) hasIPv6() bool {
	if len(a.entry.Addrs) > 0 {
		return slices.ContainsFunc(a.entry.Addrs, netip.Addr.Is6)
	}
	return slices.Contains(families(a.call.conf), kernel.IPv6)
}

// Attached is how a pod's device on the node was made, as far as that is to stay so; false
// while a call is at work on it, or it is being released.
func (s *Server) Attached(id calc.EndpointID, hostIf string) (made podnet.Attachment, settled bool) {
	made.HostIf = hostIf
	entries := s.journal.Find(func(e journal.Entry) bool { return e.HostIf == hostIf })
	for _, e := range entries {
		if e.State != journal.StateAttached {
			return made, false
		}
		made.MTU, made.FromLoopback = e.MTU, len(e.HostPorts) > 0
	}
	if _, wep, seen := s.state.endpoint(id); seen && len(entries) == 0 { // attached by another system, or the journal was lost
		made.FromLoopback = len(portsOf(wep)) > 0
	}
	return made, true
}

// AskedMTUs are those that network configurations named when a pod was last added, by the
// network.
func (s *Server) AskedMTUs() map[string]int {
	s.asking.Lock()
	defer s.asking.Unlock()
	return maps.Clone(s.asked)
}

func (s *Server) noteMTU(network string, mtu int) {
	s.asking.Lock()
	defer s.asking.Unlock()
	if mtu == 0 {
		delete(s.asked, network)
		return
	}
	s.asked[network] = mtu
}

// fits refuses an MTU with which packets could not leave the node: they would be lost, or
// broken up, and nobody told. A pod that has it already keeps it.
func (s *Server) fits(mtu int) error {
	if mtu == 0 || s.limit == nil {
		return nil
	}
	if most, device, known := s.limit(); known && mtu > most {
		return &netconf.Error{Key: "mtu", Reason: fmt.Sprintf("%d is more than the %d of the node's device %s: lower it to that, less what an overlay in use takes, or leave it out and felix finds it", mtu, most, device)}
	}
	return nil
}

func (a *addition) unwire(ctx context.Context) error {
	if !a.server.ownsDevice(a.entry) {
		a.deviceUp = false // an earlier sandbox's, which was not replaced yet
		return nil
	}
	err := a.server.pods.Remove(ctx, a.entry.HostIf)
	a.deviceUp = err != nil
	return err
}

// newMAC makes a random address for the pod's interface, locally administered
// and of one interface (IEEE 802). It is chosen here so that the endpoint can be
// written while the device is made.
func newMAC() string {
	var mac [6]byte
	_, _ = rand.Read(mac[:]) // never fails
	mac[0] = mac[0]&^3 | 2
	if mac[0] == 0xee {
		mac[0] = 0x0e // never the node's end's
	}
	return net.HardwareAddr(mac[:]).String()
}

// addressesOf are the addresses of an endpoint; those that can't be read are
// left out.
func addressesOf(wep *api.WorkloadEndpoint) []netip.Addr {
	var addrs []netip.Addr
	for _, s := range wep.Spec.IPNetworks {
		if p, err := netip.ParsePrefix(s); err == nil {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs
}
