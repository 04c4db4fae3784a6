// Package feature finds out what the running kernel can do, by doing it in a network
// namespace that is thrown away.
package feature

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"tortie/internal/kernel"
)

// Feature is something of the kernel or the machine.
type Feature string

// The features one can ask for.
const (
	Netns    Feature = "network namespaces (run as root)"
	Veth     Feature = "veth devices (CONFIG_VETH)"
	Vxlan    Feature = "VXLAN devices (CONFIG_VXLAN)"
	IPv6     Feature = "IPv6 (CONFIG_IPV6, ipv6.disable=0)"
	Nftables Feature = "nftables (the nft command and CONFIG_NF_TABLES)"
	NftNAT   Feature = "masquerading in nftables (CONFIG_NFT_MASQ)"
	Ping     Feature = "the ping command (iputils-ping)"
	IPRoute2 Feature = "the ip command (iproute2)"
	Shaping  Feature = "shaping of pods' bandwidth (CONFIG_IFB, CONFIG_NET_SCH_TBF, CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)"
	NextHops Feature = "next-hop objects (Linux 5.3)"

	IPIP      Feature = "IPIP tunnels (CONFIG_NET_IPIP)"
	Wireguard Feature = "WireGuard devices (CONFIG_WIREGUARD)"
	Dummy     Feature = "dummy devices (CONFIG_DUMMY)"
	Tun       Feature = "TUN devices (CONFIG_TUN, /dev/net/tun)"
)

// Probe is nil if the machine has the feature, else why not.
func Probe(f Feature) error {
	ns, err := kernel.CreateNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	switch f {
	case Netns:
		return nil
	case Veth:
		return with(ns, veth)
	case Vxlan:
		return with(ns, vxlan)
	case Shaping:
		return with(ns, shape)
	case NextHops:
		return with(ns, func(h *kernel.Handle) error {
			_, err := h.NextHopObjects(context.Background(), 0)
			return err
		})
	case IPIP:
		return device(ns, "tunl0", "ipip")
	case Wireguard:
		return device(ns, "probe0", "wireguard")
	case Dummy:
		return device(ns, "probe0", "dummy")
	case Tun:
		f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		if err == nil {
			err = f.Close()
		}
		return err
	case IPv6:
		return ns.Do(func() error {
			_, err := os.Stat("/proc/sys/net/ipv6/conf/all/forwarding")
			return err
		})
	case Ping:
		_, err := exec.LookPath("ping")
		return err
	case IPRoute2:
		_, err := exec.LookPath("ip")
		return err
	case Nftables:
		return nft(ns, "list", "ruleset")
	case NftNAT:
		return nft(ns, "add table inet probe; add chain inet probe c { type nat hook postrouting priority 100; };"+
			" add rule inet probe c masquerade")
	}
	return errors.New("unknown feature")
}

// with probes what package kernel does.
func with(ns *kernel.Netns, do func(h *kernel.Handle) error) error {
	h, err := ns.Open()
	if err != nil {
		return err
	}
	defer h.Close()
	return do(h)
}

func veth(h *kernel.Handle) error {
	_, err := h.CreateVeth(kernel.VethSpec{Host: "probe0", Peer: "probe1"})
	return err
}

func vxlan(h *kernel.Handle) error {
	_, err := h.CreateVxlan(kernel.VxlanSpec{Name: "probe0", Vxlan: kernel.Vxlan{VNI: 1, Port: 4789, Local: netip.IPv6Loopback()}})
	return err
}

func shape(h *kernel.Handle) error {
	ifb, err := h.CreateIfb("probe0", 0)
	if err != nil {
		return err
	}
	const rate, burst = 1 << 20, 1 << 16
	err = h.SetTokenBucket(kernel.TokenBucket{Link: ifb.Index, Rate: rate, Burst: burst, Queue: burst})
	if err != nil {
		return err
	}
	const loopback = 1
	return h.Redirect(loopback, ifb.Index)
}

// device makes a device. One that is there already will do: a namespace may be born
// with the tunl0 of IPIP.
func device(ns *kernel.Netns, name, kind string) error {
	return with(ns, func(h *kernel.Handle) error {
		_, err := h.CreateDevice(name, kind)
		if errors.Is(err, kernel.ErrExists) {
			return nil
		}
		return err
	})
}

func nft(ns *kernel.Netns, args ...string) error {
	return ns.Do(func() error {
		out, err := exec.Command("nft", args...).CombinedOutput()
		if text := strings.Join(strings.Fields(string(out)), " "); err != nil && text != "" {
			return fmt.Errorf("%w: %s", err, text)
		}
		return err
	})
}

// Release is the kernel's version, as uname -r has it.
func Release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
