package cniserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"tortie/internal/rawjson"
)

// The next hops of every pod, and the address of every node's end.
const (
	gateway4 = "169.254.1.1"
	gateway6 = "fe80::ecee:eeff:feee:eeee"
	hostMAC  = "ee:ee:ee:ee:ee:ee"
)

// result is the answer to ADD, in the version asked for: what plugins before us in the
// chain made, and ours.
func (a *addition) result() (json.RawMessage, error) {
	if out, ok := a.plainResult(); ok {
		return out, nil
	}
	r := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, DNS: a.dns()}
	if a.call.plugin == pluginIPAM {
		a.addIPAMResult(r)
	} else {
		a.addPodResult(r)
	}
	if before := a.call.before(); before != nil {
		r = chained(before, r)
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

// plainResult is the result of a pod in the newest version of CNI, without going
// through the library's types: it is what nearly every pod waits for. A test
// compares the two. It is false for everything else.
func (a *addition) plainResult() (json.RawMessage, bool) {
	dns := a.dns()
	if a.call.plugin == pluginIPAM || a.call.before() != nil || a.call.conf.CNIVersion != types100.ImplementedSpecVersion || !dns.IsEmpty() {
		return nil, false
	}
	e := a.entry
	out := make([]byte, 0, 512)
	out = rawjson.AppendString(append(out, `{"cniVersion":`...), types100.ImplementedSpecVersion)
	out = strconv.AppendInt(append(out, `,"interfaces":[{"mac":"`+hostMAC+`","mtu":`...), int64(e.MTU), 10)
	out = rawjson.AppendString(append(out, `,"name":`...), e.HostIf)
	out = rawjson.AppendString(append(out, `},{"mac":`...), e.MAC)
	out = strconv.AppendInt(append(out, `,"mtu":`...), int64(e.MTU), 10)
	out = rawjson.AppendString(append(out, `,"name":`...), e.IfName)
	out = rawjson.AppendString(append(out, `,"sandbox":`...), e.Netns)
	out = append(out, `}],"ips":`...)
	var routes []byte
	for i, addr := range e.Addrs {
		gw, dst := gateway4, "0.0.0.0/0"
		if addr.Is6() {
			gw, dst = gateway6, "::/0"
		}
		out = netip.PrefixFrom(addr, addr.BitLen()).AppendTo(append(append(out, separator(i)), `{"address":"`...))
		out = append(out, `","gateway":"`+gw+`","interface":1}`...)
		if route := `{"dst":"` + dst + `","gw":"` + gw + `"}`; !bytes.Contains(routes, []byte(route)) {
			routes = append(append(routes, separator(len(routes))), route...)
		}
	}
	out = append(append(out, `],"routes":`...), routes...)
	return append(out, `]}`...), len(e.Addrs) > 0 && e.MTU > 0
}

// dns is the configuration's, or else what the IPAM plugin said.
func (a *addition) dns() types.DNS {
	dns := a.call.conf.DNS
	if p := a.entry.IPAM; dns.IsEmpty() && p != nil && p.DNS != nil {
		return *p.DNS
	}
	return dns
}

// separator begins a list or goes on with it.
func separator(before int) byte {
	if before == 0 {
		return '['
	}
	return ','
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
