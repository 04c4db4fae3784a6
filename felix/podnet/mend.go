package podnet

import (
	"errors"
	"fmt"
	"net/netip"

	"tortie/internal/kernel"
)

// Mend puts back what somebody has changed of the node's end of a pod with these
// addresses, and leave to send from others or not, since Add: its settings and its MAC address. It returns what it found,
// one phrase a difference. A device that is missing, down or not ours is left
// alone: an Add may be at work on it, or its operator have switched it off.
func (n *Net) Mend(hostIf string, addrs []netip.Addr, manySources bool) (mended []string, err error) {
	if !IsDeviceName(hostIf) {
		return nil, nil
	}
	defer n.names.lock(hostIf)()
	link, err := n.host.LinkByName(hostIf)
	if errors.Is(err, kernel.ErrNotFound) || err == nil && !link.Up {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("mend %s: %w", hostIf, err)
	}
	if link.MAC != hostMAC() {
		if err := n.host.SetMAC(link.Index, hostMAC()); err != nil {
			return nil, fmt.Errorf("mend %s: %w", hostIf, err)
		}
		mended = append(mended, "MAC address "+link.MAC.String())
	}
	for _, want := range hostSettings(Attachment{HostIf: hostIf, Addrs: addrs, ManySources: manySources}, n.ipv6) {
		changed, err := mendSetting(n.host, want)
		if err != nil {
			return mended, fmt.Errorf("mend %s: %w", hostIf, err)
		}
		if changed != "" {
			mended = append(mended, changed)
		}
	}
	return mended, nil
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
