package api

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
	kjson "sigs.k8s.io/json"
)

// blockSamples are the values of blocks that upstream's own programs wrote.
func blockSamples(t testing.TB) (values []string) {
	t.Helper()
	text, err := os.ReadFile("testdata/samples.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, blockRoot) {
			values = append(values, lines[i+1])
		}
	}
	if len(values) == 0 {
		t.Fatal("there is no sample of a block")
	}
	return values
}

// oddBlocks are values that differ from what programs write in every way that the
// two decoders might take differently.
func oddBlocks() []string {
	const head, tail = `{"cidr":"10.65.0.0/26",`, `,"deleted":false}`
	fields := []string{
		`"cidr":"x"`, `"cidr":null`, `"cidr":""`, `"cidr": "x"`, `"Cidr":"x"`, `"cid\u0072":"x"`, `"cidr":"ü"`, "\"cidr\":\"\xff\"", `"cidr":"a\n"`, "\"cidr\":\"a\x01\"",
		`"affinity":null`, `"affinity":"host:a"`, `"affinity":""`, `"affinity":1`, `"affinity":{}`,
		`"affinity_claim_time":null`, `"affinity_claim_time":"2026-11-22T02:01:40Z"`, `"affinity_claim_time":"2026-11-22T02:01:40.5+01:00"`,
		`"affinity_claim_time":"now"`, `"affinity_claim_time":5`, `"affinity_claim_time":""`,
		`"allocations":null`, `"allocations":[]`, `"allocations":[null,0,1]`, `"allocations":[null,0,]`, `"allocations":[-1]`, `"allocations":[01]`,
		`"allocations":[1.0]`, `"allocations":[1e1]`, `"allocations":[9223372036854775807]`, `"allocations":[9223372036854775808]`, `"allocations":[2147483648]`, `"allocations":{}`,
		`"allocations":[1` + strings.Repeat(",2", 200) + `]`, `"allocations":[1],"allocations":[null]`,
		`"unallocated":null`, `"unallocated":[]`, `"unallocated":[3,2]`, `"unallocated":[null]`,
		`"attributes":null`, `"attributes":[]`, `"attributes":[null]`, `"attributes":[{}]`, `"attributes":[{"handle_id":null,"secondary":null}]`,
		`"attributes":[{"handle_id":"a","secondary":{}},{"handle_id":"b","secondary":{"node":"n","pod":"p"}},{"secondary":{"node":"n","pod":"q","x":"y"}}]`,
		`"attributes":[{"secondary":{"node":"a","node":"b"}}]`, `"attributes":[{"secondary":{"node":null}}]`, `"attributes":[{"secondary":{"node":1}}]`,
		`"attributes":[{"secondary":{"a":"b"},"secondary":{"c":"d"}}]`, `"attributes":[{"alternateOwnerAttrs":{"node":"b"},"new":1}]`, `"attributes":[{"alternateOwnerAttrs":{"node":"b"}}]`,
		`"sequenceNumber":0`, `"sequenceNumber":18446744073709551615`, `"sequenceNumber":9999999999999999999`, `"sequenceNumber":18446744073709551616`, `"sequenceNumber":-1`, `"sequenceNumber":null`, `"sequenceNumber":"1"`,
		`"sequenceNumberForAllocation":null`, `"sequenceNumberForAllocation":{}`, `"sequenceNumberForAllocation":{"0":1,"10":2,"007":3,"-1":4,"99":5,"100":6,"":7,"12345678901234567890":8}`,
		`"sequenceNumberForAllocation":{"0":1,"0":2}`, `"sequenceNumberForAllocation":{"0":null}`,
		`"deleted":true`, `"deleted":false`, `"deleted":null`, `"deleted":1`, `"deleted":tru`, `"deleted":truefalse`,
		`"hostAffinity":"n"`, `"hostAffinity":null`, `"new":{"a":[]}`, `"":1`,
	}
	var values []string
	for _, f := range fields {
		values = append(values, "{"+f+"}", head+f+tail, f, "{"+f, "{"+f+"} ", "{"+f+"}{}", "{"+f+",}")
	}
	return append(values, "", " ", "null", "{}", "[]", "{", `{"cidr"`, `{"cidr":`, `{"cidr":"`, `{"cidr":"x"`)
}

// agree fails when a value is taken that the JSON decoder would refuse, find unknown
// fields in, or read otherwise.
func agree(t interface{ Fatalf(string, ...any) }, value string) (taken bool) {
	got, taken := readPlainBlock([]byte(value))
	if !taken {
		return false
	}
	var want IPAMBlockSpec
	strict, err := kjson.UnmarshalStrict([]byte(value), &want, kjson.DisallowUnknownFields)
	if err != nil || len(strict) > 0 {
		t.Fatalf("%s is taken, but the decoder says %v, %v", value, strict, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s\ngives %+v\nwant  %+v", value, got, want)
	}
	return true
}

func TestPlainBlocksAreReadAsTheDecoderReadsThem(t *testing.T) {
	taken := 0
	for _, value := range oddBlocks() {
		if agree(t, value) {
			taken++
		}
	}
	if taken < 40 {
		t.Errorf("%d values are taken: the test shows little", taken)
	}
	for _, value := range blockSamples(t) {
		if !agree(t, value) {
			t.Errorf("what upstream wrote is not taken: %s", value)
		}
		// Any byte less, more or different.
		for at := range value {
			for _, c := range "\x00 \"\\,:[]{}0-.9an\x7f\x80" {
				agree(t, value[:at]+value[at+1:])
				agree(t, value[:at]+string(c)+value[at:])
				agree(t, value[:at]+string(c)+value[at+1:])
			}
		}
	}
}

// TestWhatWeWriteIsPlain: else the quick way would silently not be taken.
func TestWhatWeWriteIsPlain(t *testing.T) {
	reg := NewRegistry()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-z0-9:./-]{0,40}`)
		owner, claimed := text.Draw(t, "owner"), rapid.Bool().Draw(t, "claimed")
		block := &IPAMBlock{Spec: IPAMBlockSpec{
			CIDR: "10.65.0.0/26", SequenceNumber: uint64(rapid.Int64Min(0).Draw(t, "sequence number")),
			SequenceNumberForAllocation: rapid.MapOf(rapid.StringMatching(`[0-9]{1,3}`), rapid.Uint64Max(1<<63)).Draw(t, "numbers"),
			Allocations:                 rapid.SliceOf(rapid.Ptr(rapid.IntRange(0, 300), true)).Draw(t, "allocations"),
			Unallocated:                 rapid.SliceOf(rapid.IntRange(0, 300)).Draw(t, "unallocated"),
		}}
		if claimed {
			block.Spec.Affinity = &owner
		}
		attrs := rapid.MapOf(rapid.SampledFrom([]string{"node", "pod", "namespace", "timestamp", "type", "other"}), text)
		for range rapid.IntRange(0, 70).Draw(t, "attributes") {
			block.Spec.Attributes = append(block.Spec.Attributes, BlockAttributes{
				HandleID: rapid.Ptr(text, true).Draw(t, "handle"), ActiveOwnerAttrs: attrs.Draw(t, "active"), AlternateOwnerAttrs: attrs.Draw(t, "alternate"),
			})
		}
		value, err := reg.Encode(block, Unknown{})
		if err != nil {
			t.Fatal(err)
		}
		if !agree(t, string(value)) {
			t.Fatalf("not taken: %s", value)
		}
	})
}

func FuzzPlainBlock(f *testing.F) {
	for _, value := range append(oddBlocks(), blockSamples(f)...) {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) { agree(t, value) })
}
