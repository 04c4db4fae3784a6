package podnet

import (
	"errors"
	"fmt"
	"strings"

	"tortie/internal/kernel"
)

// hostSettings are the sysctls of the node's end.
//
//   - forwarding: the node is the pod's router.
//   - rp_filter 1: the pod's route leads out of this device, so a strict check
//     passes for the pod's own address and drops a forged one. The kernel takes
//     the larger of this and conf/all: with 0 or 1 there the check is strict, with
//     2 it is loose; pods work in every case. 0 for a pod that may send from others'
//     addresses: packet rules say which. 2 would not do: on a device without an address,
//     as this one is, the kernel drops what leads elsewhere by 2 as well as by 1.
//   - proxy_arp and proxy_delay: the pod's permanent neighbour makes ARP needless,
//     but sandboxes that copy only addresses and routes (gVisor), arping, and
//     whoever flushes the neighbours ask for 169.254.1.1, and get the answer at once.
//   - route_localnet: packets from the node's 127.0.0.1 may take this device, where a
//     port of the node leads to the pod.
//   - IPv6: the device owns the gateway's link-local address, which the kernel makes
//     from its MAC again after the device was down (addr_gen_mode 0) and may use at
//     once (accept_dad 0); the pod is no router to listen to (accept_ra 0). A pod
//     without IPv6 gets none on its device, so that it reaches nothing of the node by
//     link-local addresses; with an MTU of less than IPv6 needs the kernel gives it none.
func hostSettings(a Attachment, kernelHasIPv6 bool) []kernel.Setting {
	v4, v6 := "ipv4/conf/"+a.HostIf+"/", "ipv6/conf/"+a.HostIf+"/"
	out := make([]kernel.Setting, 0, 10)
	filter := "1"
	if a.ManySources {
		filter = "0"
	}
	out = append(out, kernel.Setting{Name: v4 + "rp_filter", Value: filter})
	if a.has(kernel.IPv4) {
		out = append(out,
			kernel.Setting{Name: v4 + "forwarding", Value: "1"},
			kernel.Setting{Name: v4 + "proxy_arp", Value: "1"},
			kernel.Setting{Name: "ipv4/neigh/" + a.HostIf + "/proxy_delay", Value: "0"},
		)
	}
	if a.FromLoopback && a.has(kernel.IPv4) {
		out = append(out, kernel.Setting{Name: v4 + "route_localnet", Value: "1"})
	}
	if !a.has(kernel.IPv6) {
		if kernelHasIPv6 && (a.MTU == 0 || a.MTU >= minMTUv6) {
			out = append(out, kernel.Setting{Name: v6 + "disable_ipv6", Value: "1"})
		}
		return out
	}
	return append(out,
		kernel.Setting{Name: v6 + "accept_ra", Value: "0"},
		kernel.Setting{Name: v6 + "accept_dad", Value: "0"},
		kernel.Setting{Name: v6 + "addr_gen_mode", Value: "0"},
		kernel.Setting{Name: v6 + "disable_ipv6", Value: "0"},
		kernel.Setting{Name: v6 + "forwarding", Value: "1"},
		kernel.Setting{Name: v6 + "proxy_ndp", Value: "1"},
	)
}

// podSettings are the sysctls of the pod's namespace: whether it may forward, which
// a new one inherits from the node, and IPv6, which some runtimes switch off in
// every new one.
func podSettings(a Attachment) []kernel.Setting {
	forwarding := "0"
	if a.AllowIPForwarding {
		forwarding = "1"
	}
	out := []kernel.Setting{{Name: "ipv4/ip_forward", Value: forwarding}}
	if !a.has(kernel.IPv6) {
		return out
	}
	dev := "ipv6/conf/" + a.IfName + "/"
	return append(out,
		kernel.Setting{Name: "ipv6/conf/all/forwarding", Value: forwarding},
		kernel.Setting{Name: "ipv6/conf/lo/disable_ipv6", Value: "0"},
		kernel.Setting{Name: dev + "accept_ra", Value: "0"},
		kernel.Setting{Name: dev + "accept_dad", Value: "0"},
		kernel.Setting{Name: dev + "disable_ipv6", Value: "0"},
	)
}

func isOfInterface(s kernel.Setting, ifName string) bool {
	return strings.HasPrefix(s.Name, "ipv6/conf/"+ifName+"/")
}

// Sysctls is what EnsureForwarding asks of the kernel; *kernel.Handle has it.
type Sysctls interface {
	Links() ([]kernel.Link, error)
	Sysctl(name string) (string, error)
	SetSysctls([]kernel.Setting) error
}

// EnsureForwarding makes the node a router, for IPv4 and, where the kernel has
// it, IPv6. A router ignores router advertisements unless told otherwise, so a
// node that learned its own IPv6 default route from one is told to go on
// listening. What is in force already is not written.
func EnsureForwarding(k Sysctls) error {
	if err := k.SetSysctls([]kernel.Setting{{Name: "ipv4/ip_forward", Value: "1"}}); err != nil {
		return fmt.Errorf("make this node forward IPv4: %w", err)
	}
	const name = "ipv6/conf/all/forwarding"
	now, err := k.Sysctl(name)
	switch {
	case errors.Is(err, kernel.ErrNotFound):
		return nil // a kernel without IPv6
	case err == nil && now == "1":
		return nil
	}
	if err == nil {
		err = keepListening(k)
	}
	if err == nil {
		err = k.SetSysctls([]kernel.Setting{{Name: name, Value: "1"}})
	}
	if err != nil {
		return fmt.Errorf("make this node forward IPv6: %w", err)
	}
	return nil
}

// keepListening turns "accept advertisements unless forwarding" into "accept
// them" on every device that is not a pod's.
func keepListening(k Sysctls) error {
	links, err := k.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		name := "ipv6/conf/" + l.Name + "/accept_ra"
		now, err := k.Sysctl(name)
		if errors.Is(err, kernel.ErrNotFound) || IsDeviceName(l.Name) {
			continue // gone by now, or a device without IPv6
		}
		if err == nil && now == "1" {
			err = k.SetSysctls([]kernel.Setting{{Name: name, Value: "2"}})
		}
		if err != nil && !errors.Is(err, kernel.ErrNotFound) {
			return err
		}
	}
	return nil
}
