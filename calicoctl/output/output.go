// Package output prints resources in the formats an operator can ask for:
// tables, YAML, JSON and Go templates.
package output

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"tortie/internal/api"
	"tortie/internal/filefault"
)

// Formats is the list of formats for help and error texts.
const Formats = "ps, wide, yaml, json, custom-columns=COLUMN,…, go-template=TEMPLATE, go-template-file=FILE"

// List is what a listing prints: all objects of one kind. Its fields are named
// as in the types of the API, so that templates written for those work.
type List struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []api.Object `json:"items"`
}

// NewList makes a List of one kind, read at a revision of the store.
func NewList(kind api.Kind, resourceVersion string, items []api.Object) *List {
	if items == nil {
		items = []api.Object{}
	}
	return &List{
		TypeMeta: metav1.TypeMeta{Kind: string(kind) + "List", APIVersion: api.GroupVersion},
		ListMeta: metav1.ListMeta{ResourceVersion: resourceVersion},
		Items:    items,
	}
}

// Result is one answer of a get: a single object or a List of a kind.
type Result struct {
	Kind   api.Kind
	Object api.Object // nil for a list
	List   *List      // nil for a single object
}

func (r Result) value() any {
	if r.List != nil {
		return r.List
	}
	return r.Object
}

func (r Result) objects() []api.Object {
	if r.List != nil {
		return r.List.Items
	}
	return []api.Object{r.Object}
}

// Env is what printing needs besides the objects.
type Env struct {
	// PrintNamespace adds the NAMESPACE column to tables of namespaced kinds.
	PrintNamespace bool
	// DefaultASN is the AS number of nodes without their own. It is called only
	// when a column shows it.
	DefaultASN func() string
}

// Printer writes results in one format.
type Printer interface {
	Print(w io.Writer, results []Result, env Env) error
}

// ParseFormat reads the value of -o.
func ParseFormat(format string) (Printer, error) {
	name, arg, hasArg := strings.Cut(format, "=")
	switch {
	case !hasArg && (name == "ps" || name == ""):
		return tablePrinter{}, nil
	case !hasArg && name == "wide":
		return tablePrinter{wide: true}, nil
	case !hasArg && name == "json":
		return printerFunc(printJSON), nil
	case !hasArg && (name == "yaml" || name == "yml"):
		return printerFunc(printYAML), nil
	}
	switch name {
	case "custom-columns":
		columns := splitColumns(arg)
		if len(columns) == 0 {
			return nil, fmt.Errorf("output format custom-columns: name at least one column, as in -o custom-columns=NAME,CIDR")
		}
		return tablePrinter{columns: columns}, nil
	case "go-template":
		if arg == "" {
			return nil, fmt.Errorf("output format go-template: give a template, as in -o go-template='{{range .}}{{.ObjectMeta.Name}}{{end}}'")
		}
		return newTemplate(arg)
	case "go-template-file":
		if arg == "" {
			return nil, fmt.Errorf("output format go-template-file: name a file, as in -o go-template-file=names.tmpl")
		}
		text, err := os.ReadFile(arg)
		if err != nil {
			return nil, fmt.Errorf("output format go-template-file: %w", filefault.Explain(err))
		}
		return newTemplate(string(text))
	}
	return nil, fmt.Errorf("unrecognized output format '%s': want one of %s", format, Formats)
}

func splitColumns(arg string) []string {
	return strings.FieldsFunc(arg, func(r rune) bool { return r == ',' || r == ' ' })
}

type printerFunc func(w io.Writer, results []Result) error

func (f printerFunc) Print(w io.Writer, results []Result, _ Env) error { return f(w, results) }

// single is the only result itself, else all of them as an array.
func single(results []Result) any {
	if len(results) == 1 {
		return results[0].value()
	}
	values := make([]any, len(results))
	for i, r := range results {
		values[i] = r.value()
	}
	return values
}

func printJSON(w io.Writer, results []Result) error {
	return JSON(w, single(results))
}

func printYAML(w io.Writer, results []Result) error {
	return YAML(w, single(results))
}

// JSON writes any value indented, without timestamps that are not set.
func JSON(w io.Writer, value any) error {
	tree, err := tree(value)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(tree)
}

// YAML writes any value with its keys sorted, without timestamps that are not
// set.
func YAML(w io.Writer, value any) error {
	tree, err := tree(value)
	if err != nil {
		return err
	}
	out, err := yaml.Marshal(tree)
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}
