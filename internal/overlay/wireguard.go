package overlay

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"

	"tortie/internal/api"
)

// Key is the public key of one node's end of WireGuard; the zero Key is none.
type Key [32]byte

// String is the key as a Node has it.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// ParseKey reads a key.
func ParseKey(s string) (k Key, ok bool) {
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) != len(k) {
		return Key{}, false
	}
	k = Key(raw)
	return k, k != Key{}
}

// Secure is one node's end of WireGuard in one family of addresses.
type Secure struct {
	Key Key
	// Tunnel is the address of its WireGuard device; invalid for none.
	Tunnel netip.Addr
	// Refused is why a View does not use what the Node names.
	Refused string
}

func (s Secure) ready() bool { return s.Key != Key{} }

// Has reports whether there is a key.
func (s Secure) Has() bool { return s.ready() }

// Keyed is the Node with the keys of its status.
func (n Node) Keyed(s *api.NodeStatus) Node {
	n.V4.Secure.Key, _ = ParseKey(s.WireguardPublicKey)
	n.V6.Secure.Key, _ = ParseKey(s.WireguardPublicKeyV6)
	return n
}

// secure settles who has which key and tunnel address: of two nodes with one of them,
// the first by name. What is left with a key can be sent to.
func (v View) secure(names []string, taken map[netip.Addr]string) {
	keys := map[Key]string{}
	for _, name := range names {
		n := v.nodes[name]
		for _, end := range []*End{&n.V4, &n.V6} {
			s := &end.Secure
			if s.Key == (Key{}) || !end.Address.IsValid() {
				*s = Secure{}
				continue
			}
			switch owner := keys[s.Key]; {
			case owner != "":
				s.Refused = fmt.Sprintf("node %s has the WireGuard key %s already", owner, s.Key)
			case !s.Tunnel.IsValid():
				s.Refused = "it has a WireGuard key and no tunnel address"
			default:
				s.Refused = v.misplaced(*end, s.Tunnel, "WireGuard", taken)
			}
			if s.Refused != "" {
				*s = Secure{Refused: s.Refused}
				continue
			}
			keys[s.Key], taken[s.Tunnel] = name, name
		}
		v.nodes[name] = n
	}
}

// secured is the other node's end if packets to a destination there are encrypted: it
// lies in an IP pool, and both nodes have published a key. That is all there is to
// it, whatever the pool's mode: what is encrypted is encapsulated, too.
func (v View) secured(dst netip.Prefix, node string) (there End, ok bool) {
	there = v.nodes[node].End(dst.Addr())
	ok = there.Secure.ready() && v.nodes[v.self].End(dst.Addr()).Secure.ready() && v.pooled(dst)
	return there, ok
}

// pooled reports whether a destination lies in an IP pool.
func (v View) pooled(dst netip.Prefix) bool {
	return slices.ContainsFunc(v.pools, func(p Pool) bool { return p.Prefix.Bits() <= dst.Bits() && p.Prefix.Contains(dst.Addr()) })
}

// Peer is another node's end.
type Peer struct {
	Node string
	End  End
}

// Secured is this node's end of WireGuard in one version of IP and the others', by
// name; false when it has none.
func (v View) Secured(v6 bool) (here End, peers []Peer, ok bool) {
	family := func(n Node) End {
		if v6 {
			return n.V6
		}
		return n.V4
	}
	if here = family(v.nodes[v.self]); !here.Secure.ready() {
		return here, nil, false
	}
	for name, n := range v.nodes {
		if end := family(n); end.Secure.ready() && name != v.self {
			peers = append(peers, Peer{name, end})
		}
	}
	slices.SortFunc(peers, func(a, b Peer) int { return cmp.Compare(a.Node, b.Node) })
	return here, peers, true
}

// Unsecured are the other nodes with an address whose packets go unencrypted though this
// node has a key, and why, by name.
func (v View) Unsecured() []string {
	var out []string
	self := v.nodes[v.self]
	for name, n := range v.nodes {
		for _, pair := range [][2]End{{self.V4, n.V4}, {self.V6, n.V6}} {
			here, there := pair[0], pair[1]
			if name == v.self || !here.Secure.ready() || !there.Address.IsValid() || there.Secure.ready() {
				continue
			}
			version := version(there.Address)
			out = append(out, fmt.Sprintf("node %s: %s", name, or(there.Secure.Refused, "it has published no WireGuard key for "+version)))
		}
	}
	slices.Sort(out)
	return out
}
