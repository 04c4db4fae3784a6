package cniserver

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"tortie/felix/cniserver/netconf"
	"tortie/felix/journal"
	"tortie/internal/datastore"
	"tortie/ipam"
)

// The pace of the releaser.
const (
	retryMin         = 200 * time.Millisecond
	retryMax         = 5 * time.Second
	releaseTimeout   = 30 * time.Second
	parallelReleases = 32 // ipam puts what runs at once into shared transactions
)

// releaser carries out in the background what a DEL or the undoing of an ADD
// left to do, and keeps at it until the datastore has it. An address is released
// only when its route and device are gone.
type releaser struct {
	server *Server
	log    *slog.Logger
	slots  chan struct{}

	mu      sync.Mutex
	pending map[journal.ID]*release
	// work is closed and replaced when there is more to do.
	work chan struct{}
}

// release is one entry on its way out.
type release struct {
	started bool
	settled chan struct{} // closed when done
	wake    chan struct{} // has the next try begin at once; capacity 1
	failure error         // of the last try; nil for none
	failed  chan struct{} // closed and replaced when a try has failed
}

func newReleaser(s *Server) *releaser {
	return &releaser{
		server: s, log: s.log, slots: make(chan struct{}, parallelReleases),
		pending: map[journal.ID]*release{}, work: make(chan struct{}),
	}
}

// take writes the entry as releasing and starts on it. The caller syncs the
// journal if it promises durability.
func (r *releaser) take(e journal.Entry) error {
	if err := r.server.journal.Put(e); err != nil {
		return err
	}
	r.enqueue(e.ID)
	return nil
}

func (r *releaser) enqueue(id journal.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pending[id]; p != nil {
		p.poke()
		return
	}
	r.pending[id] = &release{settled: make(chan struct{}), wake: make(chan struct{}, 1), failed: make(chan struct{})}
	close(r.work)
	r.work = make(chan struct{})
}

// poke has the next try begin at once.
func (p *release) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// settle waits until nothing of an earlier attachment with this ID is left, and has it
// tried now. It does not wait for a plugin that fails.
func (r *releaser) settle(ctx context.Context, id journal.ID) error {
	p, failed, _ := r.progress(id)
	if p == nil {
		return nil
	}
	p.poke()
	for {
		select {
		case <-p.settled:
			return nil
		case <-failed:
			var err error
			if _, failed, err = r.progress(id); isPlugins(err) {
				return waiting(id, err)
			}
		case <-ctx.Done():
			_, _, err := r.progress(id)
			return waiting(id, err)
		}
	}
}

func isPlugins(err error) bool {
	_, ok := errors.AsType[*pluginError](err)
	return ok
}

// progress is how far a release has come; nil when there is none.
func (r *releaser) progress(id journal.ID) (p *release, failed <-chan struct{}, failure error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p = r.pending[id]; p == nil {
		return nil, nil, nil
	}
	return p, p.failed, p.failure
}

// leave hands a release to who runs next.
func (r *releaser) leave(p *release) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.started = false
	close(r.work)
	r.work = make(chan struct{})
}

// poke has the release of an attachment be tried at once, if there is one.
func (r *releaser) poke(id journal.ID) {
	if p, _, _ := r.progress(id); p != nil {
		p.poke()
	}
}

// note takes in how a try ended that did not end the release.
func (r *releaser) note(id journal.ID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pending[id]
	p.failure = err
	close(p.failed)
	p.failed = make(chan struct{})
}

func (r *releaser) isPending(id journal.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pending[id] != nil
}

// count is the number of entries not settled yet.
func (r *releaser) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pending)
}

// run works until ctx ends. What is left is in the journal.
func (r *releaser) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		r.mu.Lock()
		work := r.work
		var todo []journal.ID
		for id, p := range r.pending {
			if !p.started {
				p.started = true
				todo = append(todo, id)
			}
		}
		r.mu.Unlock()
		for _, id := range todo {
			wg.Go(func() { r.finish(ctx, id) })
		}
		select {
		case <-work:
		case <-ctx.Done():
			return
		}
	}
}

// finish tries until the entry is settled, more and more seldom, and at once
// when the datastore has come back, or a call wants it.
func (r *releaser) finish(ctx context.Context, id journal.ID) {
	p, _, _ := r.progress(id)
	pause, said := retryMin, ""
	for {
		changed := r.server.state.Changed()
		done, err := r.attempt(ctx, id)
		if done && said != "" {
			r.log.Info("an attachment whose release had failed is released", "attachment", id.String())
		}
		switch {
		case done:
			return
		case ctx.Err() != nil:
			r.leave(p)
			return
		}
		r.note(id, err)
		longest := retryMax
		if isPlugins(err) {
			longest = pluginRetryMax
		}
		if err != nil && !errors.Is(err, errUnknownOwner) && err.Error() != said { // once, however long it lasts
			said = err.Error()
			r.log.Warn("releasing an attachment failed; it is tried again until it succeeds", "attachment", id.String(), "err", err)
		}
		if sleep(ctx, pause, changed, p.wake) {
			pause = min(2*pause, longest)
		} else {
			pause = retryMin
		}
	}
}

// attempt carries out what is left of one entry. It is not done without an error
// while the datastore is away.
func (r *releaser) attempt(ctx context.Context, id journal.ID) (done bool, err error) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	if done, err := r.server.finishRelease(ctx, id); !done {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.server.journal.Get(id); ok && e.State == journal.StateReleasing {
		return false, nil // another DEL came meanwhile and counts on this release
	}
	close(r.pending[id].settled)
	delete(r.pending, id)
	return true, nil
}

// finishRelease does what is left of an entry that is being released.
func (s *Server) finishRelease(ctx context.Context, id journal.ID) (done bool, err error) {
	e, ok := s.journal.Get(id)
	if !ok || e.State != journal.StateReleasing {
		return true, nil
	}
	if !e.Detached {
		if err := s.detachLocked(ctx, &e); err != nil {
			return false, err
		}
	}
	if !s.state.usable() {
		return false, nil // tried again when the datastore is there
	}
	if err := s.forget(ctx, e); err != nil {
		return false, err
	}
	if err := s.journal.Drop(id); err != nil {
		return false, err
	}
	return true, nil
}

func (s *Server) detachLocked(ctx context.Context, e *journal.Entry) error {
	unlock, err := s.lockEndpoint(ctx, lockKeyOf(*e), e.ID)
	if err != nil {
		return err
	}
	defer unlock()
	return s.detach(ctx, e)
}

// errUnknownOwner says that nobody can tell yet whose a device is: felix didn't
// make it since it keeps a journal, and has not read the datastore.
var errUnknownOwner = errors.New("whose device it is will be known when the datastore has been read")

// detach takes an attachment's route and device away, unless they are by now
// those of a newer sandbox of the same pod. It notes in e that it has. The caller
// holds the endpoint's lock.
func (s *Server) detach(ctx context.Context, e *journal.Entry) error {
	if e.Plugin == pluginIPAM {
		e.Detached = true
		return nil
	}
	fromJournal := e.MAC != ""
	ownName := e.HostIf == hostInterface(netconf.Args{}, e.ID) // no other container's can have it
	if !fromJournal && !ownName && !s.state.InSync() {
		return errUnknownOwner
	}
	if _, wep, ok := s.state.endpoint(endpointOf(*e)); !fromJournal && ok && wep.Spec.ContainerID == e.ContainerID {
		e.HostIf = wep.Spec.InterfaceName
	}
	err := errors.Join(s.unmapPorts(ctx, *e), s.routes.Remove(ctx, endpointOf(*e), e.ContainerID))
	if s.ownsDevice(*e) {
		err = errors.Join(err, s.removeDevice(ctx, e.HostIf))
	}
	e.Detached = err == nil
	return err
}

// ownsDevice reports whether the host end of the veth pair is this attachment's:
// another sandbox of the same pod has one of the same name.
func (s *Server) ownsDevice(e journal.Entry) bool {
	if e.HostIf == "" {
		return false // taken over by a newer sandbox
	}
	others := s.journal.Find(func(other journal.Entry) bool {
		return other.HostIf == e.HostIf && other.ID != e.ID && other.State != journal.StateReleasing
	})
	if len(others) > 0 {
		return false
	}
	if e.MAC != "" {
		return true // the journal knows of every sandbox since this one
	}
	_, wep, ok := s.state.endpoint(endpointOf(e))
	return !ok || wep.Spec.ContainerID == e.ContainerID || wep.Spec.InterfaceName != e.HostIf
}

// takeOver notes that a device's name belongs to e by now: the devices of that
// name of earlier sandboxes are gone.
func (s *Server) takeOver(e journal.Entry) error {
	others := s.journal.Find(func(other journal.Entry) bool {
		return other.HostIf == e.HostIf && other.ID != e.ID && other.State != journal.StateReleasing
	})
	for _, other := range others {
		other.HostIf = ""
		if err := s.journal.Put(other); err != nil {
			return err
		}
	}
	return nil
}

// forget removes the endpoint and releases the addresses, in this order: an
// address that is assigned again never stands in two endpoints.
func (s *Server) forget(ctx context.Context, e journal.Entry) error {
	if e.Plugin == pluginIPAM {
		return s.releaseAddresses(ctx, e)
	}
	id := endpointOf(e)
	known, _, _ := s.state.endpoint(id)
	if err := s.endpoints.remove(ctx, id, e.ContainerID, known); err != nil {
		return err
	}
	if err := s.releaseAddresses(ctx, e); err != nil || isOf(known, e.ContainerID) {
		return err
	}
	// An ADD that ran out of time may have had the endpoint under way, together with
	// the addresses: that is settled now that these are released.
	return s.endpoints.remove(ctx, id, e.ContainerID, datastore.Entry{})
}

func (s *Server) releaseAddresses(ctx context.Context, e journal.Entry) error {
	if e.Given {
		return nil
	}
	if e.IPAM != nil {
		return s.delegatedRelease(ctx, e)
	}
	if s.handleShared(e) {
		return nil // released with the last interface of the container
	}
	ctx = ipam.WithReason(ctx, "its attachment ended: CNI DEL, or an ADD undone")
	if _, err := s.addresses.ReleaseByHandle(ctx, handleOf(e.ID)); err != nil {
		return err
	}
	if len(e.BlockBits) > 0 {
		return nil // assigned here, under no other handle
	}
	_, err := s.addresses.ReleaseByHandle(ctx, legacyHandleOf(e.ID))
	return err
}

// handleShared reports whether another interface of the same container in the
// same network lives on: a handle has no interface in it.
func (s *Server) handleShared(e journal.Entry) bool {
	return len(s.journal.Find(func(other journal.Entry) bool {
		return other.Network == e.Network && other.ContainerID == e.ContainerID && other.IfName != e.IfName &&
			other.State != journal.StateReleasing
	})) > 0
}
