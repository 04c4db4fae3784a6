package calc

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/qos"
)

// maxInterfaceName is the longest name of a device: IFNAMSIZ less its end mark.
const maxInterfaceName = 15

// candidate is one WorkloadEndpoint of this node as it stands in the datastore:
// an Endpoint, or why it isn't one.
type candidate struct {
	endpoint Endpoint
	created  time.Time
	labels   map[string]string
	err      error
	// limitErr says why its limits are none.
	limitErr error
}

// endpoints collects this node's WorkloadEndpoints.
type endpoints struct {
	node  string
	byID  map[EndpointID]candidate
	local string // how names of this node's endpoints start
}

func newEndpoints(node string) endpoints {
	return endpoints{
		node:  node,
		byID:  map[EndpointID]candidate{},
		local: api.WorkloadEndpointsOfNode(node),
	}
}

// update reports whether it was about an endpoint of this node.
func (e *endpoints) update(u datastore.SyncUpdate) bool {
	id := EndpointID{Namespace: u.Key.Namespace, Name: u.Key.Name}
	_, was := e.byID[id]
	delete(e.byID, id)
	switch {
	case u.Entry != nil:
		wep, ok := u.Entry.Object.(*api.WorkloadEndpoint)
		if !ok || wep.Spec.Node != e.node {
			break
		}
		ep, err := parseEndpoint(id, &wep.Spec)
		c := candidate{created: wep.CreationTimestamp.UTC(), labels: wep.Labels, err: err}
		ep.Limits, c.limitErr = qos.Complete(wep.Spec.QoSControls)
		c.endpoint = ep
		e.byID[id] = c
	case u.Invalid != nil:
		// spec.node can't be read: the name alone says whose it is.
		if e.namedHere(id.Name) {
			e.byID[id] = candidate{endpoint: Endpoint{ID: id}, err: u.Invalid.Err}
		}
	}
	_, is := e.byID[id]
	return was || is
}

func (e *endpoints) labelsOf(id EndpointID) map[string]string { return e.byID[id].labels }

// namedHere reports whether an endpoint's name starts with this node's name. A
// hyphen within a segment is doubled, so that "node-1-…" is node "node", never
// node "node-1".
func (e *endpoints) namedHere(name string) bool {
	rest, ok := strings.CutPrefix(name, e.local)
	return ok && !strings.HasPrefix(rest, "-")
}

// resolve decides between endpoints that claim the same interface or address:
// the one created last wins, since the allocator gave it the address when the
// older was gone; at the same second the lower ID. hold is State.HoldDevices.
func (e *endpoints) resolve(problems *problemList) (won map[EndpointID]Endpoint, hold bool) {
	won = make(map[EndpointID]Endpoint, len(e.byID))
	byInterface := make(map[string]EndpointID, len(e.byID))
	byAddr := make(map[netip.Addr]EndpointID, len(e.byID))
	byFloating := map[netip.Addr]EndpointID{}
	for _, c := range e.ranked() {
		ep := c.endpoint
		if c.err != nil {
			problems.add(ep.ID.Key(), "%v; its pod has no route until this is corrected", c.err)
			hold = true
			continue
		}
		if owner, taken := byInterface[ep.Interface]; taken {
			problems.add(ep.ID.Key(), "interface %s belongs to the newer %s; delete the one whose pod is gone",
				ep.Interface, owner.Key())
			continue
		}
		byInterface[ep.Interface] = ep.ID
		free := make([]netip.Addr, 0, len(ep.Addrs))
		for _, a := range ep.Addrs {
			if owner, taken := byAddr[a]; taken {
				problems.add(ep.ID.Key(), "address %s belongs to the newer %s; delete the one whose pod is gone",
					a, owner.Key())
				continue
			}
			byAddr[a] = ep.ID
			free = append(free, a)
		}
		ep.Addrs = free
		if c.limitErr != nil {
			problems.add(ep.ID.Key(), "spec.qosControls.%v; its pod is not limited until this is corrected", c.limitErr)
		}
		ep.Floating = slices.DeleteFunc(slices.Clone(ep.Floating), func(f Floating) bool {
			owner, taken := byFloating[f.External]
			if taken {
				problems.add(ep.ID.Key(), "floating address %s belongs to the newer %s; take it out of one of the two", f.External, owner.Key())
			} else {
				byFloating[f.External] = ep.ID
			}
			return taken
		})
		won[ep.ID] = ep
	}
	return won, hold
}

// ranked lists the candidates, the stronger claim first.
func (e *endpoints) ranked() []candidate {
	list := make([]candidate, 0, len(e.byID))
	for _, c := range e.byID {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(b.created.Compare(a.created), a.endpoint.ID.compare(b.endpoint.ID))
	})
	return list
}

func parseEndpoint(id EndpointID, spec *api.WorkloadEndpointSpec) (Endpoint, error) {
	ep := Endpoint{ID: id, ContainerID: spec.ContainerID, Interface: spec.InterfaceName}
	err := checkInterface(spec.InterfaceName)
	if err != nil {
		return ep, err
	}
	for _, s := range spec.IPNetworks {
		a, err := parseHost(s)
		if err != nil {
			return ep, fmt.Errorf("spec.ipNetworks: %w", err)
		}
		ep.Addrs = append(ep.Addrs, a)
	}
	slices.SortFunc(ep.Addrs, netip.Addr.Compare)
	ep.Addrs = slices.Compact(ep.Addrs)
	if ep.Sources, err = parseSources(spec); err == nil {
		ep.Floating, err = parseFloating(spec)
	}
	return ep, err
}

func checkInterface(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("spec.interfaceName is empty")
	case len(name) > maxInterfaceName:
		return fmt.Errorf("spec.interfaceName %q is longer than %d characters", name, maxInterfaceName)
	case !strings.HasPrefix(name, InterfacePrefix) || len(name) == len(InterfacePrefix):
		return fmt.Errorf("spec.interfaceName %q does not start with %q", name, InterfacePrefix)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r > '~' }):
		return fmt.Errorf("spec.interfaceName %q is not the name of a device", name)
	}
	return nil
}

// parseHost reads a workload's address: an address, or a prefix of full length.
func parseHost(s string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return usableHost(a)
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is not an address", s)
	}
	if !p.IsSingleIP() {
		return netip.Addr{}, fmt.Errorf("%s: want a single address, /32 or /128", s)
	}
	return usableHost(p.Addr())
}

func usableHost(a netip.Addr) (netip.Addr, error) {
	a = a.Unmap()
	if a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return netip.Addr{}, fmt.Errorf("%s: a pod can't have this address", a)
	}
	return a, nil
}
