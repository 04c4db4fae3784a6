package netconf

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// HostPort is a port of the node that is to lead to the pod.
type HostPort struct {
	Protocol string // "tcp", "udp" or "sctp"
	// HostIP is the only address of the node that is meant. Invalid: all of both
	// families; unspecified: all of its own.
	HostIP   netip.Addr
	HostPort uint16
	Port     uint16 // the pod's
}

// portMapping is an entry of the portMappings capability (CNI conventions).
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// hostPorts reads the capability. Entries without a port of the node ask for nothing:
// runtimes list all ports of a pod.
func hostPorts(entries []portMapping) ([]HostPort, error) {
	var out []HostPort
	for i, e := range entries {
		if e.HostPort == 0 {
			continue
		}
		wrong := func(key, format string, args ...any) error {
			return &Error{Key: fmt.Sprintf("runtimeConfig.portMappings[%d].%s", i, key), Reason: fmt.Sprintf(format, args...)}
		}
		p := HostPort{Protocol: strings.ToLower(e.Protocol), HostPort: uint16(e.HostPort), Port: uint16(e.ContainerPort)} //nolint:gosec // checked below
		switch {
		case e.HostPort < 0 || e.HostPort > maxPort:
			return nil, wrong("hostPort", "%d is no port; want 1 to %d", e.HostPort, maxPort)
		case e.ContainerPort < 1 || e.ContainerPort > maxPort:
			return nil, wrong("containerPort", "%d is no port; want 1 to %d", e.ContainerPort, maxPort)
		}
		switch p.Protocol {
		case "":
			p.Protocol = "tcp"
		case "tcp", "udp", "sctp":
		default:
			return nil, wrong("protocol", "%q is not known; want tcp, udp or sctp", e.Protocol)
		}
		if e.HostIP != "" {
			addr, err := netip.ParseAddr(e.HostIP)
			if err != nil || addr.Zone() != "" {
				return nil, wrong("hostIP", "%q is no address; want one of the node's, or leave it out for all", e.HostIP)
			}
			p.HostIP = addr.Unmap()
		}
		if i := slices.IndexFunc(out, p.contradicts); i >= 0 { // one would hold, and nobody be told
			return nil, wrong("hostPort", "%d/%s is to lead to the pod's port %d and to %d; give one", p.HostPort, p.Protocol, out[i].Port, p.Port)
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out, nil
}

// contradicts reports whether another has the same port of the node lead elsewhere. One for
// a single address may differ from that for all.
func (p HostPort) contradicts(o HostPort) bool {
	all := func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }
	same := p.HostIP == o.HostIP || all(p.HostIP) && all(o.HostIP) && (!p.HostIP.IsValid() || !o.HostIP.IsValid())
	return same && p.Protocol == o.Protocol && p.HostPort == o.HostPort && p.Port != o.Port
}

const maxPort = 65535
