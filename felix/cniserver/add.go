package cniserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"tortie/felix/calc"
	"tortie/felix/cniserver/netconf"
	"tortie/felix/journal"
	"tortie/internal/api"
	"tortie/internal/datastore"
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
		if barred := s.barred(); barred != nil {
			return nil, fmt.Errorf("%w: %w", ipam.ErrNodeUnknown, barred)
		}
		if err := errors.Join(a.heed(), s.fits(c.conf.MTU)); err != nil {
			return nil, err
		}
		s.noteMTU(c.conf.Name, c.conf.MTU)
	}
	if !a.known {
		unlock, err := a.ofNobody(ctx)
		if err != nil {
			return nil, err
		}
		defer unlock()
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
	// blame turns an error about the pools of an IP version into one of the annotation that
	// asks for them; nil where none does.
	blame func(version int, err *netconf.Error) error
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
		if err := s.giveUp(c); err != nil {
			return nil, err
		}
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
	e, ok := s.journal.Get(c.id)
	if ok = ok && e.State == journal.StateAttached; ok {
		var err error
		if ok, err = s.stillHeld(ctx, e); err != nil {
			return nil, err
		}
	}
	if ok {
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

// stillHeld asks whether the addresses of an attachment without an endpoint, which an ADD
// is about to answer again, are its own yet: nothing but its handle says so, and whoever
// finds no container of that name (the collector of addresses, an operator) may have
// released them, and another may have them by now. What is left of them then goes, too.
func (s *Server) stillHeld(ctx context.Context, e journal.Entry) (bool, error) {
	if e.Plugin != pluginIPAM {
		return true, nil
	}
	held, err := s.addresses.ByHandle(ctx, handleOf(e.ID))
	if err != nil {
		return false, fmt.Errorf("are the addresses of the earlier ADD still those of %s: %w", e.ID, err)
	}
	if !slices.ContainsFunc(e.Addrs, func(a netip.Addr) bool { return !slices.Contains(held, a) }) {
		return true, nil
	}
	s.log.Warn("addresses of an attachment were released by somebody else; its repeated ADD gets others", "attachment", e.ID.String(), "addresses", e.Addrs)
	if err := s.releaseAddresses(ctx, e); err != nil {
		return false, fmt.Errorf("release what %s has left of the addresses of its earlier ADD: %w", e.ID, err)
	}
	return false, nil
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
		Avoid:     s.uncarried(),
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
	if err := errors.Join(a.unknownPools(err, conf.IPAM), syncing.Wait()); err != nil {
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

// errNotAssigned: the wiring ends because the assignment failed.
var errNotAssigned = errors.New("no addresses")

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
