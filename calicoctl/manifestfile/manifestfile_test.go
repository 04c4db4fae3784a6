package manifestfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tortie/calicoctl/manifestfile"
	"tortie/internal/api"
)

func node(name string) string {
	return "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: " + name + "\n"
}

func jsonNode(name string) string {
	return `{"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "` + name + `"}}`
}

// read reads a text under a file name and returns "name@where" of each resource.
func read(t *testing.T, text string, opts manifestfile.Options) ([]string, error) {
	t.Helper()
	opts.Stdin = strings.NewReader(text)
	docs, err := manifestfile.Read([]string{manifestfile.Stdin}, api.NewRegistry(), opts)
	var got []string
	for _, d := range docs {
		got = append(got, d.Object.GetName()+"@"+d.Source.String())
	}
	return got, err
}

func TestReadFindsEveryDocumentAndItsLine(t *testing.T) {
	cases := []struct {
		name, text string
		want       []string
	}{
		{"one", node("a"), []string{"a@<stdin>:1"}},
		{"marker first", "---\n" + node("a"), []string{"a@<stdin>:2"}},
		{"comments first", "# x\n\n%YAML 1.1\n---\n" + node("a"), []string{"a@<stdin>:5"}},
		{"byte order mark", "\xef\xbb\xbf" + node("a"), []string{"a@<stdin>:1"}},
		{"carriage returns", strings.ReplaceAll(node("a")+"---\n"+node("b"), "\n", "\r\n"), []string{
			"a@<stdin>:1 (document 1 of 2)", "b@<stdin>:6 (document 2 of 2)",
		}},
		{"empty documents don't count", "---\n---\n# none\n---\n" + node("a") + "---\n\n--- # end\n" + node("b") + "...\n", []string{
			"a@<stdin>:5 (document 1 of 2)", "b@<stdin>:12 (document 2 of 2)",
		}},
		{"content on the marker's line", "--- " + jsonNode("a") + "\n", []string{"a@<stdin>:1"}},
		{"no newline at the end", strings.TrimSuffix(node("a"), "\n"), []string{"a@<stdin>:1"}},
		{"marker inside a value", node("a") + "  annotations: {x: \"a --- b\"}\n", []string{"a@<stdin>:1"}},
		{"JSON stream", jsonNode("a") + "\n\n" + jsonNode("b"), []string{
			"a@<stdin>:1 (document 1 of 2)", "b@<stdin>:3 (document 2 of 2)",
		}},
		{"flow YAML that looks like JSON", "{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: a}}", []string{"a@<stdin>:1"}},
		{"JSON between markers", jsonNode("a") + "\n---\n" + jsonNode("b"), []string{
			"a@<stdin>:1 (document 1 of 2)", "b@<stdin>:3 (document 2 of 2)",
		}},
		{"array", "[" + jsonNode("a") + ",\n" + jsonNode("b") + "]", []string{
			"a@<stdin>:1 (item 1)", "b@<stdin>:2 (item 2)",
		}},
		{"List", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: projectcalico.org/v3\n  kind: Node\n  metadata: {name: a}\n", []string{
			"a@<stdin>:4 (item 1)",
		}},
		{"typed List", node("x") + "---\napiVersion: projectcalico.org/v3\nkind: NodeList\nitems:\n- metadata: {name: a}\n- metadata: {name: b}\n", []string{
			"x@<stdin>:1 (document 1 of 2)", "a@<stdin>:9 (document 2 of 2, item 1)", "b@<stdin>:10 (document 2 of 2, item 2)",
		}},
		{"empty List", "apiVersion: projectcalico.org/v3\nkind: NodeList\nitems: []\n", nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := read(t, c.text, manifestfile.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("resources (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadPointsAtTheLineOfTheFault(t *testing.T) {
	cases := []struct{ name, text, want string }{
		{"indentation", node("a") + "---\n" + node("b") + "   spec: {}\n", "<stdin>:10 (document 2 of 2): not valid YAML"},
		{"unclosed list", "a: [1,\n", "<stdin>:"},
		{"tab", "apiVersion: projectcalico.org/v3\n\tkind: Node\n", "<stdin>:2: not valid YAML"},
		{"unknown field", node("a") + "spec:\n  bgp:\n    ipv4Adress: 10.0.0.1/24\n", "<stdin>:7: Node(a): spec.bgp.ipv4Adress"},
		{"unknown field in a list", "kind: NodeList\napiVersion: projectcalico.org/v3\nitems:\n- metadata: {name: a}\n- metadata: {name: b}\n  spek: {}\n", "<stdin>:6 (item 2): Node(b): spek"},
		{"item that is no resource", "kind: NodeList\napiVersion: projectcalico.org/v3\nitems: [1]\n", "<stdin>:1: items[0]: not a resource"},
		{"JSON syntax", jsonNode("a") + "\n{\n\"kind\": }\n", "<stdin>:3 (document 2 of 2): not valid JSON"},
		{"JSON that ends early", "{\n\"kind\": \"Node\"\n", "<stdin>:"},
		{"number", "17", "<stdin>:1: not a resource"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := read(t, c.text, manifestfile.Options{})
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("error %v, want one that starts with %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("error is more than one line: %q", err)
			}
			if _, ok := errors.AsType[*manifestfile.Error](err); !ok {
				t.Errorf("error %v does not say where", err)
			}
		})
	}
}

func TestReadReportsEveryFaultyDocument(t *testing.T) {
	_, err := read(t, node("a")+"---\nkind: Nod\n---\n"+node("b")+"---\na: b: c\n", manifestfile.Options{})
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("error %v, want two lines", err)
	}
}

func TestEmptyInputIsAnErrorUnlessAllowed(t *testing.T) {
	for _, text := range []string{"", "\n", "---\n---\n", "# nothing\n"} {
		if _, err := read(t, text, manifestfile.Options{}); err == nil {
			t.Errorf("%q: no error", text)
		}
		if got, err := read(t, text, manifestfile.Options{AllowEmpty: true}); err != nil || got != nil {
			t.Errorf("%q with AllowEmpty: %v, %v", text, got, err)
		}
	}
}

func TestDirectoriesAreReadInOrderOfNames(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b.yaml": node("b"), "a.YML": node("a"), "c.json": jsonNode("c"), "skip.txt": "no",
		"sub/d.yaml": node("d"),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for recursive, want := range map[bool]string{false: "a b c", true: "a b c d"} {
		docs, err := manifestfile.Read([]string{dir}, api.NewRegistry(), manifestfile.Options{Recursive: recursive})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, d := range docs {
			names = append(names, d.Object.GetName())
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("recursive %v: %q, want %q", recursive, got, want)
		}
	}
}

// FuzzRead looks for input that makes the reader panic or accept what it then
// can't place.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{node("a"), "---\n" + node("a") + "---\n[]", jsonNode("a"), "[{}]", "{", "--- {a: b", "kind: List\nitems: {}\n", "a: &x [*x]"} {
		f.Add(seed)
	}
	reg := api.NewRegistry()
	f.Fuzz(func(t *testing.T, text string) {
		docs, _ := manifestfile.Read([]string{manifestfile.Stdin}, reg, manifestfile.Options{Stdin: strings.NewReader(text)})
		lines := strings.Count(text, "\n") + 1
		for _, d := range docs {
			for _, field := range []string{"", "spec", "spec.cidr", "metadata.labels[0]"} {
				if at := d.At(field); at.Line < 1 || at.Line > lines {
					t.Errorf("%q: %s is at line %d of %d", text, field, at.Line, lines)
				}
			}
		}
	})
}
