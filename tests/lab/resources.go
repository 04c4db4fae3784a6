package lab

import (
	"fmt"
	"net/netip"
	"strings"
)

// Conflist is the CNI configuration of the nodes of a dual-stack lab.
const Conflist = `{
  "name": "k8s-pod-network",
  "cniVersion": "1.1.0",
  "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
  "plugins": [
    {
      "type": "calico",
      "log_level": "info",
      "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"},
      "policy": {"type": "k8s"}
    }
  ]
}
`

// conflist is that of a lab, which asks for no address where there is no pool.
func conflist(spec Spec) string {
	c := Conflist
	for version, pool := range map[string]netip.Prefix{"4": spec.PoolV4, "6": spec.PoolV6} {
		if !pool.IsValid() {
			c = strings.ReplaceAll(c, `"assign_ipv`+version+`": "true"`, `"assign_ipv`+version+`": "false"`)
		}
	}
	return c
}

func calicoctlConfig(etcd string) string {
	return fmt.Sprintf(`apiVersion: projectcalico.org/v3
kind: CalicoAPIConfig
spec:
  datastoreType: etcdv3
  etcdEndpoints: %s
`, etcd)
}

// resources are the manifests of the lab's cluster: pools, BGP, nodes, and the
// router as a peer of the nodes on each segment.
func resources(spec Spec, t Topology) string {
	var docs []string
	if spec.PoolV4.IsValid() {
		docs = append(docs, pool("pool-v4", spec.PoolV4.String(), 26, true))
	}
	if spec.PoolV6.IsValid() {
		docs = append(docs, pool("pool-v6", spec.PoolV6.String(), 122, false))
	}
	docs = append(docs, fmt.Sprintf(`apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata:
  name: default
spec:
  asNumber: %d
  nodeToNodeMeshEnabled: true
`, nodeASN))
	for _, n := range t.Nodes {
		docs = append(docs, fmt.Sprintf(`apiVersion: projectcalico.org/v3
kind: Node
metadata:
  name: %s
  labels:
    segment: %s
spec:
  bgp:
%s`, n.Name, n.Segment, bgpAddresses(n)))
	}
	for _, s := range t.Segments[:2] {
		for _, r := range s.routers() {
			docs = append(docs, routerPeer(s, family(r), r.String()))
		}
	}
	return strings.Join(docs, "---\n")
}

func pool(name, cidr string, blockSize int, natOutgoing bool) string {
	return fmt.Sprintf(`apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: %s
spec:
  cidr: %s
  blockSize: %d
  ipipMode: Never
  vxlanMode: Never
  natOutgoing: %v
  nodeSelector: all()
`, name, cidr, blockSize, natOutgoing)
}

func bgpAddresses(n Host) string {
	var b strings.Builder
	for _, a := range n.Addresses() {
		fmt.Fprintf(&b, "    ip%sAddress: %s\n", family(a.Addr()), a)
	}
	return b.String()
}

func family(a netip.Addr) string {
	if a.Is6() {
		return "v6"
	}
	return "v4"
}

func routerPeer(s Segment, family, addr string) string {
	return fmt.Sprintf(`apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata:
  name: router-%s-%s
spec:
  nodeSelector: segment == '%s'
  peerIP: "%s"
  asNumber: %d
`, s.Name, family, s.Name, addr, routerASN)
}
