package calc

import (
	"fmt"
	"net/netip"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

type pool struct {
	prefix     netip.Prefix
	masquerade bool
	err        error
}

// pools collects the IP pools.
type pools struct{ byKey map[api.Key]pool }

func newPools() pools { return pools{byKey: map[api.Key]pool{}} }

func (p *pools) update(u datastore.SyncUpdate) {
	delete(p.byKey, u.Key)
	switch {
	case u.Invalid != nil:
		p.byKey[u.Key] = pool{err: u.Invalid.Err}
	case u.Entry != nil:
		obj, ok := u.Entry.Object.(*v3.IPPool)
		if !ok {
			return
		}
		prefix, err := parseNetwork(obj.Spec.CIDR)
		if err != nil {
			err = fmt.Errorf("spec.cidr: %w", err)
		}
		p.byKey[u.Key] = pool{prefix: prefix, masquerade: obj.Spec.NATOutgoing, err: err}
	}
}

func (p *pools) prefixes(problems *problemList) (all, masquerade []netip.Prefix) {
	for key, pool := range p.byKey {
		if pool.err != nil {
			problems.add(key, "%v; the pool is left out of outgoing NAT", pool.err)
			continue
		}
		all = append(all, pool.prefix)
		if pool.masquerade {
			masquerade = append(masquerade, pool.prefix)
		}
	}
	return sortedPrefixes(all), sortedPrefixes(masquerade)
}

type block struct {
	prefix    netip.Prefix
	confirmed bool
	err       error
}

// blocks collects the blocks this node claims.
type blocks struct {
	owner api.Affinity
	byKey map[api.Key]block
}

func newBlocks(node string) blocks {
	return blocks{owner: api.HostAffinity(node), byKey: map[api.Key]block{}}
}

func (b *blocks) update(u datastore.SyncUpdate) {
	delete(b.byKey, u.Key)
	owner, prefix, err := api.ParseBlockAffinityName(u.Key.Name)
	if err == nil && owner != b.owner {
		return
	}
	switch {
	case u.Invalid != nil:
		b.byKey[u.Key] = block{err: u.Invalid.Err}
	case u.Entry != nil:
		obj, ok := u.Entry.Object.(*api.BlockAffinity)
		if !ok {
			return
		}
		if err == nil && prefix != prefix.Masked() {
			err = fmt.Errorf("%s has host bits set", prefix)
		}
		b.byKey[u.Key] = block{prefix: prefix, confirmed: isConfirmed(&obj.Spec), err: err}
	}
}

// isConfirmed takes an empty state for confirmed: old stores hold affinities
// without a value.
func isConfirmed(spec *api.BlockAffinitySpec) bool {
	return !spec.Deleted && (spec.State == api.AffinityConfirmed || spec.State == "")
}

func (b *blocks) confirmed(problems *problemList) []netip.Prefix {
	var out []netip.Prefix
	for key, block := range b.byKey {
		switch {
		case block.err != nil:
			problems.add(key, "%v; the block is not blackholed on this node", block.err)
		case block.confirmed:
			out = append(out, block.prefix)
		}
	}
	return sortedPrefixes(out)
}

// self is this node's own Node object.
type self struct {
	node    string
	key     api.Key
	bgp     api.NodeBGPSpec
	invalid error
}

func (s *self) update(u datastore.SyncUpdate) {
	if u.Key.Name != s.node {
		return // a node whose name starts with ours
	}
	s.key, s.bgp, s.invalid = u.Key, api.NodeBGPSpec{}, nil
	switch {
	case u.Invalid != nil:
		s.invalid = u.Invalid.Err
	case u.Entry != nil:
		if obj, ok := u.Entry.Object.(*api.Node); ok && obj.Spec.BGP != nil {
			s.bgp = *obj.Spec.BGP
		}
	}
}

func (s *self) addrs(problems *problemList) []netip.Prefix {
	if s.invalid != nil {
		problems.add(s.key, "%v; this node's addresses are unknown", s.invalid)
		return nil
	}
	var out []netip.Prefix
	for _, f := range []struct{ name, text string }{
		{"spec.bgp.ipv4Address", s.bgp.IPv4Address},
		{"spec.bgp.ipv6Address", s.bgp.IPv6Address},
	} {
		if f.text == "" {
			continue
		}
		p, err := parseInterfaceAddr(f.text)
		if err != nil {
			problems.add(s.key, "%s: %v", f.name, err)
			continue
		}
		out = append(out, p)
	}
	return out
}

// parseNetwork reads a prefix without host bits.
func parseNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network such as 10.65.0.0/16", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has host bits set, want %s", s, p.Masked())
	}
	return p, nil
}

// parseInterfaceAddr reads an address with the length of its subnet; without one
// it is the address alone.
func parseInterfaceAddr(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not an address such as 192.0.2.1/24", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}
