package api_test

import (
	"testing"

	"tortie/internal/api"
)

// fullFilter has every field of v3.32, in the order in which it is stored.
const fullFilter = `{"kind":"BGPFilter","apiVersion":"projectcalico.org/v3","metadata":{"name":"f"},"spec":{` +
	`"exportV4":[{"cidr":"10.65.0.0/16","prefixLength":{"min":26,"max":32},"source":"RemotePeers","interface":"eth*","matchOperator":"In",` +
	`"peerType":"eBGP","communities":{"values":["65000:1"]},"asPathPrefix":[65001,4200000000],"priority":512,"action":"Accept","operations":[` +
	`{"addCommunity":{"value":"65000:1:2"}},{"prependASPath":{"prefix":[65000,65000]}},{"setPriority":{"value":1024}}]}],` +
	`"importV6":[{"action":"Reject"}]}}`

func TestFilterOfV332IsReadAndWrittenWhole(t *testing.T) {
	reg := api.NewRegistry()
	key := api.Key{Kind: api.KindBGPFilter, Name: "f"}
	obj, unknown, err := reg.Decode(key, []byte(fullFilter))
	if err != nil || !unknown.Empty() {
		t.Fatalf("decode: %v, unknown fields: %v", err, !unknown.Empty())
	}
	if err := reg.Validate(obj); err != nil {
		t.Error(err)
	}
	clone := obj.DeepCopyObject().(*api.BGPFilter)
	rule := &obj.(*api.BGPFilter).Spec.ExportV4[0]
	*rule.PrefixLength.Min, *rule.Priority, rule.ASPathPrefix[0], rule.Communities.Values[0] = 1, 1, 1, "1:1"
	rule.Operations[0].AddCommunity.Value, rule.Operations[1].PrependASPath.Prefix[0], rule.Operations[2].SetPriority.Value = "1:1", 1, 1
	got, err := reg.Encode(clone, api.Unknown{})
	if err != nil || string(got) != fullFilter {
		t.Errorf("%s, %v\nwant %s", got, err, fullFilter)
	}
}

func TestFilterWithAFieldOfANewerVersionIsKnownToHaveOne(t *testing.T) {
	stored := `{"kind":"BGPFilter","apiVersion":"projectcalico.org/v3","metadata":{"name":"f"},"spec":{"exportV4":[{"onlyOnTuesdays":true,"action":"Reject"}]}}`
	_, unknown, err := api.NewRegistry().Decode(api.Key{Kind: api.KindBGPFilter, Name: "f"}, []byte(stored))
	if err != nil || unknown.Empty() {
		t.Errorf("decode: %v, no unknown field: %v", err, unknown.Empty())
	}
}
