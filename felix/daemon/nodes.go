package daemon

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"tortie/felix/problems"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/overlay"
)

// nodeBook knows which node has which addresses.
type nodeBook struct {
	self string
	// changed is called after Nodes have changed; nil for nobody.
	changed func()

	mu     sync.Mutex
	byName map[string][]netip.Addr
	byAddr map[netip.Addr][]string // sorted
}

func newNodeBook(self string) *nodeBook {
	return &nodeBook{self: self, byName: map[string][]netip.Addr{}, byAddr: map[netip.Addr][]string{}}
}

// Apply implements follower; the calculation graph asks for the Nodes.
func (b *nodeBook) Apply(updates []datastore.SyncUpdate) {
	if b.take(updates) && b.changed != nil {
		b.changed()
	}
}

func (b *nodeBook) take(updates []datastore.SyncUpdate) (some bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range updates {
		if u.Key.Kind != api.KindNode {
			continue
		}
		some = true
		b.drop(u.Key.Name)
		if u.Entry == nil {
			continue
		}
		if node, ok := u.Entry.Object.(*api.Node); ok {
			b.add(u.Key.Name, overlay.ReadNode(u.Key.Name, &node.Spec))
		}
	}
	return some
}

func (b *nodeBook) drop(name string) {
	for _, a := range b.byName[name] {
		b.byAddr[a] = slices.DeleteFunc(b.byAddr[a], func(n string) bool { return n == name })
		if len(b.byAddr[a]) == 0 {
			delete(b.byAddr, a)
		}
	}
	delete(b.byName, name)
}

func (b *nodeBook) add(name string, ends overlay.Node) {
	for _, end := range []overlay.End{ends.V4, ends.V6} {
		if a := end.Address.Addr(); a.IsValid() {
			b.byName[name] = append(b.byName[name], a)
			b.byAddr[a] = append(b.byAddr[a], name)
			slices.Sort(b.byAddr[a])
		}
	}
}

// nodeAddr is an address and the node that has it.
type nodeAddr struct {
	node string
	addr netip.Addr
}

// others are the addresses of the other nodes, but for those that are this one's, too.
func (b *nodeBook) others() []nodeAddr {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []nodeAddr
	for addr, names := range b.byAddr {
		if !slices.Contains(names, b.self) {
			out = append(out, nodeAddr{names[0], addr})
		}
	}
	return out
}

// problems: packets to an address that two nodes have reach one of them, and the other's
// pods are cut off. Two nodes are one line, whatever they share.
func (b *nodeBook) problems() []problems.Problem {
	b.mu.Lock()
	defer b.mu.Unlock()
	shared := map[string][]string{}
	for _, a := range b.byName[b.self] {
		for _, n := range b.byAddr[a] {
			if n != b.self && !slices.Contains(shared[n], a.String()) {
				shared[n] = append(shared[n], a.String())
			}
		}
	}
	var out []problems.Problem
	for _, other := range slices.Sorted(maps.Keys(shared)) {
		what, is := "address "+shared[other][0], "is that"
		if len(shared[other]) > 1 {
			what, is = "addresses "+strings.Join(shared[other], " and "), "are those"
		}
		out = append(out, problems.Problem{Reason: reasonAddressTwice, Topic: other, Line: fmt.Sprintf(
			"the %s of this node %s of node %s, too, so packets for the pods of one of them get lost: give one another address (IP, IP6, or spec.bgp of the Node), "+
				"or delete the node that is gone: calicoctl delete node %s", what, is, other, other)})
	}
	return out
}
