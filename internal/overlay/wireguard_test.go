package overlay_test

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tortie/internal/api"
	"tortie/internal/overlay"
)

func key(n byte) overlay.Key { return overlay.Key{n} }

// secureNode is one with keys: a zero byte is none.
func secureNode(name, v4 string, tunnel string, k byte) *api.Node {
	n := node(name, v4, "", "", "")
	n.Spec.Wireguard = &api.NodeWireguardSpec{InterfaceIPv4Address: tunnel}
	if k != 0 {
		n.Status.WireguardPublicKey = key(k).String()
	}
	return n
}

func secureView(self string, pools []overlay.Pool, nodes ...*api.Node) overlay.View {
	read := map[string]overlay.Node{}
	for _, n := range nodes {
		read[n.Name] = overlay.ReadNode(n.Name, &n.Spec).Keyed(&n.Status)
	}
	return overlay.NewView(self, read, pools)
}

// TestWireGuardCarriesWhereBothHaveKeys, whatever the pool's mode, and nothing outside of
// pools; else what carried before.
func TestWireGuardCarriesWhereBothHaveKeys(t *testing.T) {
	a := secureNode("a", "10.10.1.1/24", "10.65.0.1", 1)
	for _, tt := range []struct {
		name  string
		mode  overlay.Mode
		other *api.Node
		dst   string
		want  overlay.Carrier
		why   string // in Unsecured
	}{
		{"both have keys", overlay.Never, secureNode("b", "10.10.2.2/24", "10.65.1.1", 2), "10.65.1.0/26", overlay.WireGuard, ""},
		{"on one segment", overlay.Never, secureNode("b", "10.10.1.2/24", "10.65.1.1", 2), "10.65.1.0/26", overlay.WireGuard, ""},
		{"a borrowed address", overlay.Never, secureNode("b", "10.10.2.2/24", "10.65.1.1", 2), "10.65.0.9/32", overlay.WireGuard, ""},
		{"in no pool", overlay.Never, secureNode("b", "10.10.2.2/24", "10.65.1.1", 2), "10.99.1.0/26", overlay.BGP, ""},
		{"no key", overlay.Never, secureNode("b", "10.10.2.2/24", "10.65.1.1", 0), "10.65.1.0/26", overlay.BGP, "it has published no WireGuard key for IPv4"},
		{"no key, on a segment", overlay.CrossSubnet, secureNode("b", "10.10.1.2/24", "10.65.1.1", 0), "10.65.1.0/26", overlay.Segment, "it has published no"},
		{"no tunnel address", overlay.Never, secureNode("b", "10.10.2.2/24", "", 2), "10.65.1.0/26", overlay.BGP, "no tunnel address"},
		{"a tunnel address that is no pod's", overlay.Never, secureNode("b", "10.10.2.2/24", "192.0.2.1", 2), "10.65.1.0/26", overlay.BGP, "lies in no IP pool"},
		{"another's tunnel address", overlay.Never, secureNode("b", "10.10.2.2/24", "10.65.0.1", 2), "10.65.1.0/26", overlay.BGP, "node a has the WireGuard tunnel address"},
		{"another's key", overlay.Never, secureNode("b", "10.10.2.2/24", "10.65.1.1", 1), "10.65.1.0/26", overlay.BGP, "node a has the WireGuard key"},
		{"another version of IP", overlay.Never, secureNode("b", "10.10.2.2/24", "10.65.1.1", 2), "fd65::/122", overlay.BGP, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pools := []overlay.Pool{pool("10.65.0.0/16", tt.mode), pool("fd65::/48", tt.mode)}
			v := secureView("a", pools, a, tt.other)
			if way := v.To(netip.MustParsePrefix(tt.dst), "b"); way.Carrier != tt.want {
				t.Errorf("by %s, want %s", way.Carrier, tt.want)
			}
			if got := strings.Join(v.Unsecured(), "; "); !strings.Contains(got, tt.why) || tt.why == "" && got != "" {
				t.Errorf("unsecured %q, want %q", got, tt.why)
			}
			if _, peers, ok := v.Secured(false); !ok || (len(peers) == 1) != (tt.why == "") {
				t.Errorf("peers %v, %v", peers, ok)
			}
		})
	}
}

// TestBothEndsAgreeOnEncryption: what one sends encrypted the other expects to.
func TestBothEndsAgreeOnEncryption(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(name string) *api.Node {
			return secureNode(name, rapid.SampledFrom([]string{"", "10.10.1.1/24", "10.10.1.2/24", "10.10.2.3/24"}).Draw(rt, "address"),
				rapid.SampledFrom([]string{"", "10.65.0.1", "10.65.1.1", "10.10.1.9"}).Draw(rt, "tunnel"), rapid.SampledFrom([]byte{0, 1, 2}).Draw(rt, "key"))
		}
		a, b, c := draw("a"), draw("b"), draw("c")
		pools := []overlay.Pool{pool("10.65.0.0/16", overlay.Never)}
		there := secureView("a", pools, a, b, c).To(netip.MustParsePrefix("10.65.1.0/26"), "b")
		back := secureView("b", pools, a, b, c).To(netip.MustParsePrefix("10.65.0.0/26"), "a")
		if there.Carrier != back.Carrier {
			rt.Fatalf("there by %s, back by %s", there.Carrier, back.Carrier)
		}
	})
}

func TestKeyThatIsNone(t *testing.T) {
	for _, s := range []string{"", "AAAA", key(0).String(), key(1).String() + "A", " " + key(1).String()} {
		if k, ok := overlay.ParseKey(s); ok {
			t.Errorf("%q is %s", s, k)
		}
	}
	if k, ok := overlay.ParseKey(key(7).String()); !ok || k != key(7) {
		t.Error("a key is none")
	}
}
