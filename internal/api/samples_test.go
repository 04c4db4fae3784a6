package api_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tortie/internal/api"
)

// sample is a key and value as upstream's own programs wrote them.
type sample struct{ path, value string }

func samples(t testing.TB) []sample {
	t.Helper()
	text, err := os.ReadFile("testdata/samples.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines)%2 != 0 || len(lines) < 80 {
		t.Fatalf("testdata/samples.txt has %d lines, want at least 40 pairs", len(lines))
	}
	var out []sample
	for i := 0; i < len(lines); i += 2 {
		out = append(out, sample{path: lines[i], value: lines[i+1]})
	}
	return out
}

func TestUpstreamSamplesSurviveDecodeAndEncodeByteForByte(t *testing.T) {
	reg := api.NewRegistry()
	for _, s := range samples(t) {
		t.Run(s.path, func(t *testing.T) {
			key, err := reg.ParsePath(s.path)
			if err != nil {
				t.Fatal(err)
			}
			if path, err := reg.Path(key); err != nil || path != s.path {
				t.Fatalf("Path(%v) = %q, %v", key, path, err)
			}
			obj, unknown, err := reg.Decode(key, []byte(s.value))
			if err != nil {
				t.Fatal(err)
			}
			if !unknown.Empty() {
				t.Error("the sample has fields that our types don't know")
			}
			if got, err := reg.KeyOf(obj); err != nil || got != key {
				t.Errorf("KeyOf = %v, %v; want %v", got, err, key)
			}
			got, err := reg.Encode(obj, api.Unknown{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(s.value, string(got)); diff != "" {
				t.Errorf("stored form (-upstream +ours):\n%s", diff)
			}
		})
	}
}
