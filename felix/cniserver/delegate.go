package cniserver

import (
	"context"
	"errors"

	"tortie/felix/cniserver/netconf"
	"tortie/felix/delegate"
	"tortie/felix/journal"
	"tortie/internal/control/cniwire"
)

// delegateOf is the IPAM plugin of others that a call's configuration names; nil for
// felix itself.
func delegateOf(kind string, req cniwire.Request) (*journal.IPAM, error) {
	if kind == "" || req.Plugin == pluginIPAM {
		return nil, nil
	}
	config, err := netconf.ForDelegate(req.Config)
	if err != nil {
		return nil, err
	}
	return &journal.IPAM{Type: kind, Path: req.Path, Config: string(config), Args: req.Args}, nil
}

// delegateCall is a call of that plugin about an attachment.
func (s *Server) delegateCall(p *journal.IPAM, config []byte, id journal.ID, netns string) (delegate.Call, error) {
	config, err := netconf.WithPodCIDRs(config, s.podCIDRs)
	return delegate.Call{
		Type: p.Type, Path: p.Path, Config: config, Args: p.Args,
		ContainerID: id.ContainerID, IfName: id.IfName, Netns: netns,
	}, err
}

// delegated has another IPAM plugin assign the addresses. What it assigns is on disk,
// so the entry is made durable first.
func (a *addition) delegated(ctx context.Context) error {
	if err := a.server.journal.Sync(); err != nil {
		return err
	}
	call, err := a.server.delegateCall(a.entry.IPAM, []byte(a.entry.IPAM.Config), a.call.id, a.entry.Netns)
	if err != nil {
		return err
	}
	got, err := a.server.ipamPlugins.Add(ctx, call)
	if err != nil {
		return err
	}
	a.entry.Addrs = got.Addrs
	if !got.DNS.IsEmpty() {
		p := *a.entry.IPAM
		p.DNS = &got.DNS
		a.entry.IPAM = &p
	}
	return a.server.journal.Put(a.entry)
}

// delegatedRelease has the plugin release what it assigned. One that is not there can't
// have assigned anything to an attachment without an address; nor is one waited for that
// was given up.
func (s *Server) delegatedRelease(ctx context.Context, e journal.Entry) error {
	if !netconf.CanAssign(e.IPAM.Type) {
		return nil // of a felix that took any name
	}
	call, err := s.delegateCall(e.IPAM, []byte(e.IPAM.Config), e.ID, e.Netns)
	if err != nil {
		return err
	}
	if err = s.ipamPlugins.Do(ctx, "DEL", call); err == nil {
		return nil
	}
	if _, missing := errors.AsType[*delegate.MissingError](err); missing && (len(e.Addrs) == 0 || e.IPAM.GivenUp) {
		if len(e.Addrs) > 0 {
			s.log.Warn("an IPAM plugin is gone and no longer named: what it assigned is forgotten here, and stands in its own files at most", "attachment", e.String(), "plugin", e.IPAM.Type, "addresses", e.Addrs)
		}
		return nil
	}
	return &pluginError{e.IPAM.Type, err}
}

// forward hands CHECK, GC or STATUS on to the call's IPAM plugin, if that is another's.
func (s *Server) forward(ctx context.Context, c call) error {
	if c.delegate == nil {
		return nil
	}
	call, err := s.delegateCall(c.delegate, c.raw, c.id, c.netns) // raw: with GC's list, and the result for CHECK
	if err != nil {
		return err
	}
	return s.ipamPlugins.Do(ctx, c.command, call)
}

// delegateStatus is why the IPAM plugin would not serve an ADD.
func (s *Server) delegateStatus(ctx context.Context, c call) error {
	err := s.forward(ctx, c)
	if err == nil {
		return nil
	}
	told, ok := errors.AsType[*cniwire.Error](err)
	if !ok {
		return &cniwire.Error{Code: cniwire.CodeNotAvailable, Msg: err.Error()}
	}
	if told.Code == cniwire.CodeLimitedConnectivity {
		return told
	}
	return &cniwire.Error{Code: cniwire.CodeNotAvailable, Msg: told.Msg, Details: told.Details}
}
