package output

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"tortie/internal/api"
)

// columnNamespace goes first in tables over several namespaces.
const columnNamespace = "NAMESPACE"

// tablePrinter prints one table for every run of results of one kind.
type tablePrinter struct {
	wide    bool
	columns []string // as asked for with custom-columns; nil for the kind's own
}

// Print writes the tables. Columns are separated by three spaces and every
// table is followed by an empty line, as scripts that cut upstream's output
// expect.
func (p tablePrinter) Print(w io.Writer, results []Result, env Env) error {
	for len(results) > 0 {
		kind, n := results[0].Kind, 1
		for n < len(results) && results[n].Kind == kind {
			n++
		}
		var objects []api.Object
		for _, r := range results[:n] {
			objects = append(objects, r.objects()...)
		}
		if err := p.table(w, kind, objects, env); err != nil {
			return err
		}
		results = results[n:]
	}
	return nil
}

func (p tablePrinter) table(w io.Writer, kind api.Kind, objects []api.Object, env Env) error {
	layout := layouts()[kind]
	columns, err := p.choose(kind, layout, env.PrintNamespace)
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 5, 1, 3, ' ', 0)
	row := make([]string, len(columns))
	for i, c := range columns {
		row[i] = c.head
	}
	rows := [][]string{row}
	for _, obj := range objects {
		row := make([]string, len(columns))
		for i, c := range columns {
			row[i] = oneLine(c.cell(obj, env))
		}
		rows = append(rows, row)
	}
	for _, row := range rows {
		if _, err := fmt.Fprintf(tw, "%s\t\n", strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err = io.WriteString(w, "\n")
	return err
}

// oneLine keeps a cell from breaking its table: a value of the store may hold
// anything.
func oneLine(cell string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, cell)
}

func (p tablePrinter) choose(kind api.Kind, layout layout, printNamespace bool) ([]column, error) {
	names := layout.narrow
	switch {
	case p.columns != nil:
		names = p.columns
	case p.wide && layout.wide != nil:
		names = layout.wide
	}
	var columns []column
	if printNamespace && layout.namespaced && !containsFold(names, columnNamespace) {
		columns = append(columns, namespaceColumn())
	}
	for _, name := range names {
		c, ok := layout.column(name)
		if !ok {
			return nil, fmt.Errorf("unknown column %s for %s: the columns are %s",
				name, kind, strings.Join(layout.names(), ", "))
		}
		columns = append(columns, c)
	}
	return columns, nil
}

func containsFold(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// column is one column of a kind's tables.
type column struct {
	head string
	cell func(obj api.Object, env Env) string
}

// layout says which columns a kind has and which it shows by default.
type layout struct {
	namespaced   bool
	narrow, wide []string // wide nil: as narrow
	columns      []column
}

func (l layout) column(name string) (column, bool) {
	for _, c := range l.columns {
		if strings.EqualFold(c.head, name) {
			return c, true
		}
	}
	if l.namespaced && strings.EqualFold(name, columnNamespace) {
		return namespaceColumn(), true
	}
	return column{}, false
}

func (l layout) names() []string {
	var names []string
	if l.namespaced {
		names = append(names, columnNamespace)
	}
	for _, c := range l.columns {
		names = append(names, c.head)
	}
	return names
}
