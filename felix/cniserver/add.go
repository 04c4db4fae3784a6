package cniserver

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"tortie/felix/calc"
	"tortie/felix/cniserver/netconf"
	"tortie/felix/journal"
	"tortie/felix/podnet"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/kernel"
	"tortie/internal/qos"
	"tortie/ipam"
)

// add carries out ADD. Its entry in the journal precedes everything else, so
// that a death at any point leaves a note of what may have to be taken back.
func (s *Server) add(ctx context.Context, c call) (json.RawMessage, error) {
	if err := s.Ready(); err != nil {
		return nil, err
	}
	unlock, err := s.lockSettled(ctx, c)
	if err != nil {
		return nil, err
	}
	defer unlock()
	a, err := s.addition(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := a.sameNamespace(); err != nil {
		return nil, err
	}
	if !a.known {
		if err := errors.Join(a.heed(), s.fits(c.conf.MTU)); err != nil {
			return nil, err
		}
	}
	failed, undoFailed := runSteps(ctx, a.steps())
	if undoFailed != nil {
		s.log.Error("undoing a failed ADD is left to the journal", "attachment", c.id.String(), "err", undoFailed)
	}
	if failed != nil {
		if problem := s.nodeProblem(); problem != nil && errors.Is(failed, ipam.ErrNodeUnknown) {
			failed = fmt.Errorf("%w: %w", ipam.ErrNodeUnknown, problem) // that the Node is missing follows from it
		}
		return nil, failed
	}
	if a.unheard {
		s.unheard.note(c.id, c.args)
	}
	return a.result()
}

// addition is an ADD under way.
type addition struct {
	server *Server
	call   call
	entry  journal.Entry
	// known: the container is attached already. Its ADD mends and answers; when
	// that fails, nothing is taken back from a pod that may be running.
	known    bool
	deviceUp bool
	link     int // the index of the device
	routed   bool
	// unheard: what the pod's annotations ask for is not known.
	unheard bool
	// published: the endpoint came into being with its addresses.
	published bool
	// planned are the addresses that the transaction under way assigns; it may yet
	// fail, and another assign others.
	planned atomic.Pointer[[]netip.Addr]
}

// lockSettled waits until nothing of an earlier attachment with the call's ID is
// left, and keeps other calls about the endpoint out. The releaser needs the lock
// itself, so it is not held while waiting.
func (s *Server) lockSettled(ctx context.Context, c call) (unlock func(), err error) {
	for {
		if err := s.releaser.settle(ctx, c.id); err != nil {
			return nil, err
		}
		unlock, err := s.lockEndpoint(ctx, c.lockKey(), c.id)
		if err != nil {
			return nil, err
		}
		if !s.releaser.isPending(c.id) {
			return unlock, nil
		}
		unlock()
	}
}

func (s *Server) lockEndpoint(ctx context.Context, key string, id journal.ID) (unlock func(), err error) {
	if unlock, err = s.locks.lock(ctx, key); err != nil {
		return nil, fmt.Errorf("wait for the previous call about %s: %w", id, err)
	}
	return unlock, nil
}

// addition decides with which entry to begin: a new one, or the one this
// container already has.
func (s *Server) addition(ctx context.Context, c call) (*addition, error) {
	a := &addition{server: s, call: c}
	if e, ok := s.journal.Get(c.id); ok && e.State == journal.StateAttached {
		// A repeated ADD: the same answer, and whatever was lost is mended.
		a.entry, a.known = e, true
		a.entry.Netns = c.netns
		return a, nil
	}
	a.entry = journal.Entry{
		ID: c.id, State: journal.StateAdding, Plugin: c.plugin,
		Namespace: c.endpoint.Namespace, Endpoint: c.endpoint.Name, HostIf: c.hostIf, Netns: c.netns,
	}
	if c.plugin == pluginIPAM {
		return a, nil
	}
	a.entry.MAC, a.entry.HostPorts, a.entry.IPAM = newMAC(), remembered(c.conf.HostPorts), c.delegate
	wep, attached, err := s.attachedElsewhere(ctx, c)
	if !attached || err != nil {
		return a, err
	}
	a.entry.Addrs, a.known = addressesOf(wep), true
	a.entry.HostIf = wep.Spec.InterfaceName
	if wep.Spec.MAC != "" {
		a.entry.MAC = wep.Spec.MAC
	}
	return a, nil
}

// attachedElsewhere finds the endpoint of a container that the journal doesn't
// know: attached by upstream's plugin, or before the journal was lost. What was
// seen of it may be older than a DEL of the same container, whose address may be
// another's by now: the datastore itself is asked.
func (s *Server) attachedElsewhere(ctx context.Context, c call) (wep *api.WorkloadEndpoint, attached bool, err error) {
	if _, seen, ok := s.state.endpoint(c.endpoint); !ok || seen.Spec.ContainerID != c.id.ContainerID {
		return nil, false, nil
	}
	entry, err := s.client.Get(ctx, c.endpoint.Key())
	if errors.Is(err, datastore.ErrNotFound) || errors.Is(err, datastore.ErrInvalid) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("is the container attached already: %w", err)
	}
	wep, ok := entry.Object.(*api.WorkloadEndpoint)
	return wep, ok && wep.Spec.ContainerID == c.id.ContainerID, nil
}

func (a *addition) steps() []step {
	begin := []step{
		{"record the attachment", a.begin, a.abandon},
		{"assign addresses", func(ctx context.Context) error { return a.assign(ctx, nil) }, nil},
	}
	finish := step{"record the attachment", a.finish, nil}
	if a.call.plugin == pluginIPAM {
		if a.known {
			return nil // the entry says it all
		}
		return append(begin, finish)
	}
	steps := []step{{"wire the pod", a.wire, nil}, {"route to the pod", a.route, nil}}
	switch {
	case a.known:
	case a.entry.IPAM != nil || a.entry.Given:
		assign := step{"assign addresses", a.delegated, nil}
		if a.entry.Given {
			assign.do = func(context.Context) error { return nil }
		}
		steps = []step{
			begin[0],
			assign,
			{"wire the pod", a.wire, a.unwire},
			{"route to the pod", a.route, a.unroute},
		}
	default:
		steps = []step{
			begin[0],
			{"attach the pod", a.attach, a.unwire},
			{"route to the pod", a.route, a.unroute},
		}
	}
	if len(a.entry.HostPorts) > 0 {
		ports := step{"lead the node's ports to the pod", a.mapPorts, nil}
		if !a.known {
			ports.undo = a.unmapPorts
		}
		steps = append(steps, ports)
	}
	if a.asksMore() {
		steps = append(steps, step{"carry out what the pod asks for", a.settle, nil})
	}
	return append(steps, finish)
}

// begin writes the entry. When assign returns it is durable, or the endpoint is
// in the store.
func (a *addition) begin(context.Context) error { return a.server.journal.Put(a.entry) }

// abandon is the undoing of begin and assign: the releaser takes over, at once
// and for as long as it takes.
func (a *addition) abandon(context.Context) error {
	a.entry.State = journal.StateReleasing
	a.entry.Detached = !a.deviceUp && !a.routed
	return a.server.releaser.take(a.entry)
}

// assign gets the addresses; sent is called when the request for them is on its way.
func (a *addition) assign(ctx context.Context, sent func()) error {
	s, conf := a.server, a.call.conf
	req := ipam.Request{
		Handle: handleOf(a.call.id), Addrs: conf.Addrs,
		Pools4: conf.IPAM.Pools4, Pools6: conf.IPAM.Pools6,
		Namespace: a.call.args.K8sNamespace,
		Attrs:     map[string]string{},
		Sent:      sent,
	}
	if conf.IPAM.IPv4 && len(conf.Addrs) == 0 {
		req.Num4 = 1
	}
	if conf.IPAM.IPv6 && len(conf.Addrs) == 0 {
		req.Num6 = 1
	}
	if a.call.args.IsPod() {
		req.Attrs[api.AttributePod] = a.call.args.K8sPod
		req.Attrs[api.AttributeNamespace] = a.call.args.K8sNamespace
		if uid := a.call.args.K8sUID; uid != "" {
			req.Attrs[api.AttributePodUID] = uid
		}
	}
	req.With = a.companion()
	var syncing errgroup.Group
	if req.With == nil {
		syncing.Go(s.journal.Sync)
	}
	assigning, cancel := toTheEnd(ctx)
	defer cancel()
	got, err := s.addresses.AutoAssign(assigning, req)
	s.shortage.note(a.call.conf.Name, err)
	if err := errors.Join(unknownPools(err, conf.IPAM), syncing.Wait()); err != nil {
		return err
	}
	a.take(&a.entry, got)
	a.published = req.With != nil && req.With.Created
	if a.published {
		// Should the machine die now, the store says of the addresses whose they are,
		// as it does of those of every pod that has been running for longer.
		return nil
	}
	return s.journal.Sync() // costs nothing when it was begun above
}

func (a *addition) take(e *journal.Entry, got []ipam.Assignment) {
	for _, assigned := range got {
		e.Addrs = append(e.Addrs, assigned.Addr)
		e.BlockBits = append(e.BlockBits, assigned.Block.Bits())
	}
}

// companion is the endpoint, when nothing speaks against writing it in the
// transaction of its addresses: it is new, and needs no profile of ours first.
func (a *addition) companion() *ipam.Companion {
	c := a.call
	if c.plugin == pluginIPAM || !c.args.IsPod() || !c.conf.PolicyK8s {
		return nil
	}
	if _, _, exists := a.server.state.endpoint(c.endpoint); exists {
		return nil
	}
	entry := a.entry
	return &ipam.Companion{Make: func(got []ipam.Assignment) (api.Key, api.Object) {
		e := entry
		a.take(&e, got)
		a.planned.Store(&e.Addrs)
		return c.endpoint.Key(), a.server.endpoints.newEndpoint(c, e)
	}}
}

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

// errNotAssigned: the wiring ends because the assignment failed.
var errNotAssigned = errors.New("no addresses")

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
	return podnet.Attachment{
		Netns: a.entry.Netns, IfName: a.entry.IfName, HostIf: a.entry.HostIf, MAC: a.entry.MAC, Addrs: a.entry.Addrs,
		MTU: mtu, NumQueues: a.call.conf.NumQueues, AllowIPForwarding: a.call.conf.AllowIPForwarding,
		FromLoopback: len(a.entry.HostPorts) > 0, ManySources: a.manySources(),
	}
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

func (a *addition) route(ctx context.Context) error {
	a.routed = true // or may be, from here on
	if a.known {
		return a.server.routes.Mend(ctx, a.dataplaneEndpoint(), a.link)
	}
	return a.server.routes.Upsert(ctx, a.dataplaneEndpoint(), a.link)
}

func (a *addition) dataplaneEndpoint() calc.Endpoint {
	addrs := slices.Clone(a.entry.Addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	return calc.Endpoint{ID: a.call.endpoint, ContainerID: a.entry.ContainerID, Interface: a.entry.HostIf, Addrs: addrs, Limits: a.limits()}
}

// limits are those of the pod's traffic: of a new one as it asks for them, later as they
// stand in its endpoint. What can't be read there is told by the dataplane.
func (a *addition) limits() *api.QoSControls {
	if !a.known {
		return a.call.conf.Limits
	}
	_, wep, seen := a.server.state.endpoint(a.call.endpoint)
	if !seen || wep.Spec.ContainerID != a.entry.ContainerID { // not yet
		limits, _ := a.askedLimits()
		return limits
	}
	limits, _ := qos.Complete(wep.Spec.QoSControls)
	return limits
}

func (a *addition) unroute(ctx context.Context) error {
	err := a.server.routes.Remove(ctx, a.call.endpoint, a.entry.ContainerID)
	a.routed = err != nil
	return err
}

// finish makes the attachment count. It need not be durable: without it a
// restarted felix takes the attachment back, and after the death of the machine
// there is none.
func (a *addition) finish(context.Context) error {
	a.entry.State = journal.StateAttached
	return a.server.journal.Put(a.entry)
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
