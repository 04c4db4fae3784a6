package cniserver

import (
	"context"
	"net/netip"
	"strings"

	"tortie/felix/cniserver/netconf"
	"tortie/felix/hostports"
	"tortie/felix/journal"
	"tortie/internal/api"
)

// remembered is the form of a configuration's host ports in the journal.
func remembered(ports []netconf.HostPort) []journal.HostPort {
	var out []journal.HostPort
	for _, p := range ports {
		out = append(out, journal.HostPort(p))
	}
	return out
}

// mappings are what the host ports of an entry lead to: of each family the pod's first
// address, where the port isn't bound to the other one.
func mappings(e journal.Entry) []hostports.Mapping {
	var out []hostports.Mapping
	for _, p := range e.HostPorts {
		var done4, done6 bool
		for _, addr := range e.Addrs {
			done := &done4
			if addr.Is6() {
				done = &done6
			}
			if *done || p.HostIP.IsValid() && p.HostIP.Is4() != addr.Is4() {
				continue
			}
			*done = true
			m := hostports.Mapping{Protocol: p.Protocol, HostIP: p.HostIP, HostPort: p.HostPort, Pod: addr, Port: p.Port}
			if p.HostIP.IsUnspecified() {
				m.HostIP = netip.Addr{} // all of the family
			}
			out = append(out, m)
		}
	}
	return out
}

// portOwner is by what an attachment's ports are known. An endpoint in the datastore
// doesn't say its network.
func portOwner(e journal.Entry) string { return e.ContainerID + "/" + e.IfName }

// restoreHostPorts declares those of an attachment that an earlier felix made.
func (s *Server) restoreHostPorts(e journal.Entry) {
	if len(e.HostPorts) > 0 {
		s.hostPorts.Set(portOwner(e), mappings(e))
	}
}

// InSync is called once the datastore has been read: pods that the journal doesn't
// know, because it was lost or another system attached them, have their ports by their
// endpoints.
func (s *Server) InSync(ctx context.Context) error {
	journaled := map[string]bool{}
	for _, e := range s.journal.Entries() {
		journaled[portOwner(e)] = true
	}
	for _, wep := range s.state.own() {
		e := journal.Entry{
			ID:    journal.ID{ContainerID: wep.Spec.ContainerID, IfName: wep.Spec.Endpoint},
			Addrs: addressesOf(wep), HostPorts: portsOf(wep),
		}
		if !journaled[portOwner(e)] {
			s.restoreHostPorts(e)
		}
	}
	s.hostPorts.InSync()
	return s.hostPorts.Apply(ctx)
}

// portsOf are the ports of the node that an endpoint has.
func portsOf(wep *api.WorkloadEndpoint) []journal.HostPort {
	var out []journal.HostPort
	for _, p := range wep.Spec.Ports {
		protocol := strings.ToLower(p.Protocol.String())
		if p.HostPort == 0 || protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
			continue
		}
		addr, err := netip.ParseAddr(p.HostIP)
		if err != nil && p.HostIP != "" {
			continue
		}
		out = append(out, journal.HostPort{Protocol: protocol, HostIP: addr, HostPort: p.HostPort, Port: p.Port})
	}
	return out
}

func (a *addition) mapPorts(ctx context.Context) error {
	s, owner := a.server, portOwner(a.entry)
	wanted := mappings(a.entry)
	for _, m := range wanted {
		if other, taken := s.hostPorts.Takes(owner, m); taken {
			s.log.Warn("a port of the node leads to a newer pod from now on", "port", m.HostPort, "protocol", m.Protocol, "attachment", owner, "was", other)
		}
	}
	s.hostPorts.Set(owner, wanted)
	return s.hostPorts.Apply(ctx)
}

func (a *addition) unmapPorts(ctx context.Context) error { return a.server.unmapPorts(ctx, a.entry) }

func (s *Server) unmapPorts(ctx context.Context, e journal.Entry) error {
	if len(e.HostPorts) == 0 {
		return nil
	}
	s.hostPorts.Remove(portOwner(e))
	return s.hostPorts.Apply(ctx)
}
