package calc

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"tortie/internal/api"
)

// parseSources reads what a workload may send from besides its own addresses.
func parseSources(spec *api.WorkloadEndpointSpec) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range spec.AllowSpoofedSourcePrefixes {
		p, err := parseInterfaceAddr(text)
		if err != nil {
			return nil, fmt.Errorf("spec.allowSpoofedSourcePrefixes: %q is not a prefix such as 192.0.2.0/24", text)
		}
		out = append(out, p.Masked())
	}
	return sortedPrefixes(out), nil
}

// parseFloating reads which other addresses lead to a workload's own.
func parseFloating(spec *api.WorkloadEndpointSpec) ([]Floating, error) {
	var out []Floating
	for _, nat := range spec.IPNATs {
		external, err := parseHost(nat.ExternalIP)
		if err != nil {
			return nil, fmt.Errorf("spec.ipNATs.externalIP: %w", err)
		}
		internal, err := parseHost(nat.InternalIP)
		if err != nil {
			return nil, fmt.Errorf("spec.ipNATs.internalIP: %w", err)
		}
		out = append(out, Floating{External: external, Internal: internal})
	}
	slices.SortFunc(out, func(a, b Floating) int { return a.External.Compare(b.External) })
	return slices.CompactFunc(out, func(a, b Floating) bool { return a.External == b.External }), nil
}

// Permit says what endpoints may have besides their own addresses.
type Permit struct {
	Sources  bool // workloadSourceSpoofing: Any
	Floating bool // floatingIPs: Enabled
}

// Restrict takes from every endpoint what is not permitted, or can't be carried out, and
// says so in Problems. An endpoint keeps everything else.
func (s *State) Restrict(permit Permit) {
	asks := false
	for _, ep := range s.Endpoints { // of hundreds, with every pod
		asks = asks || len(ep.Sources) > 0 || len(ep.Floating) > 0
	}
	if !asks {
		return
	}
	problems := problemList(s.Problems)
	own := map[netip.Addr]EndpointID{}
	for id, ep := range s.Endpoints {
		for _, a := range ep.Addrs {
			own[a] = id
		}
	}
	for id, ep := range s.Endpoints {
		if len(ep.Sources) == 0 && len(ep.Floating) == 0 {
			continue
		}
		if err := refuseSources(ep, permit); err != nil {
			problems.add(id.Key(), "spec.allowSpoofedSourcePrefixes: %v; its pod may send from its own addresses alone", err)
			ep.Sources = nil
		}
		var floating []Floating
		for _, f := range ep.Floating {
			if err := s.refuseFloating(ep, f, own, permit); err != nil {
				problems.add(id.Key(), "spec.ipNATs: %v; the address leads nowhere", err)
				continue
			}
			floating = append(floating, f)
		}
		ep.Floating = floating
		s.Endpoints[id] = ep
	}
	s.Problems = problems.sorted()
}

func refuseSources(ep Endpoint, permit Permit) error {
	switch {
	case len(ep.Sources) == 0:
		return nil
	case !permit.Sources:
		return ErrSourcesForbidden
	case strings.Trim(strings.ToLower(ep.Interface), "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "":
		return fmt.Errorf("interface %q has characters in its name that packet rules can't match; use letters and digits", ep.Interface)
	}
	return nil
}

// Why an endpoint does not have what it asks for. What to do stands in each.
var (
	ErrSourcesForbidden  = errors.New("sending from other addresses is forbidden; set workloadSourceSpoofing: Any in the FelixConfiguration")
	ErrFloatingForbidden = errors.New("floating addresses are disabled; set floatingIPs: Enabled in the FelixConfiguration")
)

func (s *State) refuseFloating(ep Endpoint, f Floating, own map[netip.Addr]EndpointID, permit Permit) error {
	if !permit.Floating {
		return ErrFloatingForbidden
	}
	if !slices.Contains(ep.Addrs, f.Internal) {
		return fmt.Errorf("%s leads to %s, which is no address of this endpoint", f.External, f.Internal)
	}
	if f.External.Is4() != f.Internal.Is4() {
		return fmt.Errorf("%s leads to %s, which is of the other IP version", f.External, f.Internal)
	}
	if other, taken := own[f.External]; taken {
		return fmt.Errorf("%s is the own address of %s; choose another", f.External, other.Key())
	}
	return RefuseFloating(f.External, s)
}

// RefuseFloating says why no pod of the node with that State can have a floating address,
// and what to do; nil when one can.
func RefuseFloating(a netip.Addr, s *State) error {
	if !slices.ContainsFunc(s.Pools, func(pool netip.Prefix) bool { return pool.Contains(a) }) {
		return fmt.Errorf("%s lies in no IP pool; choose an address of a pool, or make a pool for floating addresses", a)
	}
	if slices.ContainsFunc(s.Nodes, func(p netip.Prefix) bool { return p.Addr() == a }) {
		return fmt.Errorf("%s is the address of a node; choose another", a)
	}
	for _, p := range s.NodeAddrs {
		if p.Contains(a) {
			return fmt.Errorf("%s lies in this node's own network %s; choose another", a, p.Masked())
		}
	}
	return nil
}
