package api_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"pgregory.net/rapid"

	"tortie/internal/api"
)

const poolHead = `{"kind":"IPPool","apiVersion":"projectcalico.org/v3",`

func TestUnknownFieldsSurviveAnUpdate(t *testing.T) {
	tests := []struct {
		name          string
		key           api.Key
		stored        string
		change        func(api.Object)
		want          string
		nothingToKeep bool
	}{
		{
			name: "at the top, in metadata and in spec, with the exact text of numbers",
			key:  api.Key{Kind: api.KindIPPool, Name: "p"},
			stored: poolHead + `"metadata":{"name":"p","uid":"u","newMeta":{"a":[1]}},"spec":{"cidr":"10.0.0.0/16","newSpec":1.50e3,"blockSize":26},` +
				`"status":{"n":12345678901234567890}}`,
			change: func(o api.Object) { o.(*v3.IPPool).Spec.Disabled = true },
			want: poolHead + `"metadata":{"name":"p","uid":"u","newMeta":{"a":[1]}},"spec":{"cidr":"10.0.0.0/16","disabled":true,"blockSize":26,"newSpec":1.50e3},` +
				`"status":{"n":12345678901234567890}}`,
		},
		{
			name:   "in a nested object",
			key:    api.Key{Kind: api.KindNode, Name: "n"},
			stored: `{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n"},"spec":{"bgp":{"ipv4Address":"10.0.0.1/24","new":true}},"status":{"new":{}}}`,
			change: func(o api.Object) { o.(*api.Node).Spec.BGP.IPv4Address = "10.0.0.2/24" },
			want:   `{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n"},"spec":{"bgp":{"ipv4Address":"10.0.0.2/24","new":true}},"status":{"new":{}}}`,
		},
		{
			name:   "not in an object that was removed",
			key:    api.Key{Kind: api.KindNode, Name: "n"},
			stored: `{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n"},"spec":{"bgp":{"ipv4Address":"10.0.0.1/24","new":true},"x":1},"status":{}}`,
			change: func(o api.Object) { o.(*api.Node).Spec.BGP = nil },
			want:   `{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n"},"spec":{"x":1},"status":{}}`,
		},
		{
			name:   "known fields that were removed don't come back",
			key:    api.Key{Kind: api.KindIPPool, Name: "p"},
			stored: poolHead + `"metadata":{"name":"p","labels":{"a":"b","c":"d"}},"spec":{"cidr":"10.0.0.0/16","natOutgoing":true,"allowedUses":["Workload","Tunnel"],"x":1}}`,
			change: func(o api.Object) {
				pool := o.(*v3.IPPool)
				pool.Spec.NATOutgoing = false
				pool.Spec.AllowedUses = pool.Spec.AllowedUses[:1]
				delete(pool.Labels, "a")
			},
			want: poolHead + `"metadata":{"name":"p","labels":{"c":"d"}},"spec":{"cidr":"10.0.0.0/16","allowedUses":["Workload"],"x":1}}`,
		},
		{
			name:   "the status of a tier, which our type doesn't have",
			key:    api.Key{Kind: api.KindTier, Name: "t"},
			stored: `{"kind":"Tier","apiVersion":"projectcalico.org/v3","metadata":{"name":"t"},"spec":{"order":1},"status":{"conditions":[{"type":"Ready"}]}}`,
			change: func(o api.Object) { *o.(*v3.Tier).Spec.Order = 2 },
			want:   `{"kind":"Tier","apiVersion":"projectcalico.org/v3","metadata":{"name":"t"},"spec":{"order":2},"status":{"conditions":[{"type":"Ready"}]}}`,
		},
		{
			name:   "in a list of the same length",
			key:    api.Key{Kind: api.KindProfile, Name: "p"},
			stored: `{"kind":"Profile","apiVersion":"projectcalico.org/v3","metadata":{"name":"p"},"spec":{"ingress":[{"action":"Allow","new":1,"source":{"newer":2},"destination":{}},{"action":"Deny","new":3,"source":{},"destination":{}}]}}`,
			change: func(o api.Object) { o.(*v3.Profile).Spec.Ingress[0].Action = "Log" },
			want:   `{"kind":"Profile","apiVersion":"projectcalico.org/v3","metadata":{"name":"p"},"spec":{"ingress":[{"action":"Log","source":{"newer":2},"destination":{},"new":1},{"action":"Deny","source":{},"destination":{},"new":3}]}}`,
		},
		{
			name:   "with elements that moved, were removed and were added",
			key:    api.Key{Kind: api.KindHostEndpoint, Name: "h"},
			stored: `{"kind":"HostEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"h"},"spec":{"node":"n","ports":[{"name":"a","protocol":"TCP","port":1,"x":"a"},{"name":"b","protocol":"TCP","port":2,"x":"b"},{"name":"c","protocol":"TCP","port":3,"x":"c"}]}}`,
			change: func(o api.Object) {
				s := &o.(*v3.HostEndpoint).Spec
				d := s.Ports[0]
				d.Name = "d"
				s.Ports = []v3.EndpointPort{s.Ports[2], d, s.Ports[1], s.Ports[2]}
			},
			want: `{"kind":"HostEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"h"},"spec":{"node":"n","ports":[{"name":"c","protocol":"TCP","port":3,"x":"c"},{"name":"d","protocol":"TCP","port":1},{"name":"b","protocol":"TCP","port":2,"x":"b"},{"name":"c","protocol":"TCP","port":3}]}}`,
		},
		{
			name:   "in the attributes of a block, which move when an address is released",
			key:    api.Key{Kind: api.KindIPAMBlock, Name: "10.0.0.0/30"},
			stored: `{"cidr":"10.0.0.0/30","affinity":null,"strictAffinity":false,"allocations":[0,1,1,null],"unallocated":[3],"attributes":[{"handle_id":"a","secondary":null,"x":"a"},{"handle_id":"b","secondary":{"node":"n"},"x":"b"}],"sequenceNumber":1795312900295641371,"sequenceNumberForAllocation":{},"deleted":false}`,
			change: func(o api.Object) {
				s := &o.(*api.IPAMBlock).Spec
				zero := 0
				s.Allocations = []*int{nil, &zero, &zero, nil}
				s.Unallocated = append(s.Unallocated, 0)
				s.Attributes = s.Attributes[1:]
				s.SequenceNumber++
			},
			want: `{"cidr":"10.0.0.0/30","affinity":null,"allocations":[null,0,0,null],"unallocated":[3,0],"attributes":[{"handle_id":"b","secondary":{"node":"n"},"x":"b"}],"sequenceNumber":1795312900295641372,"sequenceNumberForAllocation":{},"deleted":false,"strictAffinity":false}`,
		},
		{
			name:   "in a handle",
			key:    api.HandleKey("h"),
			stored: `{"block":{"10.0.0.0/26":1},"deleted":false,"x":[]}`,
			change: func(o api.Object) { o.(*api.IPAMHandle).Spec.Block["10.0.1.0/26"] = 2 },
			want:   `{"block":{"10.0.0.0/26":1,"10.0.1.0/26":2},"deleted":false,"x":[]}`,
		},
		{
			name:   "in an affinity",
			key:    api.Key{Kind: api.KindBlockAffinity, Name: "host:n/10.0.0.0/26"},
			stored: `{"state":"pending","deleted":false,"x":null}`,
			change: func(o api.Object) { o.(*api.BlockAffinity).Spec.State = api.AffinityConfirmed },
			want:   `{"state":"confirmed","deleted":false,"x":null}`,
		},
		{
			name:   "text is kept as it was written, space is not",
			key:    api.IPAMConfigKey(),
			stored: `{ "auto_allocate_blocks": true, "x": { "<a>\u0026" : "\u003c&é" } }`,
			change: func(o api.Object) { o.(*api.IPAMConfig).Spec.StrictAffinity = true },
			want:   `{"strict_affinity":true,"auto_allocate_blocks":true,"x":{"<a>\u0026":"\u003c&é"}}`,
		},
		{
			name: "a name in another case is unknown", key: api.IPAMConfigKey(),
			stored: `{"auto_allocate_blocks":true,"MaxBlocksPerHost":7}`,
			change: func(o api.Object) { o.(*api.IPAMConfig).Spec.MaxBlocksPerHost = 3 },
			want:   `{"auto_allocate_blocks":true,"maxBlocksPerHost":3,"MaxBlocksPerHost":7}`,
		},
		{
			name: "there are none", key: api.IPAMConfigKey(), nothingToKeep: true,
			stored: `{"auto_allocate_blocks":true}`,
			change: func(o api.Object) { o.(*api.IPAMConfig).Spec.AutoAllocateBlocks = false },
			want:   `{"auto_allocate_blocks":false}`,
		},
	}
	reg := api.NewRegistry()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			value := []byte(tt.stored)
			obj, unknown, err := reg.Decode(tt.key, value)
			if err != nil {
				t.Fatal(err)
			}
			for i := range value {
				value[i] = '#' // the caller's buffer may be reused
			}
			if unknown.Empty() != tt.nothingToKeep {
				t.Errorf("Unknown.Empty() = %v", unknown.Empty())
			}
			tt.change(obj)
			if got := mustEncode(t, reg, obj, unknown); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestUnknownFieldsSurviveAtEveryDepth adds an unknown field to every object of
// every sample that has a fixed set of fields, and expects all of them back.
func TestUnknownFieldsSurviveAtEveryDepth(t *testing.T) {
	reg := api.NewRegistry()
	for _, s := range samples(t) {
		t.Run(s.path, func(t *testing.T) {
			key, err := reg.ParsePath(s.path)
			if err != nil {
				t.Fatal(err)
			}
			var tree any
			decoder := json.NewDecoder(strings.NewReader(s.value))
			decoder.UseNumber()
			if err := decoder.Decode(&tree); err != nil {
				t.Fatal(err)
			}
			n := 0
			spread(tree, "", &n)
			if n == 0 {
				t.Fatal("no place for an unknown field")
			}
			value, err := json.Marshal(tree)
			if err != nil {
				t.Fatal(err)
			}
			obj, unknown := mustDecode(t, reg, key, string(value))
			got := mustEncode(t, reg, obj, unknown)
			if count := strings.Count(got, `"unknownField"`); count != n {
				t.Errorf("%d of %d unknown fields are left:\n%s", count, n, got)
			}
			if stripped := strings.Count(mustEncode(t, reg, obj, api.Unknown{}), "unknownField"); stripped != 0 {
				t.Errorf("%d unknown fields survive without Unknown", stripped)
			}
		})
	}
}

// spread adds an unknown field to every object but maps of names chosen by users.
func spread(v any, name string, n *int) {
	maps := []string{"labels", "annotations", "secondary", "block", "sequenceNumberForAllocation", "labelsToApply", "matchLabels"}
	switch v := v.(type) {
	case map[string]any:
		for key, field := range v {
			spread(field, key, n)
		}
		if !slices.Contains(maps, name) {
			v["unknownField"] = *n
			*n++
		}
	case []any:
		for _, elem := range v {
			spread(elem, "", n)
		}
	}
}

// TestElementsKeepTheirUnknownFieldsInAnyOrder moves, drops and adds attributes
// of a block at random: an unknown field stays with the handle it belongs to.
func TestElementsKeepTheirUnknownFieldsInAnyOrder(t *testing.T) {
	reg := api.NewRegistry()
	key := api.Key{Kind: api.KindIPAMBlock, Name: "10.0.0.0/26"}
	rapid.Check(t, func(t *rapid.T) {
		before := rapid.SliceOfDistinct(rapid.StringMatching(`[a-f]{1,2}`), rapid.ID[string]).Draw(t, "before")
		var attributes []string
		for _, h := range before {
			attributes = append(attributes, `{"handle_id":"`+h+`","secondary":null,"tag":"`+h+`"}`)
		}
		obj, unknown, err := reg.Decode(key, []byte(`{"cidr":"10.0.0.0/26","x":0,"attributes":[`+strings.Join(attributes, ",")+`]}`))
		if err != nil {
			t.Fatal(err)
		}
		spec := &obj.(*api.IPAMBlock).Spec
		keep := rapid.Permutation(spec.Attributes).Draw(t, "order")
		spec.Attributes = keep[:rapid.IntRange(0, len(keep)).Draw(t, "kept")]
		value, err := reg.Encode(obj, unknown)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Attributes []struct {
				Handle string `json:"handle_id"`
				Tag    string `json:"tag"`
			} `json:"attributes"`
		}
		if err := json.Unmarshal(value, &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Attributes) != len(spec.Attributes) {
			t.Fatalf("%s", value)
		}
		for i, a := range got.Attributes {
			if a.Handle != *spec.Attributes[i].HandleID || a.Tag != a.Handle {
				t.Fatalf("attribute %d is %+v, want that of %s:\n%s", i, a, *spec.Attributes[i].HandleID, value)
			}
		}
	})
}

func TestUnknownFieldsAreNamed(t *testing.T) {
	reg := api.NewRegistry()
	for stored, want := range map[string]string{
		`"spec":{"peerIP":"10.0.0.1","keepaliveTime":"5s","password":{"secretKeyRef":{"name":"s","key":"k","x":1}}}`: "[spec.keepaliveTime spec.password.secretKeyRef.x]",
		`"spec":{"peerIP":"10.0.0.1"},"status":{"a":1}`:                                                              "[]",
		`"spec":{"peerIP":"10.0.0.1","filters":["a"]}`:                                                               "[]",
	} {
		_, unknown, err := reg.Decode(api.Key{Kind: api.KindBGPPeer, Name: "p"}, []byte(`{"kind":"BGPPeer","apiVersion":"projectcalico.org/v3","metadata":{"name":"p"},`+stored+`}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(reg.UnknownFields(api.KindBGPPeer, unknown)); got != want {
			t.Errorf("%s: %s, want %s", stored, got, want)
		}
	}
	const conf = `{"kind":"BGPConfiguration","apiVersion":"projectcalico.org/v3","metadata":{"name":"default"},"spec":{"communities":[{"name":"a"},{"name":"b","new":1}],"programClusterRoutes":"Enabled"}}`
	_, unknown, err := reg.Decode(api.Key{Kind: api.KindBGPConfiguration, Name: "default"}, []byte(conf))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(reg.UnknownFields(api.KindBGPConfiguration, unknown)); got != "[spec.communities[1].new spec.programClusterRoutes]" {
		t.Errorf("%s", got)
	}
}
