package rawjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMembersAreRawAndInOrder(t *testing.T) {
	v, err := Parse([]byte(" {\"a\" : 1 , \"b\\n\":[ {\"a\":2} , \"}\" ],\"a\":null,\"\\ud83d\\ude00\":\"x\\\"y\"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range v.Members() {
		got = append(got, m.Name, string(m.Value.Kind()), string(m.Value.Raw()), m.Value.Text())
	}
	want := []string{"a", "number", "1", "", "b\n", "array", `[ {"a":2} , "}" ]`, "", "a", "null", "null", "", "😀", "string", `"x\"y"`, `x"y`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
}

func TestSyntaxErrorNamesThePlace(t *testing.T) {
	for doc, want := range map[string]string{
		``:          "unexpected end at byte 0",
		`{`:         "unexpected end at byte 1",
		`{"a":1,}`:  "unexpected '}' where the name of a member begins at byte 7",
		`{"a" 1}`:   "unexpected '1' after the name of a member at byte 5",
		`[1 2]`:     "unexpected '2' after an element at byte 3",
		`tru`:       "unexpected end at byte 3",
		`01`:        "unexpected '1' after the end of the value at byte 1",
		`"\x"`:      "unexpected 'x' in an escape at byte 2",
		"\"a\nb\"":  `unexpected '\n' in a string at byte 2`,
		`{"a": é}`:  "unexpected 'é' where a value begins at byte 6",
		`{} x`:      "unexpected 'x' after the end of the value at byte 3",
		`{"a":1}{}`: "unexpected '{' after the end of the value at byte 7",
	} {
		_, err := Parse([]byte(doc))
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || err.Error() != want {
			t.Errorf("%s: error %v, want %s", doc, err, want)
		}
	}
}

func TestNestingIsBoundedAsInEncodingJSON(t *testing.T) {
	for _, depth := range []int{maxDepth, maxDepth + 1} {
		doc := []byte(strings.Repeat("[", depth) + strings.Repeat("]", depth))
		if _, err := Parse(doc); (err == nil) != json.Valid(doc) {
			t.Errorf("depth %d: %v, encoding/json says %t", depth, err, json.Valid(doc))
		}
	}
}

// FuzzParse compares with encoding/json.
func FuzzParse(f *testing.F) {
	for _, doc := range []string{
		`{"cniVersion": "1.0.0", "name": "net1", "ipam": {"type": "calico-ipam", "x": [1, -2.5e+3, true, false, null]}}`,
		`{"a":"\u00e4\ud83d\ude00\ud83d\u0041\\\"\/\b\f\n\r\t"}`, "{\"a\": \"\xff\xc3\"}", `{"a":1,"a":2}`, `"\ud800\ud800\udc00"`,
		``, ` `, `{`, `{"`, `{"a"`, `{"a":`, `[`, `[1,`, `-`, `0.`, `1e`, `01`, `nul`, `"\u12`, `"\`, "\"\x00\"", "\x00", `{"a":1 "b":2}`, "[1]\v", "\ufeff{}",
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		v, err := Parse(doc)
		if (err == nil) != json.Valid(doc) {
			t.Fatalf("%q: %v, encoding/json says %t", doc, err, json.Valid(doc))
		}
		if err != nil {
			return
		}
		compact, want := AppendCompact(nil, v), bytes.Buffer{}
		if err := json.Compact(&want, doc); err != nil || want.String() != string(compact) {
			t.Fatalf("%q: compact %q, want %q", doc, compact, want.String())
		}
		compareMembers(t, doc, v)
		var text string
		if json.Unmarshal(doc, &text) == nil && text != v.Text() {
			t.Fatalf("%q: text %q, want %q", doc, v.Text(), text)
		}
	})
}

func compareMembers(t *testing.T, doc []byte, v Value) {
	t.Helper()
	var want map[string]json.RawMessage
	if json.Unmarshal(doc, &want) != nil || want == nil {
		if v.Kind() == Object || v.Members() != nil {
			t.Fatalf("%q has members", doc)
		}
		return
	}
	got := map[string]json.RawMessage{}
	for _, m := range v.Members() {
		got[m.Name] = m.Value.Raw()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%q: members (-want +got):\n%s", doc, diff)
	}
}

// FuzzAppendString: what is written is what encoding/json reads.
func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", "\"\\/\b\f\n\r\t\x00\x1f\x7f", "ä😀\u2028", "\xff\xc3(", "<&>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		theirs, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		quoted, got, want := AppendString(nil, s), "", ""
		if err := errors.Join(json.Unmarshal(theirs, &want), json.Unmarshal(quoted, &got)); err != nil || got != want {
			t.Fatalf("%q: %s is read back as %q, want %q: %v", s, quoted, got, want, err)
		}
		v, err := Parse(quoted)
		if err != nil || v.Text() != got || bytes.ContainsRune(quoted, '\n') {
			t.Fatalf("%q: %s is %q here, %v", s, quoted, v.Text(), err)
		}
	})
}
