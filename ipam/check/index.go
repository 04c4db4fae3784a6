package check

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/ipam/proof"
)

// checker is one check: the input, indexed, and what was found so far.
type checker struct {
	in       Input
	findings []Finding

	blockList []block
	// block finds blocks, those that make no sense as well (with nil).
	block      map[netip.Prefix]*block
	affinity   map[api.Key]datastore.Entry
	pools      []netip.Prefix
	node       map[string]*api.Node
	unreadable map[api.Key]bool
	// blind are the kinds of which something can't be read: of what isn't seen there
	// nothing follows.
	blind     map[api.Kind]bool
	addresses []Address
	userList  []User
	usersOf   map[netip.Addr][]User
	endpoint  map[string]*api.WorkloadEndpoint // by the name of its User
	onNode    map[string]int                   // endpoints
	// kubernetes: the cluster's nodes or pods are those of Kubernetes.
	kubernetes bool
	matched    int
}

type block struct {
	ipam.Inspection
	entry datastore.Entry
}

func newChecker(in Input) *checker {
	c := &checker{
		in: in, block: map[netip.Prefix]*block{}, affinity: map[api.Key]datastore.Entry{}, node: map[string]*api.Node{},
		unreadable: map[api.Key]bool{}, blind: map[api.Kind]bool{}, usersOf: map[netip.Addr][]User{},
		endpoint: map[string]*api.WorkloadEndpoint{}, onNode: map[string]int{},
	}
	for _, invalid := range in.Invalid {
		c.unreadable[invalid.Key] = true
		c.blind[invalid.Key.Kind] = true
		if id, err := api.ParseWorkloadEndpointName(invalid.Key.Name); err == nil && invalid.Key.Kind == api.KindWorkloadEndpoint {
			c.onNode[id.Node]++
		}
		if prefix, err := netip.ParsePrefix(invalid.Key.Name); err == nil && invalid.Key.Kind == api.KindIPAMBlock {
			c.block[prefix] = nil
		}
	}
	for _, e := range in.Affinities {
		c.affinity[e.Key] = e
	}
	c.indexPools()
	c.indexNodes()
	c.indexEndpoints()
	c.indexBlocks()
	slices.SortFunc(c.userList, func(a, b User) int { return a.Addr.Compare(b.Addr) })
	return c
}

func (c *checker) indexPools() {
	for _, e := range c.in.Pools {
		pool, ok := e.Object.(*v3.IPPool)
		if !ok {
			continue
		}
		prefix, err := netip.ParsePrefix(pool.Spec.CIDR)
		if err != nil {
			c.cannotRead(e.Key, "spec.cidr "+pool.Spec.CIDR+" is no CIDR")
			continue
		}
		c.pools = append(c.pools, prefix.Masked())
	}
}

func (c *checker) indexNodes() {
	for _, e := range c.in.Nodes {
		n, ok := e.Object.(*api.Node)
		if !ok {
			continue
		}
		c.node[e.Key.Name] = n
		c.kubernetes = c.kubernetes || n.KubernetesName() != ""
		for _, text := range tunnelAddresses(n) {
			c.use(e.Key, text, "Node("+e.Key.Name+")")
		}
	}
}

func tunnelAddresses(n *api.Node) []string {
	texts := []string{n.Spec.IPv4VXLANTunnelAddr, n.Spec.IPv6VXLANTunnelAddr}
	if n.Spec.Wireguard != nil {
		texts = append(texts, n.Spec.Wireguard.InterfaceIPv4Address, n.Spec.Wireguard.InterfaceIPv6Address)
	}
	if n.Spec.BGP != nil {
		texts = append(texts, n.Spec.BGP.IPv4IPIPTunnelAddr)
	}
	return slices.DeleteFunc(texts, func(s string) bool { return s == "" })
}

func (c *checker) indexEndpoints() {
	for _, e := range c.in.Endpoints {
		wep, ok := e.Object.(*api.WorkloadEndpoint)
		if !ok {
			continue
		}
		c.onNode[wep.Spec.Node]++
		c.kubernetes = c.kubernetes || wep.Spec.Orchestrator == v3.OrchestratorKubernetes
		name := "Workload(" + e.Key.Namespace + "/" + e.Key.Name + ")"
		c.endpoint[name] = wep
		for _, text := range wep.Spec.IPNetworks {
			c.use(e.Key, text, name)
		}
	}
}

// use notes that somebody uses an address.
func (c *checker) use(key api.Key, text, name string) {
	addr, ok := proof.AddressOf(text)
	if !ok {
		c.cannotRead(key, "its address "+text+" is none")
		return
	}
	u := User{addr, name}
	if slices.Contains(c.usersOf[addr], u) {
		return
	}
	c.userList = append(c.userList, u)
	c.usersOf[addr] = append(c.usersOf[addr], u)
}

func (c *checker) indexBlocks() {
	pods := c.podAddresses()
	for _, e := range c.in.Blocks {
		in, err := ipam.Inspect(e)
		if err != nil {
			c.cannotRead(e.Key, err.Error())
			if prefix, err := netip.ParsePrefix(e.Key.Name); err == nil {
				c.block[prefix] = nil
			}
			continue
		}
		c.blockList = append(c.blockList, block{in, e})
	}
	for i := range c.blockList {
		b := &c.blockList[i]
		c.block[b.Prefix] = b
		for _, a := range b.Allocations {
			c.kubernetes = c.kubernetes || proof.PodOf(a) != ""
			c.addresses = append(c.addresses, c.address(b, a, pods))
		}
	}
	slices.SortStableFunc(c.addresses, func(a, b Address) int { return a.Addr.Compare(b.Addr) })
}

// address says who uses an address. Pods and services are asked only about what is
// given out: what else they have is not ours.
func (c *checker) address(b *block, a ipam.Allocation, pods map[netip.Addr]string) Address {
	out := Address{Allocation: a, Owner: b.Owner, Node: a.Attrs[api.AttributeNode]}
	if out.Node == "" && b.Owner.Type == api.AffinityHost {
		out.Node = b.Owner.Name
	}
	addr := a.Addr.Unmap()
	for _, u := range c.usersOf[addr] {
		out.Users = append(out.Users, u.Name)
	}
	if a.Handle == ipam.KeptBack {
		out.Users = append(out.Users, "Reserved for Windows")
	}
	if c.in.Kubernetes != nil && len(out.Users) == 0 {
		if name, ok := pods[addr]; ok {
			out.Users = append(out.Users, "Pod("+name+")")
		}
		if name, ok := c.in.Kubernetes.LoadBalancers[addr]; ok {
			out.Users = append(out.Users, "Service("+name+")")
		}
	}
	return out
}

func (c *checker) podAddresses() map[netip.Addr]string {
	out := map[netip.Addr]string{}
	if c.in.Kubernetes == nil {
		return out
	}
	for name, pod := range c.in.Kubernetes.Pods {
		for _, text := range pod.IPs {
			if addr, ok := proof.AddressOf(text); ok {
				out[addr] = name
			}
		}
	}
	return out
}

// inPool reports whether a pool has an address, disabled or not.
func (c *checker) inPool(addr netip.Addr) bool {
	return slices.ContainsFunc(c.pools, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// knownNode reports whether a node exists, or might. Owners that are no nodes, such as
// upstream's load balancer, have a colon in their name.
func (c *checker) knownNode(name string) bool {
	_, ok := c.node[name]
	return ok || strings.Contains(name, ":") || c.unreadable[api.Key{Kind: api.KindNode, Name: name}] || c.in.Kubernetes != nil && c.in.Kubernetes.Nodes[name]
}

// stranger says that the API server that was asked knows none of the nodes: it is
// another cluster's, or has just lost everything. Nothing follows from what it lacks.
func (c *checker) stranger() bool {
	if c.in.Kubernetes == nil {
		return false
	}
	for name, n := range c.node {
		if c.in.Kubernetes.Nodes[cmp.Or(n.KubernetesName(), name)] {
			return false
		}
	}
	return true
}

// strangerText is why a stranger proves nothing.
const strangerText = "Kubernetes knows none of this cluster's nodes: look whether the kubeconfig is that of another cluster"

// isNode reports whether a name of Kubernetes's is that of one of our nodes.
func (c *checker) isNode(kubernetesName, node string) bool {
	if n := c.node[node]; n != nil && n.KubernetesName() != "" {
		return n.KubernetesName() == kubernetesName
	}
	return kubernetesName == node
}

func (c *checker) add(f Finding) { c.findings = append(c.findings, f) }
