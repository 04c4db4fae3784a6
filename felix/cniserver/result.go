package cniserver

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// The next hops of every pod, and the address of every node's end.
const (
	gateway4 = "169.254.1.1"
	gateway6 = "fe80::ecee:eeff:feee:eeee"
	hostMAC  = "ee:ee:ee:ee:ee:ee"
)

// result is the answer to ADD, in the version asked for.
func (a *addition) result() (json.RawMessage, error) {
	r := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, DNS: a.call.conf.DNS}
	if a.call.plugin == pluginIPAM {
		a.addIPAMResult(r)
	} else {
		a.addPodResult(r)
	}
	var converted types.Result = r
	if v := a.call.conf.CNIVersion; v != r.CNIVersion {
		var err error
		if converted, err = r.GetAsVersion(v); err != nil {
			return nil, fmt.Errorf("result in CNI version %s: %w", v, err)
		}
	}
	out, err := json.Marshal(converted)
	if err != nil {
		return nil, fmt.Errorf("encode result: %w", err)
	}
	return out, nil
}

func (a *addition) addPodResult(r *types100.Result) {
	e := a.entry
	r.Interfaces = []*types100.Interface{
		{Name: e.HostIf, Mac: hostMAC, Mtu: e.MTU},
		{Name: e.IfName, Mac: e.MAC, Mtu: e.MTU, Sandbox: e.Netns},
	}
	const container = 1 // index into Interfaces
	seen4, seen6 := false, false
	for _, addr := range e.Addrs {
		gw, dst, seen := gateway4, netip.PrefixFrom(netip.IPv4Unspecified(), 0), &seen4
		if addr.Is6() {
			gw, dst, seen = gateway6, netip.PrefixFrom(netip.IPv6Unspecified(), 0), &seen6
		}
		index := container
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: &index, Address: ipNet(netip.PrefixFrom(addr, addr.BitLen())), Gateway: net.ParseIP(gw)})
		if !*seen {
			*seen = true
			r.Routes = append(r.Routes, &types.Route{Dst: ipNet(dst), GW: net.ParseIP(gw)})
		}
	}
}

// addIPAMResult gives the addresses with the length of their block, as a main
// plugin that puts them on a shared segment needs it.
func (a *addition) addIPAMResult(r *types100.Result) {
	for i, addr := range a.entry.Addrs {
		bits := addr.BitLen()
		if i < len(a.entry.BlockBits) {
			bits = a.entry.BlockBits[i]
		}
		r.IPs = append(r.IPs, &types100.IPConfig{Address: ipNet(netip.PrefixFrom(addr, bits))})
	}
}

// ipNet is a prefix in the type of the CNI library, host bits kept.
func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
