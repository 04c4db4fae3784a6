package manifestfile_test

import (
	"os"
	"strings"
	"testing"

	"tortie/calicoctl/manifestfile"
	"tortie/internal/api"
)

// TestExamplesOfTheDocumentsAreAccepted: whoever copies one must not be refused.
func TestExamplesOfTheDocumentsAreAccepted(t *testing.T) {
	var text []byte
	for _, page := range []string{"../../docs/bgp.md", "../../docs/ipam.md"} {
		part, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, part...)
	}
	registry, seen := api.NewRegistry(), 0
	for part := range strings.SplitSeq(string(text), "```yaml\n") {
		example, _, closed := strings.Cut(part, "```")
		if !strings.Contains(example, "apiVersion: projectcalico.org/v3") || !closed {
			continue
		}
		docs, err := manifestfile.Read([]string{manifestfile.Stdin}, registry, manifestfile.Options{Stdin: strings.NewReader(example)})
		if err != nil {
			t.Errorf("%v in\n%s", err, example)
		}
		for _, d := range docs {
			seen++
			registry.Default(d.Object)
			if err := registry.Validate(d.Object); err != nil {
				t.Errorf("%s: %v", d.Object.GetName(), err)
			}
		}
	}
	if seen < 5 {
		t.Errorf("%d examples found", seen)
	}
}
