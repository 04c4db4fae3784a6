package output

import (
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"text/template"
)

type templatePrinter struct{ template *template.Template }

// newTemplate parses a template with the functions that upstream's templates
// may use: join, joinAndTruncate and config "asnumber".
func newTemplate(text string) (Printer, error) {
	t, err := template.New("go-template").Funcs(functions(Env{})).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("output format go-template: %s", strings.TrimPrefix(err.Error(), "template: "))
	}
	return templatePrinter{template: t}, nil
}

// Print executes the template on the array of results, whether there is one or
// several: a listing is one element with the objects in its Items.
func (p templatePrinter) Print(w io.Writer, results []Result, env Env) error {
	values := make([]any, len(results))
	for i, r := range results {
		values[i] = r.value()
	}
	if err := p.template.Funcs(functions(env)).Execute(w, values); err != nil {
		return fmt.Errorf("output format go-template: %s", strings.TrimPrefix(err.Error(), "template: "))
	}
	return nil
}

func functions(env Env) template.FuncMap {
	return template.FuncMap{
		"join":            func(items any, sep string) string { return join(items, sep) },
		"joinAndTruncate": func(items any, sep string, limit int) string { return truncate(join(items, sep), limit) },
		"config": func(name string) (string, error) {
			if !strings.EqualFold(name, "asnumber") {
				return "", fmt.Errorf("config %q: want \"asnumber\"", name)
			}
			return env.DefaultASN(), nil
		},
	}
}

// join is the elements of a slice or the sorted key=value pairs of a map with
// sep between them; anything else as it prints.
func join(items any, sep string) string {
	if items == nil {
		return ""
	}
	v := reflect.ValueOf(items)
	var parts []string
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			parts = append(parts, fmt.Sprint(v.Index(i).Interface()))
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			parts = append(parts, fmt.Sprintf("%v=%v", key.Interface(), v.MapIndex(key).Interface()))
		}
		slices.Sort(parts)
	default:
		return fmt.Sprint(items)
	}
	return strings.Join(parts, sep)
}

// truncate cuts a text to a length and marks the cut; 0 means no limit.
func truncate(s string, limit int) string {
	const mark = "..."
	if limit <= len(mark) || len(s) <= limit {
		return s
	}
	return s[:limit-len(mark)] + mark
}

func labels(m map[string]string) string {
	pairs := make([]string, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, key+"="+m[key])
	}
	return strings.Join(pairs, ",")
}
