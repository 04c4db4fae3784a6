package cniserver

import (
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// oldestChained is the first version of CNI that has chains.
const oldestChained = "0.3.0"

// before is the result of the plugins that come before this one in its chain; nil for
// none. An IPAM plugin that a main plugin runs gets that one's: what came before is not
// its to answer, for the main plugin takes all that it answers for its own.
func (c call) before() *types100.Result {
	if c.conf.PrevResult == nil || c.plugin == pluginIPAM {
		return nil
	}
	if has, err := version.GreaterThanOrEqualTo(c.conf.CNIVersion, oldestChained); err != nil || !has {
		return nil
	}
	return c.conf.PrevResult
}

// chained is the result of the plugins before with ours behind it, as CNI wants it of
// every plugin that is not the first. What of ours stands there already, because the
// runtime hands over the result of an earlier ADD, is not there twice. Neither of the
// two results is changed.
func chained(before, ours *types100.Result) *types100.Result {
	r := &types100.Result{
		CNIVersion: ours.CNIVersion, Interfaces: slices.Clone(before.Interfaces), IPs: slices.Clone(before.IPs),
		Routes: slices.Clone(before.Routes), DNS: bothDNS(before.DNS, ours.DNS),
	}
	at := make([]int, len(ours.Interfaces)) // where ours stand in the whole
	for i, iface := range ours.Interfaces {
		at[i] = slices.IndexFunc(r.Interfaces, func(have *types100.Interface) bool {
			return have.Name == iface.Name && have.Sandbox == iface.Sandbox
		})
		if at[i] < 0 {
			at[i] = len(r.Interfaces)
			r.Interfaces = append(r.Interfaces, iface)
			continue
		}
		r.Interfaces[at[i]] = iface
	}
	for _, ip := range ours.IPs {
		moved := ip.Copy()
		if moved.Interface != nil {
			*moved.Interface = at[*moved.Interface]
		}
		if !slices.ContainsFunc(r.IPs, func(have *types100.IPConfig) bool { return sameAddress(have, moved) }) {
			r.IPs = append(r.IPs, moved)
		}
	}
	for _, route := range ours.Routes {
		if !slices.ContainsFunc(r.Routes, func(have *types.Route) bool {
			return have.Dst.String() == route.Dst.String() && have.GW.Equal(route.GW)
		}) {
			r.Routes = append(r.Routes, route)
		}
	}
	return r
}

func sameAddress(a, b *types100.IPConfig) bool {
	onOne := a.Interface != nil && b.Interface != nil && *a.Interface == *b.Interface
	return onOne && a.Address.String() == b.Address.String()
}

// bothDNS asks the servers of both, the first one's first; its domain counts.
func bothDNS(first, second types.DNS) types.DNS {
	out := types.DNS{
		Nameservers: union(first.Nameservers, second.Nameservers), Domain: first.Domain,
		Search: union(first.Search, second.Search), Options: union(first.Options, second.Options),
	}
	if out.Domain == "" {
		out.Domain = second.Domain
	}
	return out
}

func union(first, second []string) []string {
	out := slices.Clone(first)
	for _, s := range second {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
