package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

func mustEncode(t testing.TB, reg *api.Registry, obj api.Object, unknown api.Unknown) string {
	t.Helper()
	value, err := reg.Encode(obj, unknown)
	if err != nil {
		t.Fatal(err)
	}
	return string(value)
}

func mustDecode(t testing.TB, reg *api.Registry, key api.Key, value string) (api.Object, api.Unknown) {
	t.Helper()
	obj, unknown, err := reg.Decode(key, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return obj, unknown
}

func TestEncodeOmitsResourceVersionAndUnsetCreationTime(t *testing.T) {
	reg := api.NewRegistry()
	node := &api.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", ResourceVersion: "17"}}
	want := `{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n1"},"spec":{},"status":{}}`
	if got := mustEncode(t, reg, node, api.Unknown{}); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if node.ResourceVersion != "17" {
		t.Error("Encode changed the object")
	}
}

func TestDecodeIgnoresAStoredResourceVersion(t *testing.T) {
	obj, _ := mustDecode(t, api.NewRegistry(), api.Key{Kind: api.KindNode, Name: "n1"},
		`{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n1","resourceVersion":"5"},"spec":{}}`)
	if obj.GetResourceVersion() != "" {
		t.Errorf("resourceVersion is %q", obj.GetResourceVersion())
	}
}

func TestEncodeEscapesLikeUpstream(t *testing.T) {
	policy := v3.NewGlobalNetworkPolicy()
	policy.Name, policy.Spec.Selector = "p", "a == 'b' && c == '<ü>'"
	got := mustEncode(t, api.NewRegistry(), policy, api.Unknown{})
	if want := `"selector":"a == 'b' \u0026\u0026 c == '\u003cü\u003e'"`; !strings.Contains(got, want) {
		t.Errorf("%s\nlacks %s", got, want)
	}
}

func TestPolicyNameTravelsInAnAnnotation(t *testing.T) {
	const meta = `"uid":"u","labels":{"projectcalico.org/tier":"default"}`
	tests := []struct {
		name, stored, annotations, tier string
		want                            string
		wantAnnotations                 map[string]string
	}{
		{name: "as given", stored: "p", annotations: `{"projectcalico.org/metadata":"{\"name\":\"p\"}"}`, tier: "default", want: "p"},
		{
			name: "among other annotations", stored: "p", annotations: `{"a":"b","projectcalico.org/metadata":"{\"name\":\"p\"}"}`,
			tier: "default", want: "p", wantAnnotations: map[string]string{"a": "b"},
		},
		{name: "the annotation wins over the key", stored: "default.p", annotations: `{"projectcalico.org/metadata":"{\"name\":\"p\"}"}`, tier: "default", want: "p"},
		{name: "a prefix that the annotation has is kept", stored: "default.p", annotations: `{"projectcalico.org/metadata":"{\"name\":\"default.p\"}"}`, tier: "default", want: "default.p"},
		{name: "before 3.29 the default tier was a prefix", stored: "default.p", tier: "default", want: "p"},
		{name: "before tiers", stored: "default.p", tier: "", want: "p"},
		{name: "the prefix of another tier is kept", stored: "security.p", tier: "security", want: "security.p"},
		{name: "default. in another tier is kept", stored: "default.p", tier: "security", want: "default.p"},
		{name: "a broken annotation", stored: "p", annotations: `{"projectcalico.org/metadata":"?"}`, tier: "default", want: "p"},
	}
	reg := api.NewRegistry()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			annotations := ""
			if tt.annotations != "" {
				annotations = `,"annotations":` + tt.annotations
			}
			key := api.Key{Kind: api.KindGlobalNetworkPolicy, Name: tt.stored}
			obj, unknown := mustDecode(t, reg, key, `{"kind":"GlobalNetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"`+
				tt.stored+`",`+meta+annotations+`},"spec":{"tier":"`+tt.tier+`"}}`)
			if obj.GetName() != tt.want {
				t.Errorf("the name is %q, want %q", obj.GetName(), tt.want)
			}
			if diff := cmp.Diff(tt.wantAnnotations, obj.GetAnnotations()); diff != "" {
				t.Errorf("annotations: %s", diff)
			}
			again := mustEncode(t, reg, obj, unknown)
			for _, text := range []string{`"name":"` + tt.stored + `",`, `"projectcalico.org/metadata":"{\"name\":\"` + tt.want + `\"}"`} {
				if !strings.Contains(again, text) {
					t.Errorf("%s\nlacks %s", again, text)
				}
			}
			if diff := cmp.Diff(tt.wantAnnotations, obj.GetAnnotations()); diff != "" {
				t.Errorf("Encode changed the object's annotations: %s", diff)
			}
		})
	}
}

func TestDecodeTakesIdentityFromTheKey(t *testing.T) {
	reg := api.NewRegistry()
	affinity, _ := mustDecode(t, reg, api.Key{Kind: api.KindBlockAffinity, Name: "virtual:load-balancer/10.0.0.0/26"}, `{"state":"pending","deleted":false}`)
	want := api.BlockAffinitySpec{State: api.AffinityPending, Type: api.AffinityVirtual, Node: "load-balancer", CIDR: "10.0.0.0/26"}
	if diff := cmp.Diff(want, affinity.(*api.BlockAffinity).Spec); diff != "" {
		t.Error(diff)
	}
	if affinity.GetName() != "virtual:load-balancer/10.0.0.0/26" {
		t.Errorf("name %q", affinity.GetName())
	}
	handle, _ := mustDecode(t, reg, api.HandleKey("net.c"), `{"block":{},"deleted":false}`)
	if handle.(*api.IPAMHandle).Spec.HandleID != "net.c" {
		t.Error("the handle has no identifier")
	}
	node, _ := mustDecode(t, reg, api.Key{Kind: api.KindNode, Name: "n1"}, `{"metadata":{"name":"other"}}`)
	if node.GetName() != "n1" || node.GetObjectKind().GroupVersionKind().Kind != "Node" {
		t.Errorf("node %q, kind %v", node.GetName(), node.GetObjectKind().GroupVersionKind())
	}
}

func TestDecodeToleratesAnAffinityWithoutValue(t *testing.T) {
	reg := api.NewRegistry()
	key := api.Key{Kind: api.KindBlockAffinity, Name: "host:n1/10.0.0.0/26"}
	for _, value := range []string{"", "{}"} {
		obj, unknown := mustDecode(t, reg, key, value)
		if s := obj.(*api.BlockAffinity).Spec; s.State != "" || s.Node != "n1" || !unknown.Empty() {
			t.Errorf("value %q: %+v", value, s)
		}
	}
}

func TestDecodeRefusesBrokenValues(t *testing.T) {
	pool := api.Key{Kind: api.KindIPPool, Name: "p"}
	tests := []struct {
		key         api.Key
		value, want string
	}{
		{pool, ``, "decode IPPool(p)"},
		{pool, `{"kind":"IPPool"`, "decode IPPool(p)"},
		{pool, `{"kind":"BGPPeer"}`, `of kind "BGPPeer"`},
		{pool, `{"spec":{"blockSize":"26"}}`, "blockSize"},
		{api.HandleKey("h"), ``, "decode IPAMHandle(h)"},
		{api.Key{Kind: api.KindIPAMBlock, Name: "10.0.0.0/26"}, `{"cidr":"10.0.1.0/26"}`, `of block "10.0.1.0/26"`},
		{api.Key{Kind: "Gadget", Name: "g"}, `{}`, "unknown"},
	}
	reg := api.NewRegistry()
	for _, tt := range tests {
		obj, _, err := reg.Decode(tt.key, []byte(tt.value))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Decode(%v, %s) = %v, %v; want an error with %q", tt.key, tt.value, obj, err, tt.want)
		}
	}
}

// TestDecodeNamesTheFieldThatCantBeRead: in our words, and only what is in the way;
// an unknown field is not.
func TestDecodeNamesTheFieldThatCantBeRead(t *testing.T) {
	pool, peer := api.Key{Kind: api.KindIPPool, Name: "p"}, api.Key{Kind: api.KindBGPPeer, Name: "p"}
	block := api.Key{Kind: api.KindIPAMBlock, Name: "10.65.0.0/26"}
	for _, tt := range []struct {
		key         api.Key
		value, want string
	}{
		{pool, `{"kind":"IPPool","new":1,"spec":{"cidr":10,"cidr":10}}`, `decode IPPool(p): spec.cidr: want a string (in quotes), got 10; spec.cidr: want a string (in quotes), got 10`},
		{pool, `{"kind":"IPPool","spec":{"new":[],"blockSize":"26"}}`, `decode IPPool(p): spec.blockSize: want an integer, got the string "26"`},
		{pool, `{"kind":"IPPool","metadata":{"creationTimestamp":"now"}}`, `decode IPPool(p): metadata.creationTimestamp: want a time such as "2026-01-31T15:04:05Z" (RFC 3339), got the string "now"`},
		{peer, `{"spec":{"asNumber":-5}}`, `decode BGPPeer(p): spec.asNumber: want an AS number, 1 to 4294967295 or "HIGH.LOW" with two numbers up to 65535, got -5`},
		{block, `{"cidr":"10.65.0.0/26","allocations":["x"]}`, `decode IPAMBlock(10.65.0.0/26): allocations[0]: want an integer, got the string "x"`},
		{pool, `[]`, `decode IPPool(p): want an object, got a list`},
		{pool, `5`, `decode IPPool(p): want an object, got 5`},
		{pool, ``, `decode IPPool(p): broken JSON: nothing in it`},
		{pool, `{"spec":`, `decode IPPool(p): broken JSON at byte 8: unexpected end of JSON input`},
	} {
		_, _, err := api.NewRegistry().Decode(tt.key, []byte(tt.value))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s\ngot  %v\nwant %s", tt.value, err, tt.want)
		}
	}
}

func TestSequenceNumbersKeepAllTheirDigits(t *testing.T) {
	reg := api.NewRegistry()
	key := api.Key{Kind: api.KindIPAMBlock, Name: "10.0.0.0/32"}
	obj, _ := mustDecode(t, reg, key, `{"cidr":"10.0.0.0/32","affinity":null,"allocations":[null],"unallocated":[0],"attributes":[],"sequenceNumber":18446744073709551615,"sequenceNumberForAllocation":{"0":9007199254740993},"deleted":false}`)
	spec := obj.(*api.IPAMBlock).Spec
	if spec.SequenceNumber != 18446744073709551615 || spec.SequenceNumberForAllocation["0"] != 9007199254740993 {
		t.Errorf("%d, %v", spec.SequenceNumber, spec.SequenceNumberForAllocation)
	}
}

func TestKubeControllersStatusIsKept(t *testing.T) {
	reg := api.NewRegistry()
	key := api.Key{Kind: api.KindKubeControllersConfiguration, Name: "default"}
	const value = `{"kind":"KubeControllersConfiguration","apiVersion":"projectcalico.org/v3","metadata":{"name":"default"},"spec":{"controllers":{}},"status":{"runningConfig":{"healthChecks":"Enabled","controllers":{}},"environmentVars":{"A":"b"}}}`
	obj, unknown := mustDecode(t, reg, key, value)
	if got := mustEncode(t, reg, obj, unknown); got != value || !unknown.Empty() {
		t.Errorf("got  %s\nwant %s", got, value)
	}
}

func TestEncodeRefusesForeignTypes(t *testing.T) {
	if value, err := api.NewRegistry().Encode(&v3.IPAMConfiguration{}, api.Unknown{}); err == nil {
		t.Errorf("got %s", value)
	}
}

// FuzzDecode: whatever can be decoded is encoded to something that decodes to
// the same object and encodes to the same bytes.
func FuzzDecode(f *testing.F) {
	for _, s := range samples(f) {
		f.Add(s.path, []byte(s.value))
	}
	f.Add("/calico/tortie/v1/loans/n1/10.0.0.0-26", []byte(`{"node":"n1","cidr":"10.0.0.0/26"}`))
	f.Add("/calico/tortie/v1/history/10.0.0.0-26.1", []byte(`{"first":16,"releases":[{"address":"10.0.0.5","handle":"h","attributes":{"node":"n"},"released":"2026-11-22T02:00:29Z","reason":"CNI DEL"}]}`))
	f.Add("/calico/ipam/v2/config", []byte(`{"auto_allocate_blocks":true,"maxBlocksPerHost":4,"ipCooldownSeconds":30}`))
	f.Add("/calico/resources/v3/projectcalico.org/ippools/p", []byte(`{"spec":{"x":[{"y":1e400}],"cidr":"a"},"z":null,"metadata":{"labels":{"a":"b"},"q":{}}}`))
	reg := api.NewRegistry()
	f.Fuzz(func(t *testing.T, path string, value []byte) {
		key, err := reg.ParsePath(path)
		if err != nil {
			return
		}
		obj, unknown, err := reg.Decode(key, value)
		if err != nil {
			return
		}
		first, err := reg.Encode(obj, unknown)
		if err != nil {
			t.Fatalf("%s: %v", value, err)
		}
		again, unknownAgain, err := reg.Decode(key, first)
		if err != nil {
			t.Fatalf("%s\nbecomes %s: %v", value, first, err)
		}
		second, err := reg.Encode(again, unknownAgain)
		if err != nil || string(first) != string(second) {
			t.Fatalf("%s\nbecomes %s\nbecomes %s, %v", value, first, second, err)
		}
		_ = reg.Validate(obj)
		reg.Default(obj)
	})
}

// blockValue is the value of a block of the given size, half of it allocated.
func blockValue(t testing.TB, reg *api.Registry, size int) []byte {
	owner, claimed := "host:node1", metav1.NewTime(time.Date(2026, 11, 22, 2, 1, 40, 0, time.UTC))
	block := &api.IPAMBlock{Spec: api.IPAMBlockSpec{
		CIDR: "10.65.0.0/26", Affinity: &owner, AffinityClaimTime: &claimed,
		Allocations: make([]*int, size), SequenceNumber: 1795312900295641371, SequenceNumberForAllocation: map[string]uint64{},
	}}
	for i := range size {
		if i%2 == 1 {
			block.Spec.Unallocated = append(block.Spec.Unallocated, i)
			continue
		}
		index, handle := len(block.Spec.Attributes), "k8s-pod-network.04cff94076271743f054483af1788f7662b5bdb58d4472472c04c61993431cc2"
		block.Spec.Allocations[i] = &index
		block.Spec.Attributes = append(block.Spec.Attributes, api.BlockAttributes{HandleID: &handle, ActiveOwnerAttrs: map[string]string{
			api.AttributeNode: "node1", api.AttributeNamespace: "default", api.AttributePod: "web-7d4b9c-x2x5z", api.AttributeTimestamp: "2026-11-22 02:01:40 +0000 UTC",
		}})
	}
	return []byte(mustEncode(t, reg, block, api.Unknown{}))
}

func BenchmarkBlock(b *testing.B) {
	reg := api.NewRegistry()
	key := api.Key{Kind: api.KindIPAMBlock, Name: "10.65.0.0/26"}
	value := blockValue(b, reg, 64)
	obj, unknown := mustDecode(b, reg, key, string(value))
	withUnknown := strings.Replace(string(value), `"secondary"`, `"new":1,"secondary"`, 1)
	newer, newerUnknown := mustDecode(b, reg, key, withUnknown)
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(value)))
		for b.Loop() {
			if _, _, err := reg.Decode(key, value); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(value)))
		for b.Loop() {
			if _, err := reg.Encode(obj, unknown); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encode with unknown fields", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := reg.Encode(newer, newerUnknown); err != nil {
				b.Fatal(err)
			}
		}
	})
}
