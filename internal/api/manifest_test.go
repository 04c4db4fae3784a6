package api_test

import (
	"errors"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

// doc is a manifest of a kind with the rest of its fields.
func doc(kind, rest string) string {
	return `{"apiVersion":"projectcalico.org/v3","kind":"` + kind + `",` + rest + `}`
}

func TestDecodeStrictReadsEveryKind(t *testing.T) {
	reg := api.NewRegistry()
	for _, info := range reg.Kinds() {
		obj, err := reg.DecodeStrict([]byte(doc(string(info.Kind), `"metadata":{"name":"x","creationTimestamp":null}`)))
		if err != nil {
			t.Errorf("%s: %v", info.Kind, err)
			continue
		}
		if gvk := obj.GetObjectKind().GroupVersionKind(); gvk.Kind != string(info.Kind) || obj.GetName() != "x" {
			t.Errorf("%s: got %v %q", info.Kind, gvk, obj.GetName())
		}
	}
}

// TestDecodeStrictReadsUpstreamSamples: what upstream stored is also a manifest.
func TestDecodeStrictReadsUpstreamSamples(t *testing.T) {
	reg := api.NewRegistry()
	for _, s := range samples(t) {
		if !strings.Contains(s.path, "/resources/") {
			continue
		}
		if _, err := reg.DecodeStrict([]byte(s.value)); err != nil {
			t.Errorf("%s: %v", s.path, err)
		}
	}
}

func TestDecodeStrictNamesTheField(t *testing.T) {
	const meta = `"metadata":{"name":"p"},`
	tests := []struct{ name, doc, want string }{
		{"unknown field", doc("IPPool", meta+`"spec":{"cidrr":"10.0.0.0/16"}`), `IPPool(p): spec.cidrr: unknown field; did you mean spec.cidr?`},
		{"wrong case", doc("IPPool", meta+`"spec":{"CIDR":"10.0.0.0/16"}`), `IPPool(p): spec.CIDR: unknown field; did you mean spec.cidr?`},
		{"nothing near", doc("IPPool", meta+`"spec":{"colour":"red"}`), `IPPool(p): spec.colour: unknown field`},
		{"half of the name", doc("BGPConfiguration", meta+`"spec":{"nodeToNodeMesh":true}`), `BGPConfiguration(p): spec.nodeToNodeMesh: unknown field; did you mean spec.nodeToNodeMeshEnabled?`},
		{"at the top", doc("IPPool", meta+`"specs":{}`), `IPPool(p): specs: unknown field; did you mean spec?`},
		{"in metadata", doc("IPPool", `"metadata":{"name":"p","lables":{}}`), `IPPool(p): metadata.lables: unknown field; did you mean metadata.labels?`},
		{"in a list", doc("GlobalNetworkPolicy", meta+`"spec":{"ingress":[{"action":"Allow"},{"action":"Allow","source":{"net":["10.0.0.0/8"]}}]}`), `GlobalNetworkPolicy(p): spec.ingress[1].source.net: unknown field; did you mean spec.ingress[1].source.nets?`},
		{"two at once", doc("IPPool", meta+`"spec":{"a":1,"b":2}`), `IPPool(p): spec.a: unknown field; spec.b: unknown field`},
		{"twice", doc("IPPool", meta+`"spec":{"cidr":"10.0.0.0/16","cidr":"10.1.0.0/16"}`), `IPPool(p): spec.cidr: is given twice`},
		{"string for integer", doc("IPPool", meta+`"spec":{"blockSize":"26"}`), `IPPool(p): spec.blockSize: want an integer, got the string "26"`},
		{"integer for string", doc("IPPool", meta+`"spec":{"cidr":10}`), `IPPool(p): spec.cidr: want a string (in quotes), got 10`},
		{"string for bool", doc("IPPool", meta+`"spec":{"natOutgoing":"yes"}`), `IPPool(p): spec.natOutgoing: want true or false, got the string "yes"`},
		{"string for number", doc("Tier", meta+`"spec":{"order":"1"}`), `Tier(p): spec.order: want a number, got the string "1"`},
		{"out of range", doc("BGPConfiguration", meta+`"spec":{"listenPort":70000}`), `BGPConfiguration(p): spec.listenPort: want an integer from 0 to 65535, got 70000`},
		{"port of zero", doc("BGPConfiguration", meta+`"spec":{"listenPort":0}`), `BGPConfiguration(p): spec.listenPort: 0: want 1 to 65535, or leave it out for 179`},
		{"timer of a newer program", doc("BGPPeer", meta+`"spec":{"keepaliveTime":"10s"}`), `BGPPeer(p): spec.keepaliveTime: unknown field; set the annotation tortie/timers instead, as in "keepalive=10s"`},
		{"timer of other programs", doc("BGPConfiguration", meta+`"spec":{"holdTime":"30s"}`), `BGPConfiguration(p): spec.holdTime: unknown field; set the annotation tortie/timers instead, as in "hold=30s"`},
		{"timer of a kind without", doc("IPPool", meta+`"spec":{"holdTime":"30s"}`), `IPPool(p): spec.holdTime: unknown field`},
		{"string for list", doc("IPPool", meta+`"spec":{"allowedUses":"Workload"}`), `IPPool(p): spec.allowedUses: want a list, got the string "Workload"`},
		{"list for object", doc("IPPool", meta+`"spec":[]`), `IPPool(p): spec: want an object, got a list`},
		{"label that is no string", doc("IPPool", `"metadata":{"name":"p","labels":{"a":true}}`), `IPPool(p): metadata.labels.a: want a string (in quotes), got true`},
		{"AS number", doc("BGPPeer", meta+`"spec":{"asNumber":"1.2.3"}`), `BGPPeer(p): spec.asNumber: want an AS number, 1 to 4294967295 or "HIGH.LOW" with two numbers up to 65535, got the string "1.2.3"`},
		{"AS number too large", doc("BGPPeer", meta+`"spec":{"asNumber":99999999999}`), `BGPPeer(p): spec.asNumber: want an AS number, 1 to 4294967295 or "HIGH.LOW" with two numbers up to 65535, got 99999999999`},
		{"negative AS number", doc("BGPPeer", meta+`"spec":{"asNumber":-5}`), `BGPPeer(p): spec.asNumber: want an AS number, 1 to 4294967295 or "HIGH.LOW" with two numbers up to 65535, got -5`},
		{"object for AS number", doc("BGPPeer", meta+`"spec":{"asNumber":{}}`), `BGPPeer(p): spec.asNumber: want an AS number, 1 to 4294967295 or "HIGH.LOW" with two numbers up to 65535, got an object`},
		{"port", doc("GlobalNetworkPolicy", meta+`"spec":{"ingress":[{"action":"Allow","protocol":"TCP","destination":{"ports":[80,99999]}}]}`), `GlobalNetworkPolicy(p): spec.ingress[0].destination.ports[1]: want a port, 0 to 65535, a range such as "8000:8080", or a port's name, got 99999`},
		{"port range", doc("GlobalNetworkPolicy", meta+`"spec":{"ingress":[{"action":"Allow","protocol":"TCP","destination":{"ports":["1:99999"]}}]}`), `GlobalNetworkPolicy(p): spec.ingress[0].destination.ports[0]: want a port, 0 to 65535, a range such as "8000:8080", or a port's name, got the string "1:99999"`},
		{"protocol", doc("GlobalNetworkPolicy", meta+`"spec":{"ingress":[{"action":"Allow","protocol":700}]}`), `GlobalNetworkPolicy(p): spec.ingress[0].protocol: want a protocol, its number from 1 to 255 or its name such as TCP, got 700`},
		{"time", doc("IPPool", `"metadata":{"name":"p","creationTimestamp":"yesterday"}`), `IPPool(p): metadata.creationTimestamp: want a time such as "2026-01-31T15:04:05Z" (RFC 3339), got the string "yesterday"`},
		{"number for time", doc("IPPool", `"metadata":{"name":"p","creationTimestamp":5}`), `IPPool(p): metadata.creationTimestamp: want a time such as "2026-01-31T15:04:05Z" (RFC 3339), got 5`},
		{"kind that is no text", `{"apiVersion":"projectcalico.org/v3","kind":5}`, `kind: want a string, the name of a kind such as IPPool, got 5`},
		{"version that is no text", `{"apiVersion":{},"kind":"IPPool"}`, `apiVersion: want a string, projectcalico.org/v3, got an object`},
		{"duration", doc("BGPPeer", meta+`"spec":{"maxRestartTime":"2 minutes"}`), `BGPPeer(p): spec.maxRestartTime: want a duration such as "2m30s", with the units h, m, s, ms, us and ns, got the string "2 minutes"`},
		{"unknown kind", doc("IPPol", meta+`"spec":{}`), `kind: "IPPol": unknown kind; did you mean IPPool?`},
		{"kind by its alias", doc("ippool", meta+`"spec":{}`), `kind: "ippool": unknown kind; did you mean IPPool?`},
		{"other version", `{"apiVersion":"projectcalico.org/v1","kind":"IPPool"}`, `apiVersion: "projectcalico.org/v1": is not supported, want projectcalico.org/v3`},
		{"no version", `{"kind":"IPPool"}`, `apiVersion: is missing, want projectcalico.org/v3`},
		{"no object", `[]`, `want an object with apiVersion, kind, metadata and spec, got a list`},
		{"broken", `{"kind":`, `broken JSON at byte 8: unexpected end of JSON input`},
	}
	reg := api.NewRegistry()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			obj, err := reg.DecodeStrict([]byte(tt.doc))
			var invalid *api.ValidationError
			if !errors.As(err, &invalid) {
				t.Fatalf("got %v, %v; want a ValidationError", obj, err)
			}
			if err.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
		})
	}
}

// TestNoFieldIsRefusedInTheWordsOfALibrary: every scalar type that a manifest can
// hold has words for what it takes.
func TestNoFieldIsRefusedInTheWordsOfALibrary(t *testing.T) {
	for name, want := range api.ScalarsOfManifests() {
		if want == api.NoWords {
			t.Errorf("%s: nothing says what it takes", name)
		}
	}
}

func TestDecodeStrictListsTheKindsWhenNoneIsNear(t *testing.T) {
	for _, text := range []string{doc("Gadget", `"spec":{}`), `{"apiVersion":"projectcalico.org/v3"}`} {
		_, err := api.NewRegistry().DecodeStrict([]byte(text))
		if err == nil || !strings.Contains(err.Error(), "BGPConfiguration, BGPFilter, BGPPeer") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestDecodeStrictAllReadsLists(t *testing.T) {
	const pool, peer = `{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"a"}}`, `{"apiVersion":"projectcalico.org/v3","kind":"BGPPeer","metadata":{"name":"b"}}`
	tests := []struct {
		name, doc string
		want      []string
	}{
		{"one object", pool, []string{"IPPool a"}},
		{"List", `{"apiVersion":"projectcalico.org/v3","kind":"List","items":[` + pool + `,` + peer + `]}`, []string{"IPPool a", "BGPPeer b"}},
		{"List of Kubernetes", `{"apiVersion":"v1","kind":"List","metadata":{},"items":[` + pool + `]}`, []string{"IPPool a"}},
		{"list of one kind", `{"apiVersion":"projectcalico.org/v3","kind":"IPPoolList","items":[{"metadata":{"name":"a"}},` + pool + `]}`, []string{"IPPool a", "IPPool a"}},
		{"empty", `{"apiVersion":"projectcalico.org/v3","kind":"IPPoolList","items":[]}`, nil},
		{"null", `{"apiVersion":"projectcalico.org/v3","kind":"IPPoolList","items":null}`, nil},
	}
	reg := api.NewRegistry()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			objs, err := reg.DecodeStrictAll([]byte(tt.doc))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range objs {
				got = append(got, o.GetObjectKind().GroupVersionKind().Kind+" "+o.GetName())
			}
			if strings.Join(got, ",") != strings.Join(tt.want, ",") {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestDecodeStrictAllNamesTheItem(t *testing.T) {
	tests := []struct{ name, doc, want string }{
		{
			"field of an item", `{"apiVersion":"projectcalico.org/v3","kind":"IPPoolList","items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"},"spec":{"cidrr":""}}]}`,
			`IPPool(b): items[1].spec.cidrr: unknown field; did you mean items[1].spec.cidr?`,
		},
		{
			"kind of an item", `{"apiVersion":"projectcalico.org/v3","kind":"List","items":[{"metadata":{"name":"a"}}]}`,
			`items[0].kind: is missing, want one of `,
		},
		{"item that is no object", `{"apiVersion":"projectcalico.org/v3","kind":"List","items":[1]}`, `items[0]: want an object`},
		{"items that are no list", `{"apiVersion":"projectcalico.org/v3","kind":"List","items":{}}`, `List: items: want a list, got an object`},
		{"field of the list", `{"apiVersion":"projectcalico.org/v3","kind":"List","item":[]}`, `List: item: unknown field; did you mean items?`},
		{"version of the list", `{"apiVersion":"v1","kind":"IPPoolList","items":[]}`, `IPPoolList: apiVersion: "v1": is not supported, want projectcalico.org/v3`},
		{"list of an unknown kind", `{"apiVersion":"projectcalico.org/v3","kind":"GadgetList","items":[]}`, `kind: "GadgetList": unknown kind`},
	}
	reg := api.NewRegistry()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			objs, err := reg.DecodeStrictAll([]byte(tt.doc))
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v, %v; want %s…", objs, err, tt.want)
			}
		})
	}
}

func TestDecodeStrictKeepsWhatWasGiven(t *testing.T) {
	obj, err := api.NewRegistry().DecodeStrict([]byte(doc("BGPPeer", `"metadata":{"name":"tor"},"spec":{"peerIP":"192.0.2.1","asNumber":"1.10","maxRestartTime":"1m0s"}`)))
	if err != nil {
		t.Fatal(err)
	}
	peer := obj.(*v3.BGPPeer)
	if peer.Spec.PeerIP != "192.0.2.1" || peer.Spec.ASNumber != 65546 || peer.Spec.MaxRestartTime.Seconds() != 60 {
		t.Errorf("%+v", peer.Spec)
	}
}

func FuzzDecodeStrictAll(f *testing.F) {
	for _, s := range samples(f) {
		f.Add([]byte(s.value))
	}
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{"kind":"IPPool","a":{"b":[1,"\u0000",{"":[]}]}}]}`))
	reg := api.NewRegistry()
	f.Fuzz(func(t *testing.T, text []byte) {
		objs, err := reg.DecodeStrictAll(text)
		for _, obj := range objs {
			reg.Default(obj)
			_ = reg.Validate(obj)
			if _, err := reg.Encode(obj, api.Unknown{}); err != nil {
				t.Fatal(err)
			}
		}
		var invalid *api.ValidationError
		if err != nil && !errors.As(err, &invalid) {
			t.Fatalf("%v is no ValidationError", err)
		}
	})
}
