package cniserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"go4.org/netipx"

	"tortie/felix/journal"
	"tortie/felix/podnet"
	"tortie/internal/api"
	"tortie/internal/control/cniwire"
	"tortie/internal/datastore"
	"tortie/internal/kernel"
)

// check carries out CHECK: it compares the attachment with the result of its chain's ADD,
// the pod's namespace, the node's routes, the endpoint and the IPAM records, and
// names every difference. What later plugins of the chain changed or added is none.
func (s *Server) check(ctx context.Context, c call) error {
	unlock, err := s.lockSettled(ctx, c)
	if err != nil {
		return err
	}
	defer unlock()
	a, err := s.addition(ctx, c)
	if err != nil {
		return err
	}
	if !a.known {
		return &cniwire.Error{
			Code: cniwire.CodeUnknownContainer,
			Msg:  fmt.Sprintf("container %s has no interface %s in network %s on this node; run DEL, then ADD", c.id.ContainerID, c.id.IfName, c.id.Network),
		}
	}
	wrong := resultDifferences(a.entry, c.conf.PrevResult)
	if c.plugin == pluginCalico {
		wrong = append(wrong, a.kernelDifferences(ctx)...)
	}
	recorded, err := a.recordDifferences(ctx)
	wrong = append(wrong, recorded...)
	if len(wrong) > 0 {
		return &cniwire.Error{Code: cniwire.CodeInternal, Msg: "CHECK: " + strings.Join(wrong, "; ")}
	}
	return err
}

// kernelDifferences compares with the device, the pod's namespace, the node's routes and
// its packet rules.
func (a *addition) kernelDifferences(ctx context.Context) []string {
	s := a.server
	wrong := lines(nil, s.pods.Check(ctx, a.attachment(), a.told()))
	wrong = append(wrong, lines(s.routes.Check(ctx, a.dataplaneEndpoint()))...)
	if len(a.entry.HostPorts) > 0 {
		wrong = append(wrong, lines(s.hostPorts.Check(ctx))...)
	}
	return wrong
}

// lines are differences and, each in its own, the errors that kept others from being found.
func lines(differences []string, err error) []string {
	if err == nil {
		return differences
	}
	return append(differences, strings.Split(err.Error(), "\n")...)
}

// resultDifferences compares the result with what is known of the attachment: whether it
// is this one's, and says of the node's end what felix keeps there. What it says of the
// pod's side, which later plugins may have changed, is compared with the pod.
func resultDifferences(e journal.Entry, result *types100.Result) []string {
	if result == nil {
		return nil
	}
	var wrong []string
	told := map[netip.Addr]*types100.IPConfig{}
	for _, ip := range result.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			told[addr.Unmap()] = ip
		}
	}
	for _, addr := range e.Addrs {
		ip, ok := told[addr]
		switch {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("the result has no address %s", addr))
		case e.HostIf != "" && !isOn(ip, e.IfName, result.Interfaces):
			wrong = append(wrong, fmt.Sprintf("the result gives %s to interface %d of its list, which is not %s", addr, *ip.Interface, e.IfName))
		}
	}
	if e.HostIf == "" {
		return wrong
	}
	for _, name := range []string{e.HostIf, e.IfName} {
		if !slices.ContainsFunc(result.Interfaces, func(i *types100.Interface) bool { return i.Name == name }) {
			wrong = append(wrong, fmt.Sprintf("the result has no interface %s", name))
		}
	}
	return append(wrong, nodesEndDifferences(e, result.Interfaces)...)
}

// isOn reports whether an address of a result is on the pod's interface, as far as the
// result says.
func isOn(ip *types100.IPConfig, ifName string, interfaces []*types100.Interface) bool {
	if ip.Interface == nil {
		return true
	}
	i := *ip.Interface
	return i >= 0 && i < len(interfaces) && interfaces[i].Name == ifName && interfaces[i].Sandbox != ""
}

func nodesEndDifferences(e journal.Entry, told []*types100.Interface) (wrong []string) {
	i := slices.IndexFunc(told, func(i *types100.Interface) bool { return i.Name == e.HostIf && i.Sandbox == "" })
	if i < 0 {
		return nil
	}
	if mac := told[i].Mac; mac != "" && !strings.EqualFold(mac, hostMAC) {
		wrong = append(wrong, fmt.Sprintf("the result gives %s the MAC address %s instead of %s", e.HostIf, mac, hostMAC))
	}
	if mtu := told[i].Mtu; mtu != 0 && e.MTU != 0 && mtu != e.MTU {
		wrong = append(wrong, fmt.Sprintf("the result gives %s the MTU %d instead of %d", e.HostIf, mtu, e.MTU))
	}
	return wrong
}

// told is what the result says of the pod's side; nil without a result.
func (a *addition) told() *podnet.Told {
	result := a.call.conf.PrevResult
	if result == nil {
		return nil
	}
	told := &podnet.Told{}
	pod := slices.IndexFunc(result.Interfaces, func(i *types100.Interface) bool { return i.Name == a.entry.IfName && i.Sandbox != "" })
	if pod >= 0 {
		told.MAC, told.MTU = result.Interfaces[pod].Mac, result.Interfaces[pod].Mtu
	}
	for _, ip := range result.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if ok && pod >= 0 && ip.Interface != nil && *ip.Interface == pod {
			told.Addrs = append(told.Addrs, addr.Unmap())
		}
	}
	if a.entry.State != journal.StateAttached {
		return told // another system's ADD answered, which may not have told of routes
	}
	told.Routes = []podnet.Hop{}
	for _, r := range result.Routes {
		via, hasVia := netip.AddrFromSlice(r.GW)
		dst, ok := netipx.FromStdIPNet(&r.Dst)
		if ok && hasVia && (r.Table == nil || *r.Table == kernel.TableMain) {
			told.Routes = append(told.Routes, podnet.Hop{Dst: dst, Via: via.Unmap()})
		}
	}
	return told
}

// recordDifferences compares with the datastore. The error says that it could
// not be asked.
func (a *addition) recordDifferences(ctx context.Context) ([]string, error) {
	s := a.server
	if err := s.Ready(); err != nil {
		return nil, err
	}
	wrong, err := a.addressDifferences(ctx)
	if err != nil {
		return nil, err
	}
	if a.call.plugin == pluginIPAM {
		return wrong, nil
	}
	key := a.call.endpoint.Key()
	entry, err := s.client.Get(ctx, key)
	if errors.Is(err, datastore.ErrNotFound) {
		return append(wrong, fmt.Sprintf("%s is missing", key)), nil
	}
	if err != nil {
		return wrong, fmt.Errorf("read %s: %w", key, err)
	}
	return append(wrong, endpointDifferences(key, entry.Object, a.entry)...), nil
}

// addressDifferences asks who assigned the addresses.
func (a *addition) addressDifferences(ctx context.Context) ([]string, error) {
	if a.entry.Given {
		return nil, nil
	}
	if a.call.delegate != nil {
		if err := a.server.forward(ctx, a.call); err != nil {
			return []string{err.Error()}, nil //nolint:nilerr // it is the difference
		}
		return nil, nil
	}
	held, err := a.server.addresses.ByHandle(ctx, handleOf(a.call.id))
	if err != nil {
		return nil, err
	}
	var wrong []string
	for _, addr := range a.entry.Addrs {
		if !slices.Contains(held, addr) {
			wrong = append(wrong, fmt.Sprintf("address %s is not assigned to handle %s", addr, handleOf(a.call.id)))
		}
	}
	return wrong, nil
}

func endpointDifferences(key api.Key, obj api.Object, e journal.Entry) []string {
	wep, ok := obj.(*api.WorkloadEndpoint)
	if !ok {
		return []string{fmt.Sprintf("%s can't be read", key)}
	}
	var wrong []string
	if wep.Spec.ContainerID != e.ContainerID {
		wrong = append(wrong, fmt.Sprintf("%s belongs to container %s", key, wep.Spec.ContainerID))
	}
	if wep.Spec.InterfaceName != e.HostIf {
		wrong = append(wrong, fmt.Sprintf("%s names interface %q, not %s", key, wep.Spec.InterfaceName, e.HostIf))
	}
	recorded := addressesOf(wep)
	for _, addr := range e.Addrs {
		if !slices.Contains(recorded, addr) {
			wrong = append(wrong, fmt.Sprintf("%s lacks address %s", key, addr))
		}
	}
	return wrong
}
