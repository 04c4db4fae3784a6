package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"tortie/internal/api"
)

// explain says why a call can't be served, and what would help.
func (w *writer) explain(c *call, f family, pools []pool, class error) error {
	_, skipped, err := w.considerPools(c.assign, f)
	if err != nil {
		return err
	}
	config := w.view.Config()
	e := w.exhausted(c.assign, f, class)
	e.Blocks = w.state.countBlocks(f)
	if !w.virtual() {
		e.Limit = w.blockLimit(config)
	}
	for _, p := range pools {
		t := w.tally(p)
		e.Free, e.Reserved, e.Cooling, e.Borrowed = e.Free+t.free, e.Reserved+t.reserved, e.Cooling+t.cooling, e.Borrowed+t.borrowed
		_, lendable := w.lendable(p)
		e.Lendable += lendable
		e.Pools = append(e.Pools, Verdict{Pool: p.name, CIDR: p.prefix.String(), Reason: w.whyFull(p, t, class, config)})
	}
	e.Pools = append(e.Pools, skipped...)
	e.Advice = w.advice(e, config)
	return e
}

// advice is what would help: commands.
func (w *writer) advice(e *ExhaustedError, config api.IPAMConfigSpec) string {
	var ways []string
	unknown := w.configUnknown()
	switch {
	case unknown != nil:
		ways = append(ways, upperFirst(ConfigAdvice(unknown)))
	case errors.Is(e.Class, ErrBlockLimit):
		ways = append(ways, fmt.Sprintf("Raise the limit (calicoctl ipam configure --max-blocks-per-host=%d), run fewer pods on this node, or use larger blocks (blockSize of a new pool)", 2*e.Limit))
	case !config.AutoAllocateBlocks:
		ways = append(ways, "Set auto_allocate_blocks to true in the IPAMConfig")
	default:
		ways = append(ways, "Add a pool (kind: IPPool, calicoctl apply), or find blocks and addresses to free: calicoctl ipam show --show-blocks, calicoctl ipam check")
	}
	if e.Cooling > 0 {
		ways = append(ways, "Addresses that cool down serve again in "+count(config.IPCooldownSeconds, "second")+" at most")
	}
	if config.StrictAffinity && e.Lendable > 0 && unknown == nil {
		ways = append(ways, "Nodes may use one another's blocks after calicoctl ipam configure --strictaffinity=false")
	}
	return strings.Join(ways, ". ")
}

// configUnknown is why nobody knows what the configuration allows; nil when it is known.
func (w *writer) configUnknown() error {
	v, ok := w.view.(ConfigView)
	if !ok {
		return nil
	}
	kept, err := v.ConfigProblem()
	if kept {
		return nil
	}
	return err
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// tally counts the addresses of the node's blocks in a pool.
type tally struct{ blocks, total, used, free, reserved, cooling, borrowed int }

func (w *writer) tally(p pool) tally {
	var t tally
	for _, prefix := range w.state.ownBlocks(p) {
		b := w.state.blocks[prefix]
		t.blocks++
		t.total += len(b.spec.Allocations)
		t.used += b.used()
		t.borrowed += b.lent(w.state.owner)
		for _, n := range b.spec.Unallocated {
			switch addr := b.addr(n); {
			case w.reserved.holds(addr):
				t.reserved++
			case w.reserved.contains(addr):
				t.cooling++
			default:
				t.free++
			}
		}
	}
	return t
}

// lent counts the addresses of a block that are used on other nodes.
func (b block) lent(owner api.Affinity) int {
	lent := 0
	for n, index := range b.spec.Allocations {
		if index != nil && b.borrowed(n, owner, true) {
			lent++
		}
	}
	return lent
}

// usedOn counts the addresses of a block that are used on a node.
func (b block) usedOn(node string) int {
	used := 0
	for _, index := range b.spec.Allocations {
		if index != nil && b.spec.Attributes[*index].ActiveOwnerAttrs[api.AttributeNode] == node {
			used++
		}
	}
	return used
}

// String is "2 blocks in it with 0 of 8 addresses free, 3 used, …"; what is zero is left
// out.
func (t tally) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s in it with %d free", count(t.blocks, "block"), t.free)
	for _, part := range []struct {
		n    int
		what string
	}{{t.used, "used"}, {t.borrowed, "of those borrowed by other nodes"}, {t.reserved, "reserved"}, {t.cooling, "cooling down"}} {
		if part.n > 0 {
			fmt.Fprintf(&s, ", %d %s", part.n, part.what)
		}
	}
	return s.String()
}

// whyFull is the verdict on a pool that could serve but for space.
func (w *writer) whyFull(p pool, t tally, class error, config api.IPAMConfigSpec) string {
	has := "the node has " + t.String()
	if w.virtual() {
		has = w.node + " has " + t.String()
	}
	unknown := w.configUnknown() != nil
	switch {
	case errors.Is(class, ErrBlockLimit):
		has += " and may claim no more"
	case unknown:
		has += ", and whether it may claim more is not known"
	case !config.AutoAllocateBlocks:
		has += " and claiming more is switched off"
	case w.tooFine(p):
		return "overlaps another pool with much smaller blocks"
	default:
		has += ", and no other block of the pool is free"
	}
	lenders, free := w.lendable(p)
	switch {
	case len(lenders) == 0:
		return has + "; no other node has an address to lend"
	case unknown:
		return has + fmt.Sprintf("; other nodes have %s with %d free, and whether it may borrow is not known", count(len(lenders), "block"), free)
	case config.StrictAffinity:
		return has + fmt.Sprintf("; other nodes have %s with %d free, but strictAffinity forbids to borrow", count(len(lenders), "block"), free)
	}
	return has + fmt.Sprintf("; other nodes can lend %d, not as many as are wanted", free)
}

// lendable is what others have free in a pool, reserved addresses included.
func (w *writer) lendable(p pool) (lenders []netip.Prefix, free int) {
	lenders = w.othersIn(p, func(o other) bool { return o.free > 0 })
	for _, prefix := range lenders {
		free += w.state.others[prefix].free
	}
	return lenders, free
}
