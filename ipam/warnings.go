package ipam

import "fmt"

// Warning says that something will run out.
type Warning struct {
	// Topic is what: a pool, or the blocks of an IP version.
	Topic string
	// Line says how far it is, and what would help.
	Line string
}

// Warnings are what an operator should see to before assignments fail: at 80 % of the
// blocks that a node may have, and of a pool's.
func (s Stats) Warnings() []Warning {
	var out []Warning
	for _, v := range []struct {
		f      family
		blocks int
	}{{ipv4, s.Blocks4}, {ipv6, s.Blocks6}} {
		if s.Limit > 1 && nearlyAll(v.blocks, s.Limit) {
			out = append(out, Warning{
				Topic: v.f.String() + " blocks",
				Line: fmt.Sprintf("this node has %d of the %d %s blocks it may have: raise the limit (calicoctl ipam configure --max-blocks-per-host=%d), or run fewer pods on it",
					v.blocks, s.Limit, v.f, 2*s.Limit),
			})
		}
	}
	for _, p := range s.Pools {
		if p.Total > 1 && nearlyAll(p.Claimed, p.Total) {
			out = append(out, Warning{
				Topic: "pool " + p.Pool,
				Line: fmt.Sprintf("IP pool %s (%s): nodes have %d of its %d blocks: add a pool (kind: IPPool, calicoctl apply), or find blocks to free (calicoctl ipam show --show-blocks)",
					p.Pool, p.CIDR, p.Claimed, p.Total),
			})
		}
	}
	return out
}

// nearlyAll is 80 %.
func nearlyAll(n, of int) bool { return n*5 >= of*4 }
