package lab

import (
	"fmt"
	"strings"
)

// Conflist is the CNI configuration of every lab node.
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
	docs := []string{
		pool("pool-v4", spec.PoolV4.String(), 26, true),
		pool("pool-v6", spec.PoolV6.String(), 122, false),
		fmt.Sprintf(`apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata:
  name: default
spec:
  asNumber: %d
  nodeToNodeMeshEnabled: true
`, nodeASN),
	}
	for _, n := range t.Nodes {
		docs = append(docs, fmt.Sprintf(`apiVersion: projectcalico.org/v3
kind: Node
metadata:
  name: %s
  labels:
    segment: %s
spec:
  bgp:
    ipv4Address: %s
    ipv6Address: %s
`, n.Name, n.Segment, n.V4, n.V6))
	}
	for _, s := range t.Segments[:2] {
		docs = append(docs, routerPeer(s, "v4", s.Router.String()), routerPeer(s, "v6", s.RouterV6.String()))
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
