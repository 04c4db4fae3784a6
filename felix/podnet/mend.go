package podnet

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"tortie/internal/kernel"
)

// Mend puts back what somebody has changed of the node's end of a pod since Add: its MTU,
// its MAC address, its settings, the gateway's address, and that it is up. Of the
// attachment it needs HostIf, Addrs, FromLoopback, ManySources, and MTU where that is
// known. It returns what it found, one phrase a difference. A device that is missing, or
// not ours, is left alone, as is all that is in the pod. Whoever calls it
// knows that the pod is to have its network: one that is being detached is down as well.
func (n *Net) Mend(a Attachment) (mended []string, err error) {
	if !IsDeviceName(a.HostIf) {
		return nil, nil
	}
	defer n.names.lock(a.HostIf)()
	link, err := n.host.LinkByName(a.HostIf)
	if errors.Is(err, kernel.ErrNotFound) || err == nil && (link.Kind != "veth" || link.Group == n.reap.group) {
		return nil, nil
	}
	// In this order: with an MTU of less than IPv6 needs the device has no settings of IPv6,
	// its address follows from the MAC address, and no packet goes before the settings hold.
	for _, mend := range []func(Attachment, kernel.Link) ([]string, error){n.mendLink, n.mendSettings, n.mendAddress, n.mendState} {
		var found []string
		if err == nil {
			found, err = mend(a, link)
			mended = append(mended, found...)
		}
	}
	if err != nil {
		return mended, fmt.Errorf("mend %s: %w", a.HostIf, err)
	}
	return mended, nil
}

func (n *Net) mendLink(a Attachment, link kernel.Link) (mended []string, err error) {
	if a.MTU != 0 && link.MTU != a.MTU {
		mended, err = append(mended, fmt.Sprintf("MTU %d", link.MTU)), n.host.SetMTU(link.Index, a.MTU)
	}
	if err == nil && link.MAC != hostMAC() {
		mended, err = append(mended, "MAC address "+link.MAC.String()), n.host.SetMAC(link.Index, hostMAC())
	}
	return mended, err
}

func (n *Net) mendSettings(a Attachment, _ kernel.Link) (mended []string, err error) {
	for _, want := range hostSettings(a, n.ipv6) {
		changed, err := mendSetting(n.host, want)
		if err != nil {
			return mended, err
		}
		if changed != "" {
			mended = append(mended, changed)
		}
	}
	return mended, nil
}

// mendAddress: the node asks for the pod's MAC address from the gateway's address. The
// kernel takes it away with IPv6, and from a device that is down.
func (n *Net) mendAddress(a Attachment, link kernel.Link) (mended []string, err error) {
	if !a.has(kernel.IPv6) {
		return nil, nil
	}
	have, err := n.host.Addresses(link.Index)
	if err != nil || slices.ContainsFunc(have, func(h kernel.Address) bool { return h.Prefix.Addr() == gateway(kernel.IPv6) }) {
		return nil, err
	}
	if link.Up {
		mended = append(mended, "no address "+gateway(kernel.IPv6).String())
	}
	return mended, cmp.Or(n.host.Apply(gatewayAddress(link.Index))...)
}

func (n *Net) mendState(_ Attachment, link kernel.Link) (mended []string, err error) {
	if link.Up {
		return nil, nil
	}
	return []string{"switched off"}, cmp.Or(n.host.Apply(kernel.LinkUp{Link: link.Index})...)
}

// mendSetting returns what was there, as sysctl writes it; empty when nothing was
// to do.
func mendSetting(k Sysctls, want kernel.Setting) (was string, err error) {
	now, err := k.Sysctl(want.Name)
	if errors.Is(err, kernel.ErrNotFound) || err == nil && now == want.Value {
		return "", nil // gone by now, or as it should be
	}
	if err == nil {
		err = k.SetSysctls([]kernel.Setting{want})
	}
	if err != nil {
		return "", err
	}
	return "net/" + want.Name + "=" + now, nil
}

// MendForwarding is EnsureForwarding with an account of what was switched off.
func MendForwarding(k Sysctls) (mended []string, err error) {
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		now, err := k.Sysctl(name)
		if errors.Is(err, kernel.ErrNotFound) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("look at forwarding: %w", err)
		}
		if now != "1" {
			mended = append(mended, "net/"+name+"="+now)
		}
	}
	if len(mended) == 0 {
		return nil, nil
	}
	return mended, EnsureForwarding(k)
}
