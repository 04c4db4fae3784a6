// Package cluster runs a Kubernetes cluster on one machine, of real parts: etcd,
// a control plane, and nodes with containerd, kubelet and kube-proxy.
//
//	 segment a 10.30.1.0/24          router (BIRD, AS 64999)      segment b 10.30.2.0/24
//	cp  node1  node2  ─────────────  two bridges, one each  ─────────────  node3
//	                                        │
//	                                 198.51.100.0/24  outside host
package cluster

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// RouterASN is the router's AS number.
const RouterASN = 64999

// Families are the IP versions that machines, pods and services have. The router
// always has both.
type Families string

// What there is.
const (
	DualStack Families = "dual" // IPv4 goes first
	IPv4Only  Families = "ipv4"
	IPv6Only  Families = "ipv6"
)

// Check says what is wrong with it.
func (f Families) Check() error {
	if f != DualStack && f != IPv4Only && f != IPv6Only {
		return fmt.Errorf("IP versions %q: want %s, %s or %s", string(f), DualStack, IPv4Only, IPv6Only)
	}
	return nil
}

// Have reports whether there is IPv6, or IPv4.
func (f Families) Have(v6 bool) bool { return v6 && f != IPv4Only || !v6 && f != IPv6Only }

// list is one of each IP version that there is.
func (f Families) list(v4, v6 string) string {
	switch f {
	case IPv4Only:
		return v4
	case IPv6Only:
		return v6
	}
	return v4 + "," + v6
}

// first is the one of the version that goes first.
func (f Families) first(v4, v6 string) string {
	first, _, _ := strings.Cut(f.list(v4, v6), ",")
	return first
}

// address is by which a host is known.
func (f Families) address(h Host) string { return f.first(h.V4.Addr().String(), h.V6.Addr().String()) }

// serviceCIDRs, podCIDRs are the networks of services and pods.
func (f Families) serviceCIDRs() string { return f.list("10.96.0.0/16", "fd30:0:0:96::/112") }
func (f Families) podCIDRs() string     { return f.list("10.244.0.0/16", "fd30:0:0:200::/56") }

// DNSAddress is the service address of CoreDNS, apiAddress the API server's.
func (f Families) DNSAddress() string { return f.first("10.96.0.10", "fd30:0:0:96::a") }
func (f Families) apiAddress() string { return f.first("10.96.0.1", "fd30:0:0:96::1") }

// Host is a machine with its addresses.
type Host struct {
	Name    string
	Segment string
	V4, V6  netip.Prefix
}

// The names of the machines that are no nodes.
const (
	ControlPlane = "cp"
	Router       = "router"
	Outside      = "outside"
)

// segments are the networks that the router connects, by letter.
var segments = map[string]int{"a": 1, "b": 2, "out": 100} //nolint:gochecknoglobals // a table

// host makes a Host out of its place in its segment.
func host(name, segment string, number int) Host {
	if segment == "out" {
		return Host{
			Name: name, Segment: segment,
			V4: netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/24", number)),
			V6: netip.MustParsePrefix(fmt.Sprintf("2001:db8:100::%x/64", number)),
		}
	}
	return Host{
		Name: name, Segment: segment,
		V4: netip.MustParsePrefix(fmt.Sprintf("10.30.%d.%d/24", segments[segment], number)),
		V6: netip.MustParsePrefix(fmt.Sprintf("fd30:0:0:%d::%x/64", segments[segment], number)),
	}
}

// gateway is the router's address in a segment.
func gateway(segment string) Host { return host(Router, segment, 1) }

// NodeHost is the n-th node, from 1: each third one is behind the router.
func NodeHost(n int) Host {
	segment := "a"
	if n%3 == 0 {
		segment = "b"
	}
	return host(fmt.Sprintf("node%d", n), segment, 10+n)
}

func controlPlaneHost() Host { return host(ControlPlane, "a", 10) }

// OutsideHost knows nothing of pods.
func OutsideHost() Host { return host(Outside, "out", 10) }

// Folders of a cluster.
type layout struct{ dir string }

func (l layout) machine(name string) string { return filepath.Join(l.dir, "machines", name) }
func (l layout) pki() string                { return filepath.Join(l.dir, "pki") }
func (l layout) images() string             { return filepath.Join(l.dir, "images") }
