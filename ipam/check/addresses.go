package check

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"tortie/internal/api"
	"tortie/ipam"
	"tortie/ipam/proof"
)

// nodes finds nodes that have blocks, affinities or addresses, and don't exist.
func (c *checker) nodes() {
	gone := map[string]*Finding{}
	of := func(name string) *Finding {
		if name == "" || c.knownNode(name) {
			return &Finding{} // thrown away
		}
		if gone[name] == nil {
			gone[name] = &Finding{Kind: NodeGone, Where: "node " + name, Node: name}
		}
		return gone[name]
	}
	blocks := map[string]int{}
	for _, e := range c.in.Affinities {
		if owner, _, err := api.ParseBlockAffinityName(e.Key.Name); err == nil && owner.Type == api.AffinityHost {
			f := of(owner.Name)
			f.Stamp += fmt.Sprint(" ", e.Key.Name, e.Revision)
		}
	}
	for _, b := range c.blockList {
		if b.Owned && b.Owner.Type == api.AffinityHost {
			f := of(b.Owner.Name)
			f.Stamp += " " + b.Prefix.String()
			blocks[b.Owner.Name]++
		}
	}
	for _, a := range c.addresses {
		if node := a.Attrs[api.AttributeNode]; node != "" {
			f := of(node)
			f.Seen = append(f.Seen, a.Allocation)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(gone)) {
		c.nodeGone(gone[name], blocks[name])
	}
}

func (c *checker) nodeGone(f *Finding, blocks int) {
	facts := proof.NodeFacts{Endpoints: c.onNode[f.Node], NobodyKnown: c.stranger()}
	f.What = "doesn't exist, but has " + count(blocks, "block", "blocks") + " and " + count(len(f.Seen), "address", "addresses")
	f.Why = "the node was deleted without them, or its Node was deleted by hand"
	f.Stamp += stamp(f.Seen)
	f.Proof = proof.NodeGone(f.Node, facts)
	switch {
	case facts.Endpoints > 0:
		f.Kept = count(facts.Endpoints, "workload endpoint is", "workload endpoints are") + " still on it"
		f.Do = "if it is gone, delete its workload endpoints (calicoctl get wep -A shows them), and run this again; if not, start felix there"
	case facts.NobodyKnown:
		f.Kept = strangerText
	case c.blind[""]:
		f.Kept = "keys that can't be read might be its Node or its endpoints"
	case c.needsKubernetes():
		f.Kept = "whether the node exists is for Kubernetes to say: give --kubeconfig"
	default:
		f.Mendable = true
	}
	if f.Do == "" {
		f.Do = "if it is gone, calicoctl ipam fsck --repair releases what it has; if not, start felix there"
	}
	if !f.Mendable {
		f.Proof = ""
	}
	c.add(*f)
}

// needsKubernetes reports whether only Kubernetes can tell who is gone, and was not
// asked.
func (c *checker) needsKubernetes() bool { return c.kubernetes && c.in.Kubernetes == nil }

// leaks finds addresses that are given out and that nobody uses.
func (c *checker) leaks() {
	unused := map[ipam.HandleID][]ipam.Allocation{}
	used := map[ipam.HandleID]bool{}
	node := map[ipam.HandleID]string{}
	for _, a := range c.addresses {
		switch {
		case len(a.Users) > 0:
			used[a.Handle] = true
		case a.Attrs[api.AttributeNode] != "" && !c.knownNode(a.Attrs[api.AttributeNode]):
			// It is judged with its node.
		case a.Handle == "":
			c.leak(Finding{Seen: []ipam.Allocation{a.Allocation}, Node: a.Node, Kept: "nobody noted who has it"})
		default:
			unused[a.Handle] = append(unused[a.Handle], a.Allocation)
			node[a.Handle] = a.Node
		}
	}
	for _, id := range slices.Sorted(maps.Keys(unused)) {
		f := Finding{Handle: id, Seen: unused[id], Node: node[id]}
		if used[id] {
			f.Kept = "other addresses of its handle are in use, and a handle's are released together"
		} else {
			f.Proof, f.Kept = c.proof(unused[id])
		}
		c.leak(f)
	}
}

func (c *checker) leak(f Finding) {
	f.Kind, f.Where = Leak, addressText(f.Seen)
	f.What = "given out to " + holderText(f.Seen[0]) + ", and no endpoint, node or service has it"
	f.Why = "whoever had it went without releasing it"
	f.Stamp = string(f.Handle) + stamp(f.Seen)
	f.Mendable = f.Proof != ""
	f.Do = "look on node " + f.Node + " whether " + itOrThey(f.Seen) + " in use; if not: " + releaseCommands(f.Seen)
	if f.Node == "" {
		f.Do = "look whether " + itOrThey(f.Seen) + " in use; if not: " + releaseCommands(f.Seen)
	}
	if f.Mendable {
		f.Why, f.Do = f.Proof, "calicoctl ipam fsck --repair releases it, as the garbage collection of kube-controllers does by itself"
	}
	c.add(f)
}

// proof says why addresses are nobody's, or why that can't be told.
func (c *checker) proof(seen []ipam.Allocation) (because, kept string) {
	owner, ok := proof.OwnerOf(seen)
	switch {
	case !ok:
		return "", "who has it is no pod, so that nobody can tell whether it is gone"
	case c.blind[api.KindWorkloadEndpoint] || c.blind[""]:
		return "", "workload endpoints that can't be read might have it"
	case c.in.Kubernetes == nil:
		return "", "whether the pod exists is for Kubernetes to say: give --kubeconfig"
	case c.stranger():
		return "", strangerText
	}
	var pod *proof.Pod
	if p, exists := c.in.Kubernetes.Pods[owner.Namespace+"/"+owner.Pod]; exists {
		pod = &p
	}
	if because = proof.Without(pod, owner, seen, c.isNode); because == "" {
		return "", "the pod exists"
	}
	return because + ", and no endpoint has them", ""
}

// users finds addresses that are used by two, or that were never given out.
func (c *checker) users() {
	allocated := map[netip.Addr][]Address{}
	for _, a := range c.addresses {
		allocated[a.Addr.Unmap()] = append(allocated[a.Addr.Unmap()], a)
	}
	for _, addr := range slices.SortedFunc(maps.Keys(allocated), netip.Addr.Compare) {
		if list := allocated[addr]; len(list) > 1 {
			c.double(addr, list, fmt.Sprintf("is given out twice: to %s in block %s, and to %s in block %s",
				holderText(list[0].Allocation), list[0].Block, holderText(list[1].Allocation), list[1].Block))
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(c.usersOf), netip.Addr.Compare) {
		users, list := c.usersOf[addr], allocated[addr]
		switch {
		case len(list) == 1 && len(list[0].Alternate) > 0: // a live migration: both are right
		case len(users) > 1:
			c.double(addr, list, "is used by "+userText(users))
		case len(list) == 0:
			c.notAllocated(users[0])
		case len(list) == 1 && c.another(users[0], list[0].Allocation):
			c.double(addr, list, "is used by "+users[0].Name+", but given out to "+holderText(list[0].Allocation))
		}
	}
}

func (c *checker) double(addr netip.Addr, list []Address, what string) {
	f := Finding{
		Kind: DoubleAddress, Where: addr.String(), What: what, Addr: addr,
		Why:  "packets for one of them reach the other",
		Do:   "restart one of the two pods, so that it gets another address, and run this again",
		Kept: "both may be in use", Stamp: what,
	}
	for _, a := range list {
		f.Seen = append(f.Seen, a.Allocation)
	}
	c.add(f)
}

// another reports whether an address was given out to another pod than the one
// whose endpoint has it.
func (c *checker) another(u User, a ipam.Allocation) bool {
	wep, pod := c.endpoint[u.Name], proof.PodOf(a)
	if wep == nil || pod == "" || wep.Spec.Pod == "" || len(a.Alternate) > 0 {
		return false
	}
	return wep.Namespace+"/"+wep.Spec.Pod != pod
}

func (c *checker) notAllocated(u User) {
	if !c.inPool(u.Addr) {
		if c.blind[api.KindIPPool] {
			return
		}
		c.add(Finding{
			Kind: OutsidePools, Where: u.Addr.String(), What: "is used by " + u.Name + ", and lies in no IP pool", Addr: u.Addr,
			Why: "another IPAM plugin gave it, or its pool was deleted", Do: "nothing, if another IPAM plugin gave it; else restart the pod",
			Kept: "it is in use", Stamp: u.Name,
		})
		return
	}
	f := Finding{
		Kind: NotAllocated, Where: u.Addr.String(), What: "is used by " + u.Name + ", but was never given out to it", Addr: u.Addr,
		Why: "it was released under a pod that lives: it will be given to another", Do: "restart the pod (for a Node: restart felix there)",
		Kept: "it can't be told under which handle it should be", Stamp: u.Name,
	}
	b := c.blockOf(u.Addr)
	wep := c.endpoint[u.Name]
	switch {
	case b == nil && c.unreadableBlock(u.Addr):
		return // it may well be given out
	case b == nil:
		f.Kept = "its block doesn't exist"
	case len(b.Faults) > 0:
		f.Kept = "its block contradicts itself; once that is mended, run this again"
	case wep != nil && wep.Spec.ContainerID != "":
		if network := c.network(); network != "" {
			f.Handle, f.Mendable, f.Kept = ipam.HandleID(network+"."+wep.Spec.ContainerID), true, ""
			f.Block, f.Endpoint = b.Prefix, api.Key{Kind: api.KindWorkloadEndpoint, Namespace: wep.Namespace, Name: wep.Name}
			f.Do = "calicoctl ipam fsck --repair gives it out to the pod, under handle " + string(f.Handle)
		}
	}
	c.add(f)
}

// blockOf is the block that has an address, nil for none.
func (c *checker) blockOf(addr netip.Addr) *block {
	for i := range c.blockList {
		if c.blockList[i].Prefix.Contains(addr) {
			return &c.blockList[i]
		}
	}
	return nil
}

func (c *checker) unreadableBlock(addr netip.Addr) bool {
	for prefix, b := range c.block {
		if b == nil && prefix.Contains(addr) {
			return true
		}
	}
	return c.blind[""]
}

// network is the network in the handles of the containers of all endpoints, empty
// when there are several.
func (c *checker) network() string {
	containers := map[string]bool{}
	for _, wep := range c.endpoint {
		containers[wep.Spec.ContainerID] = true
	}
	network := ""
	for _, a := range c.addresses {
		name, container, ok := strings.Cut(string(a.Handle), ".")
		if !ok || container == "" || !containers[container] {
			continue
		}
		if network != "" && network != name {
			return ""
		}
		network = name
	}
	return network
}

func userText(users []User) string {
	names := make([]string, len(users))
	for i, u := range users {
		names[i] = u.Name
	}
	slices.Sort(names)
	return strings.Join(names, " and ")
}

// addressText lists addresses.
func addressText(seen []ipam.Allocation) string {
	texts := make([]string, len(seen))
	for i, a := range seen {
		texts[i] = a.Addr.String()
	}
	return strings.Join(texts, ", ")
}

// holderText is who an address was given out to.
func holderText(a ipam.Allocation) string {
	var text string
	switch pod := proof.PodOf(a); {
	case pod != "":
		text = "pod " + pod
	case a.Attrs[api.AttributeType] != "":
		text = a.Attrs[api.AttributeType]
	case a.Handle != "":
		text = "handle " + string(a.Handle)
	default:
		text = "somebody unknown"
	}
	if node := a.Attrs[api.AttributeNode]; node != "" {
		text += " on node " + node
	}
	return text
}

// stamp tells assignments from any others.
func stamp(seen []ipam.Allocation) string {
	var s strings.Builder
	for _, a := range seen {
		fmt.Fprintf(&s, " %s@%d", a.Addr, a.Sequence)
	}
	return s.String()
}

// count is "1 block", "2 blocks".
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func itOrThey(seen []ipam.Allocation) string {
	if len(seen) == 1 {
		return "it is"
	}
	return "they are"
}

// releaseCommands are what releases addresses by hand.
func releaseCommands(seen []ipam.Allocation) string {
	commands := make([]string, len(seen))
	for i, a := range seen {
		commands[i] = "calicoctl ipam release --ip=" + a.Addr.String()
	}
	return strings.Join(commands, " && ")
}
