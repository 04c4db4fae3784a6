package api_test

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tortie/internal/api"
)

func TestPathsOfIPAMRecords(t *testing.T) {
	block := netip.MustParsePrefix("10.20.166.128/26")
	block6 := netip.MustParsePrefix("fd00:20:0:df9b::/122")
	tests := map[string]api.Key{
		"/calico/ipam/v2/config":                                             api.IPAMConfigKey(),
		"/calico/ipam/v2/handle/net1.cont0123456789abcdef":                   api.HandleKey("net1.cont0123456789abcdef"),
		"/calico/ipam/v2/assignment/ipv4/block/10.20.166.128-26":             api.BlockKey(block),
		"/calico/ipam/v2/assignment/ipv6/block/fd00:20:0:df9b::-122":         api.BlockKey(block6),
		"/calico/ipam/v2/host/node1/ipv4/block/10.20.166.128-26":             api.BlockAffinityKey(api.HostAffinity("node1"), block),
		"/calico/ipam/v2/host/node1/ipv6/block/fd00:20:0:df9b::-122":         api.BlockAffinityKey(api.HostAffinity("node1"), block6),
		"/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.20.166.128-26":  api.BlockAffinityKey(api.Affinity{Type: api.AffinityVirtual, Name: "load-balancer"}, block),
		"/calico/tortie/v1/services/default/web":                             api.AdvertisedServiceKey("default", "web"),
		"/calico/tortie/v1/history/10.20.166.128-26.5":                       api.HistoryKey(block, 5),
		"/calico/tortie/v1/history/fd00:20:0:df9b::-122.0":                   api.HistoryKey(block6, 0),
		"/calico/tortie/v1/loans/node-1.example/10.20.166.128-26":            api.LoanKey("node-1.example", block),
		"/calico/tortie/v1/loans/node1/fd00:20:0:df9b::-122":                 api.LoanKey("node1", block6),
		"/calico/resources/v3/projectcalico.org/networksets/ns1/netset1":     {Kind: api.KindNetworkSet, Namespace: "ns1", Name: "netset1"},
		"/calico/resources/v3/projectcalico.org/felixconfigurations/node.n1": {Kind: api.KindFelixConfiguration, Name: "node.n1"},
	}
	reg := api.NewRegistry()
	for path, key := range tests {
		if got, err := reg.Path(key); err != nil || got != path {
			t.Errorf("Path(%v) = %q, %v; want %q", key, got, err, path)
		}
		if got, err := reg.ParsePath(path); err != nil || got != key {
			t.Errorf("ParsePath(%q) = %v, %v; want %v", path, got, err, key)
		}
	}
}

func TestParsePathRefusesWhatPathDoesNotMake(t *testing.T) {
	reg := api.NewRegistry()
	for _, path := range []string{
		"", "/", "/calico", "/registry/pods/x",
		"/calico/resources/v3/projectcalico.org/", "/calico/resources/v3/projectcalico.org/ippools",
		"/calico/resources/v3/projectcalico.org/ippools/", "/calico/resources/v3/projectcalico.org/ippools/a/b",
		"/calico/resources/v3/projectcalico.org/ippool/a", "/calico/resources/v3/projectcalico.org/pool/a",
		"/calico/resources/v3/projectcalico.org/networkpolicies/a", "/calico/resources/v3/projectcalico.org/networkpolicies//a",
		"/calico/resources/v3/projectcalico.org/networkpolicies/ns/", "/calico/resources/v3/projectcalico.org/networkpolicies/ns/a/b",
		"/calico/resources/v3/projectcalico.org/ipamblocks/a", "/calico/resources/v3/projectcalico.org/gadgets/a",
		"/calico/ipam/v2/", "/calico/ipam/v2/config/", "/calico/ipam/v2/other", "/calico/ipam/v2/handle/", "/calico/ipam/v2/handle/a/b",
		"/calico/ipam/v2/assignment/", "/calico/ipam/v2/assignment/ipv4/block/", "/calico/ipam/v2/assignment/ipv4/10.0.0.0-26",
		"/calico/ipam/v2/assignment/ipv4/block/10.0.0.1-26", "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0/26",
		"/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-33", "/calico/ipam/v2/assignment/ipv4/block/fd00::-122",
		"/calico/ipam/v2/assignment/ipv6/block/10.0.0.0-26", "/calico/ipam/v2/assignment/ipv6/block/fd00:0::-122",
		"/calico/ipam/v2/assignment/ipv6/block/FD00::-122", "/calico/ipam/v2/assignment/ipv6/block/::ffff:10.0.0.0-122",
		"/calico/ipam/v2/assignment/ipv5/block/10.0.0.0-26",
		"/calico/resources/v3/projectcalico.org/advertisedservices/ns/a", "/calico/tortie/v1/", "/calico/tortie/v1/services/a",
		"/calico/tortie/v1/history/10.0.0.0-26", "/calico/tortie/v1/history/10.0.0.1-26.0", "/calico/tortie/v1/history/10.0.0.0-26.x",
		"/calico/tortie/v1/history/10.0.0.0-26.01", "/calico/tortie/v1/history/10.0.0.0-26.-1", "/calico/tortie/v1/history/10.0.0.0/26.1",
		"/calico/tortie/v1/loans/node1", "/calico/tortie/v1/loans//10.0.0.0-26", "/calico/tortie/v1/loans/node1/10.0.0.1-26",
		"/calico/tortie/v1/loans/node1/10.0.0.0/26", "/calico/tortie/v1/loans/a/b/10.0.0.0-26",
		"/calico/tortie/v1/services//a", "/calico/tortie/v1/services/ns/", "/calico/tortie/v1/services/ns/a/b",
		"/calico/ipam/v2/host/node1", "/calico/ipam/v2/host/node1/ipv4/block/", "/calico/ipam/v2/host//ipv4/block/10.0.0.0-26",
	} {
		key, err := reg.ParsePath(path)
		if err == nil {
			t.Errorf("ParsePath(%q) = %v, want an error", path, key)
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("ParsePath(%q): the error %q doesn't name the path", path, err)
		}
	}
}

func TestPathRefusesKeysWithoutAPlace(t *testing.T) {
	reg := api.NewRegistry()
	for _, key := range []api.Key{
		{},
		{Kind: "Gadget", Name: "x"},
		{Kind: api.KindIPPool},
		{Kind: api.KindIPPool, Namespace: "ns", Name: "x"},
		{Kind: api.KindNetworkPolicy, Name: "x"},
		{Kind: api.KindNode, Name: "rack1/node1"},
		{Kind: api.KindNetworkPolicy, Namespace: "a/b", Name: "x"},
		{Kind: api.KindIPAMBlock, Name: "10.0.0.0"},
		{Kind: api.KindIPAMBlock, Name: "10.0.0.1/26"},
		{Kind: api.KindBlockAffinity, Name: "node1/10.0.0.0/26"},
		{Kind: api.KindBlockAffinity, Name: "host:node1/10.0.0.1/26"},
		{Kind: api.KindIPAMHandle, Name: "a/b"},
		{Kind: api.KindIPAMConfig, Name: "other"},
	} {
		if path, err := reg.Path(key); err == nil {
			t.Errorf("Path(%v) = %q, want an error", key, path)
		}
	}
}

func TestPrefix(t *testing.T) {
	const resources = "/calico/resources/v3/projectcalico.org/"
	tests := []struct {
		kind             api.Kind
		namespace, names string
		want             string
	}{
		{api.KindIPPool, "", "", resources + "ippools/"},
		{api.KindIPPool, "", "po", resources + "ippools/po"},
		{api.KindWorkloadEndpoint, "", "", resources + "workloadendpoints/"},
		{api.KindWorkloadEndpoint, "", "node1-", resources + "workloadendpoints/"},
		{api.KindWorkloadEndpoint, "ns1", "", resources + "workloadendpoints/ns1/"},
		{api.KindWorkloadEndpoint, "ns1", "node1-k8s-mypod-", resources + "workloadendpoints/ns1/node1-k8s-mypod-"},
		{api.KindAdvertisedService, "", "", "/calico/tortie/v1/services/"},
		{api.KindAdvertisedService, "ns1", "we", "/calico/tortie/v1/services/ns1/we"},
		{api.KindIPAMLoan, "", api.LoanPrefix("node1"), "/calico/tortie/v1/loans/node1/"},
		{api.KindIPAMHistory, "", "10.0.0.0-26.", "/calico/tortie/v1/history/10.0.0.0-26."},
		{api.KindIPAMConfig, "", "", "/calico/ipam/v2/config"},
		{api.KindIPAMHandle, "", "", "/calico/ipam/v2/handle/"},
		{api.KindIPAMHandle, "", "net1.", "/calico/ipam/v2/handle/net1."},
		{api.KindIPAMBlock, "", "", "/calico/ipam/v2/assignment/"},
		{api.KindIPAMBlock, "", "10", "/calico/ipam/v2/assignment/"},
		{api.KindIPAMBlock, "", "10.0.0.0/2", "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-2"},
		{api.KindIPAMBlock, "", "fd00:", "/calico/ipam/v2/assignment/ipv6/block/fd00:"},
		{api.KindBlockAffinity, "", "", "/calico/ipam/v2/"},
		{api.KindBlockAffinity, "", "host:", "/calico/ipam/v2/host/"},
		{api.KindBlockAffinity, "", "host:node1", "/calico/ipam/v2/host/node1"},
		{api.KindBlockAffinity, "", "host:node1/", "/calico/ipam/v2/host/node1/"},
		{api.KindBlockAffinity, "", "host:node1/10.0.0.0/26", "/calico/ipam/v2/host/node1/ipv4/block/10.0.0.0-26"},
	}
	reg := api.NewRegistry()
	for _, tt := range tests {
		got, err := reg.Prefix(tt.kind, tt.namespace, tt.names)
		if err != nil || got != tt.want {
			t.Errorf("Prefix(%s, %q, %q) = %q, %v; want %q", tt.kind, tt.namespace, tt.names, got, err, tt.want)
		}
	}
	for _, bad := range []struct {
		kind             api.Kind
		namespace, names string
	}{{"Gadget", "", ""}, {api.KindIPPool, "ns", ""}, {api.KindNetworkPolicy, "a/b", ""}} {
		if got, err := reg.Prefix(bad.kind, bad.namespace, bad.names); err == nil {
			t.Errorf("Prefix(%v) = %q, want an error", bad, got)
		}
	}
}

// keys generates keys of every kind.
func keys(reg *api.Registry) *rapid.Generator[api.Key] {
	name := rapid.StringMatching(`[a-z0-9]([a-z0-9.%:-]{0,20}[a-z0-9])?`)
	block := rapid.Custom(func(t *rapid.T) netip.Prefix {
		if rapid.Bool().Draw(t, "v4") {
			b := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "bytes")
			return netip.PrefixFrom(netip.AddrFrom4([4]byte(b)), rapid.IntRange(0, 32).Draw(t, "bits")).Masked()
		}
		b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 0, 1, 0xfd, 0xff}), 16, 16).Draw(t, "bytes")
		return netip.PrefixFrom(netip.AddrFrom16([16]byte(b)), rapid.IntRange(0, 128).Draw(t, "bits")).Masked()
	}).Filter(func(p netip.Prefix) bool { return !p.Addr().Is4In6() })
	return rapid.Custom(func(t *rapid.T) api.Key {
		info := rapid.SampledFrom(reg.Kinds()).Draw(t, "kind")
		switch info.Kind {
		case api.KindIPAMConfig:
			return api.IPAMConfigKey()
		case api.KindIPAMBlock:
			return api.BlockKey(block.Draw(t, "block"))
		case api.KindBlockAffinity:
			owner := api.Affinity{Type: rapid.SampledFrom([]api.AffinityType{api.AffinityHost, api.AffinityVirtual}).Draw(t, "type"), Name: name.Draw(t, "owner")}
			return api.BlockAffinityKey(owner, block.Draw(t, "block"))
		case api.KindIPAMHistory:
			return api.HistoryKey(block.Draw(t, "block"), rapid.IntRange(0, 1<<20).Draw(t, "page"))
		case api.KindIPAMLoan:
			return api.LoanKey(name.Draw(t, "node"), block.Draw(t, "block"))
		}
		key := api.Key{Kind: info.Kind, Name: name.Draw(t, "name")}
		if info.Namespaced {
			key.Namespace = name.Draw(t, "namespace")
		}
		return key
	})
}

func TestParsePathIsTheInverseOfPath(t *testing.T) {
	reg := api.NewRegistry()
	rapid.Check(t, func(t *rapid.T) {
		key := keys(reg).Draw(t, "key")
		path, err := reg.Path(key)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := reg.ParsePath(path); err != nil || got != key {
			t.Fatalf("ParsePath(%q) = %v, %v; want %v", path, got, err, key)
		}
		// Every range that includes the key has a prefix of its path.
		for n := range len(key.Name) + 1 {
			prefix, err := reg.Prefix(key.Kind, key.Namespace, key.Name[:n])
			if err != nil || !strings.HasPrefix(path, prefix) {
				t.Fatalf("Prefix of names %q is %q, %v; it doesn't take in %q", key.Name[:n], prefix, err, path)
			}
		}
	})
}

func FuzzParsePath(f *testing.F) {
	for _, s := range samples(f) {
		f.Add(s.path)
	}
	f.Add("/calico/ipam/v2/virtual/load-balancer/ipv6/block/fd00::-122")
	reg := api.NewRegistry()
	f.Fuzz(func(t *testing.T, path string) {
		key, err := reg.ParsePath(path)
		if err != nil {
			return
		}
		if again, err := reg.Path(key); err != nil || again != path {
			t.Fatalf("%q parses to %v, whose path is %q, %v", path, key, again, err)
		}
	})
}
