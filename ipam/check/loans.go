package check

import (
	"fmt"
	"slices"
	"strings"

	"tortie/internal/api"
	"tortie/ipam"
)

// loans compares the loans with the blocks that nodes borrow from. One that can't be read
// counts, for its name says all; about a block that can't be read nothing is known.
func (c *checker) loans() {
	recorded := map[api.Key]bool{}
	for _, e := range c.in.Loans {
		recorded[e.Key] = true
		node, prefix, err := api.ParseLoanName(e.Key.Name)
		b, exists := c.block[prefix]
		if err != nil || exists && (b == nil || slices.Contains(ipam.Borrowers(&b.entry), node)) {
			continue
		}
		f := Finding{
			Kind: LoanIdle, Where: e.Key.String(), What: "node " + node + " has no address of block " + prefix.String(),
			Why: "the address was released by a program that knows nothing of loans, such as upstream's; it takes room and nothing else",
			Do:  "calicoctl ipam fsck --repair deletes it", Mendable: true, Block: prefix, Node: node, Stamp: fmt.Sprint(e.Revision),
		}
		if !exists {
			f.What = "there is no block " + prefix.String()
		}
		c.add(f)
	}
	for i := range c.blockList {
		b := &c.blockList[i]
		for _, node := range ipam.Borrowers(&b.entry) {
			key := api.LoanKey(node, b.Prefix)
			// What has a colon is no node, and borrows nothing; a node that is gone is judged as a whole.
			if recorded[key] || c.unreadable[key] || !c.knownNode(node) || strings.Contains(node, ":") {
				continue
			}
			c.loanMissing(b, key, node)
		}
	}
}

func (c *checker) loanMissing(b *block, key api.Key, node string) {
	var seen []ipam.Allocation
	for _, a := range b.Allocations {
		if a.Attrs[api.AttributeNode] == node {
			seen = append(seen, a)
		}
	}
	c.add(Finding{
		Kind: LoanMissing, Where: key.String(), What: fmt.Sprintf("doesn't exist, but node %s has %s of a block that belongs to %s", node, addressText(seen), ownerText(b.Inspection)),
		Why: "they were given out by a program that knows nothing of loans, such as upstream's; bgpd on the node doesn't announce them by themselves before felix starts anew there (a node that runs upstream's programs needs no loan)",
		Do:  "calicoctl ipam fsck --repair writes it", Mendable: true, Block: b.Prefix, Node: node, Seen: seen, Stamp: stamp(seen),
	})
}
