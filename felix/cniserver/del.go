package cniserver

import (
	"context"
	"errors"

	"tortie/felix/calc"
	"tortie/felix/journal"
	"tortie/felix/podnet"
)

// del carries out DEL: the route and the device go now, the datastore follows
// when it can. It needs neither the container's namespace nor the datastore, and
// succeeds for what never was.
func (s *Server) del(ctx context.Context, c call) error {
	key := c.lockKey()
	if e, ok := s.journal.Get(c.id); ok {
		key = lockKeyOf(e) // a runtime may leave CNI_ARGS out at DEL
	}
	unlock, err := s.lockEndpoint(ctx, key, c.id)
	if err != nil {
		return err
	}
	defer unlock()
	e, changed := c.givenUp(s.entryToRelease(c))
	if changed && e.State == journal.StateReleasing {
		if err := s.releaser.take(e); err != nil {
			return err
		}
	}
	return s.release(ctx, e)
}

// release detaches what an entry stands for and hands the rest to the releaser.
// The caller holds the endpoint's lock.
func (s *Server) release(ctx context.Context, e journal.Entry) error {
	if e.State == journal.StateReleasing && e.Detached {
		s.releaser.poke(e.ID)
		return s.journal.Sync() // a repeated DEL
	}
	e.State = journal.StateReleasing
	if err := s.detach(ctx, &e); err != nil && !errors.Is(err, errUnknownOwner) {
		// The releaser goes on with it; the address stays assigned until then.
		s.log.Warn("detaching a pod failed; it is tried again", "attachment", e.String(), "iface", e.HostIf, "err", err)
	}
	err := s.releaser.take(e)
	if err == nil {
		err = s.journal.Sync()
	}
	if err == nil {
		return nil
	}
	// Without a journal the datastore must answer now, or the runtime ask again.
	if !e.Detached || s.state.Ready() != nil {
		return err
	}
	if forgetErr := s.forget(ctx, e); forgetErr != nil {
		return errors.Join(err, forgetErr)
	}
	s.journal.Forget(e.ID) // or a repeated ADD would take the address for its own
	s.log.Error("journal can't be written; DEL was finished without it", "attachment", e.String(), "err", err)
	return nil
}

// entryToRelease is what is known of an attachment: from the journal, else from
// the endpoint that upstream's plugin wrote, else by its name.
func (s *Server) entryToRelease(c call) journal.Entry {
	if e, ok := s.journal.Get(c.id); ok {
		return e
	}
	e := journal.Entry{
		ID: c.id, Plugin: c.plugin, Namespace: c.endpoint.Namespace, Endpoint: c.endpoint.Name,
		HostIf: c.hostIf, Netns: c.netns, IPAM: c.delegate,
	}
	if c.plugin == pluginIPAM {
		return e
	}
	if _, wep, ok := s.state.endpoint(c.endpoint); ok && wep.Spec.ContainerID == c.id.ContainerID {
		e.HostIf, e.Addrs, e.HostPorts = wep.Spec.InterfaceName, addressesOf(wep), portsOf(wep)
	}
	return e
}

// removeDevice removes the host end of a veth pair. A name that upstream's plugin
// made of letters that are no hex digits is left to the end of the container's
// namespace, for it can't be told from others' devices.
func (s *Server) removeDevice(ctx context.Context, hostIf string) error {
	if !podnet.IsDeviceName(hostIf) {
		return nil
	}
	return s.pods.Remove(ctx, hostIf)
}

// endpointOf is the ID of an entry's endpoint.
func endpointOf(e journal.Entry) calc.EndpointID {
	return calc.EndpointID{Namespace: e.Namespace, Name: e.Endpoint}
}
