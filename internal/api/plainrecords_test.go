package api

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// written are objects as felix and ipam write them at the start of a pod: the
// node's block with that many addresses in use, the handle, the endpoint.
func written(used int) []Object {
	const block, handle = "10.65.0.0/26", "k8s-pod-network.04cff94076271743f054483af1788f7662b5bdb58d4472472c04c61993431cc2"
	now := metav1.NewTime(time.Date(2026, 11, 22, 2, 1, 40, 0, time.UTC))
	owner := "host:node1"
	b := &IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: block}, Spec: IPAMBlockSpec{
		CIDR: block, Affinity: &owner, AffinityClaimTime: &now, Allocations: make([]*int, usualBlock), Unallocated: []int{},
		Attributes: []BlockAttributes{}, SequenceNumber: 1795312900295641371, SequenceNumberForAllocation: map[string]uint64{},
	}}
	for n := range usualBlock {
		if n >= used {
			b.Spec.Unallocated = append(b.Spec.Unallocated, n)
			continue
		}
		index, id := n, handle
		b.Spec.Allocations[n] = &index
		b.Spec.SequenceNumberForAllocation[fmt.Sprint(n)] = 1795312900295641300 + uint64(n)
		b.Spec.Attributes = append(b.Spec.Attributes, BlockAttributes{HandleID: &id, ActiveOwnerAttrs: map[string]string{
			AttributeNode: "node1", AttributeNamespace: "default", AttributePod: fmt.Sprintf("web-7d4b9c-x2x%d", n),
			AttributeTimestamp: now.Add(time.Duration(n) * 1234567).String(),
		}})
	}
	return []Object{
		b,
		&IPAMHandle{ObjectMeta: metav1.ObjectMeta{Name: handle}, Spec: IPAMHandleSpec{HandleID: handle, Block: map[string]int{block: 1}}},
		&WorkloadEndpoint{
			ObjectMeta: metav1.ObjectMeta{
				Name: "node1-k8s-web--7d4b9c--x2x5z-eth0", Namespace: "default", UID: "0c8332e8-ee97-4bdc-882f-2040042692e2", CreationTimestamp: now,
				Labels: map[string]string{"projectcalico.org/namespace": "default", "projectcalico.org/orchestrator": "k8s"},
			},
			Spec: WorkloadEndpointSpec{
				Orchestrator: "k8s", Node: "node1", ContainerID: handle[16:], Pod: "web-7d4b9c-x2x5z", Endpoint: "eth0",
				IPNetworks: []string{"10.65.0.1/32", "fd00::1/128"}, Profiles: []string{"kns.default"}, InterfaceName: "cali21f984b8c6d", MAC: "ca:fe:00:00:00:01",
			},
		},
	}
}

// asEncoded fails when what is written at once differs from what the JSON encoder
// makes of the object.
func asEncoded(t interface {
	Helper()
	Fatalf(string, ...any)
}, reg *Registry, obj Object,
) (taken bool) {
	t.Helper()
	d, err := reg.definitionOf(obj)
	if err != nil {
		t.Fatalf("%v", err)
	}
	got, taken := d.writePlain(obj)
	if !taken {
		return false
	}
	want, err := d.encode(obj, "")
	if err != nil {
		t.Fatalf("%s is written, but the encoder says %v", got, err)
	}
	if string(got) != string(want) {
		t.Fatalf("%+v\ngives %s\nwant  %s", obj, got, want)
	}
	return true
}

func TestWhatAPodsStartWritesIsWrittenAtOnce(t *testing.T) {
	reg := NewRegistry()
	for _, used := range []int{0, 1, 10, 11, usualBlock} {
		for _, obj := range written(used) {
			if !asEncoded(t, reg, obj) {
				t.Errorf("left to the JSON encoder: %+v", obj)
			}
		}
	}
	for _, obj := range written(usualBlock) {
		if n := testing.AllocsPerRun(100, func() { _, _ = reg.Encode(obj, Unknown{}) }); n > 1 {
			t.Errorf("%T: %v pieces of memory, want one", obj, n)
		}
	}
}

func TestUpstreamSamplesAreWrittenAsTheEncoderWritesThem(t *testing.T) {
	text, err := os.ReadFile("testdata/samples.txt")
	if err != nil {
		t.Fatal(err)
	}
	reg, seen := NewRegistry(), map[Kind]int{}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for i := 0; i < len(lines); i += 2 {
		key, err := reg.ParsePath(lines[i])
		if err != nil {
			t.Fatal(err)
		}
		obj, _, err := reg.Decode(key, []byte(lines[i+1]))
		if err != nil {
			t.Fatal(err)
		}
		if d, err := reg.definitionOf(obj); err != nil || d.writePlain == nil {
			continue
		}
		seen[key.Kind]++
		if wep, ok := obj.(*WorkloadEndpoint); ok {
			if asEncoded(t, reg, wep) {
				t.Errorf("%s has ports and is taken", key)
			}
			wep.Spec.Ports, wep.Spec.IPNATs = nil, nil
		}
		if !asEncoded(t, reg, obj) {
			t.Errorf("%s is left to the JSON encoder", key)
		}
	}
	if len(seen) != 3 {
		t.Errorf("samples of %v, want some of each of three kinds", seen)
	}
}

// TestNoFieldIsForgotten sets every field there is, one at a time: whoever adds one
// and doesn't write it here is told.
func TestNoFieldIsForgotten(t *testing.T) {
	reg := NewRegistry()
	empty := func() []Object { return []Object{&IPAMBlock{}, &IPAMHandle{}, &WorkloadEndpoint{}} }
	full := func() []Object { return written(3) }
	for _, objects := range []func() []Object{empty, full} {
		for kind := range objects() {
			set, taken := 0, 0
			for ; ; set++ {
				obj, n := objects()[kind], set
				if !setNth(t, reflect.ValueOf(obj).Elem(), &n) {
					break
				}
				if asEncoded(t, reg, obj) {
					taken++
				}
			}
			// An object's metadata alone has more; not stored counts as taken.
			if set < 30 || taken < 20 {
				t.Errorf("%T: set %d fields, taken %d times: the test shows little", objects()[kind], set, taken)
			}
		}
	}
}

// setNth sets the n-th of the places in v where something can be set, and makes the
// pointers, lists and maps on the way there. To be there and empty is a place too.
func setNth(t *testing.T, v reflect.Value, n *int) bool {
	here := func(value any) bool {
		*n--
		if *n < 0 {
			v.Set(reflect.ValueOf(value).Convert(v.Type()))
		}
		return *n < 0
	}
	within := func(elem reflect.Value, then func()) bool {
		done := setNth(t, elem, n)
		if done {
			then()
		}
		return done
	}
	if v.Type() == reflect.TypeFor[metav1.Time]() {
		return here(metav1.NewTime(time.Unix(1795312900, 5)))
	}
	switch v.Kind() {
	case reflect.String:
		return here("text")
	case reflect.Bool:
		return here(true)
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return here(7)
	case reflect.Struct:
		for _, field := range v.Fields() {
			if setNth(t, field, n) {
				return true
			}
		}
		return false
	case reflect.Pointer:
		target := reflect.New(v.Type().Elem())
		return here(target.Interface()) || within(target.Elem(), func() { v.Set(target) })
	case reflect.Slice:
		one := reflect.MakeSlice(v.Type(), 1, 1)
		return here(one.Slice(0, 0).Interface()) || here(one.Interface()) || within(one.Index(0), func() { v.Set(one) })
	case reflect.Map:
		one, elem := reflect.MakeMap(v.Type()), reflect.New(v.Type().Elem()).Elem()
		return here(reflect.MakeMap(v.Type()).Interface()) || within(elem, func() {
			one.SetMapIndex(reflect.ValueOf("name").Convert(v.Type().Key()), elem)
			v.Set(one)
		})
	}
	t.Fatalf("a field of type %s: the test must learn to set it", v.Type())
	return false
}

func TestAnyObjectIsWrittenAsTheEncoderWritesIt(t *testing.T) {
	reg, taken := NewRegistry(), map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		obj := rapid.SampledFrom([]func() Object{
			func() Object { return &IPAMBlock{} }, func() Object { return &IPAMHandle{} }, func() Object { return &WorkloadEndpoint{} },
		}).Draw(t, "kind")()
		anyValue(t, reflect.ValueOf(obj).Elem(), rapid.IntRange(0, 3).Draw(t, "odd") == 0)
		if wep, ok := obj.(*WorkloadEndpoint); ok && rapid.IntRange(0, 3).Draw(t, "rare fields") > 0 {
			wep.Spec.Ports, wep.Spec.IPNATs, wep.Spec.QoSControls = nil, nil, nil
			m := &wep.ObjectMeta
			wep.ObjectMeta = metav1.ObjectMeta{
				Name: m.Name, GenerateName: m.GenerateName, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
				CreationTimestamp: m.CreationTimestamp, Labels: m.Labels, Annotations: m.Annotations,
			}
		}
		if asEncoded(t, reg, obj) {
			taken[reflect.TypeOf(obj).String()]++
		}
	})
	if len(taken) < 3 {
		t.Errorf("taken: %v: the test shows little", taken)
	}
}

// anyValue fills v with anything: strings with odd ones among them only where odd.
func anyValue(t *rapid.T, v reflect.Value, odd bool) {
	if v.Type() == reflect.TypeFor[metav1.Time]() {
		at := time.Unix(rapid.Int64Range(-1<<36, 1<<38).Draw(t, "seconds"), rapid.Int64Range(0, 1e9).Draw(t, "ns")).
			In(time.FixedZone("", rapid.IntRange(-50000, 50000).Draw(t, "zone")))
		v.Set(reflect.ValueOf(rapid.SampledFrom([]metav1.Time{{}, metav1.NewTime(at)}).Draw(t, "time")))
		return
	}
	few := rapid.SampledFrom([]int{-1, 0, 1, 2, 5, 12})
	switch v.Kind() {
	case reflect.String:
		v.SetString(anyText(odd).Draw(t, "text"))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "bool"))
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(rapid.Int64().Draw(t, "int"))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(rapid.Uint64().Draw(t, "uint"))
	case reflect.Struct:
		for _, field := range v.Fields() {
			anyValue(t, field, odd)
		}
	case reflect.Pointer:
		if few.Draw(t, "pointer") > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			anyValue(t, v.Elem(), odd)
		}
	case reflect.Slice:
		if n := few.Draw(t, "length"); n >= 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
		}
		for i := range v.Len() {
			anyValue(t, v.Index(i), odd)
		}
	case reflect.Map:
		n := few.Draw(t, "size")
		if n >= 0 {
			v.Set(reflect.MakeMap(v.Type()))
		}
		for range n {
			name, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			anyValue(t, name, odd)
			anyValue(t, elem, odd)
			v.SetMapIndex(name, elem)
		}
	}
}

func anyText(odd bool) *rapid.Generator[string] {
	names := ownerNames()
	usual := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[0-9]{1,2}`), rapid.StringMatching(`[a-z0-9:./ +-]{0,40}`), rapid.SampledFrom(names[:]))
	if odd {
		return rapid.OneOf(usual, usual, rapid.String(), rapid.StringMatching(`[ -~]{0,20}`), rapid.StringMatching(`[\x00-\xff]{0,9}`))
	}
	return usual
}

// TestStringsAreTakenThatTheEncoderWritesAsTheyStand puts every byte in every place.
func TestStringsAreTakenThatTheEncoderWritesAsTheyStand(t *testing.T) {
	for length := range 20 {
		for at := range length {
			for c := range 256 {
				s := strings.Repeat("x", at) + string([]byte{byte(c)}) + strings.Repeat("~", length-at-1)
				w := newPlainWriter(0)
				w.str(s)
				got, taken := w.text()
				want, err := json.Marshal(s)
				if err != nil {
					t.Fatal(err)
				}
				if plain := string(want) == `"`+s+`"` && c < 0x80; taken != plain || taken && string(got) != string(want) {
					t.Fatalf("%q: %s, taken: %t; the encoder writes %s", s, got, taken, want)
				}
			}
		}
	}
}

func TestOrdinalsInTheOrderOfTheirNames(t *testing.T) {
	for size := range 1200 {
		var got, want []string
		for n := 0; n < size; n = nextByName(n, size) {
			got = append(got, strconv.Itoa(n))
		}
		for n := range size {
			want = append(want, strconv.Itoa(n))
		}
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Fatalf("of %d: %v, want %v", size, got, want)
		}
	}
}

// BenchmarkEncode is what a pod that starts waits for, beside the JSON encoder.
func BenchmarkEncode(b *testing.B) {
	reg := NewRegistry()
	for _, obj := range written(usualBlock) {
		d, err := reg.definitionOf(obj)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(string(d.info.Kind), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := reg.Encode(obj, Unknown{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(string(d.info.Kind)+"/by encoding/json", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.encode(obj, ""); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
