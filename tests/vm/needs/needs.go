// Package needs finds the tests that need a feature of the kernel, in their source:
// those from which a kerneltest.Require of it can be reached.
package needs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Package is one with such tests.
type Package struct {
	Dir   string // below the repository
	Tests []string
}

// Features reads the names of all features, and what each is called, where they are
// declared.
func Features(file string) (map[string]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		kind, _ := spec.Type.(*ast.Ident)
		value, _ := spec.Values[0].(*ast.BasicLit)
		if kind == nil || kind.Name != "Feature" || value == nil {
			return true
		}
		if out[spec.Names[0].Name], err = strconv.Unquote(value.Value); err != nil {
			return false
		}
		return true
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("%s declares no Feature", file)
	}
	return out, err
}

// Tests finds the packages below root with tests that need one of the features.
func Tests(root string, features []string) ([]Package, error) {
	files := map[string][]*ast.File{} // by folder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		files[dir] = append(files[dir], f)
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []Package
	for _, dir := range slices.Sorted(maps.Keys(files)) {
		if tests := inPackage(files[dir], features); len(tests) > 0 {
			out = append(out, Package{Dir: dir, Tests: tests})
		}
	}
	return out, nil
}

// function is what a function, or a method of any type, mentions.
type function struct{ names, features []string }

// inPackage gives the tests of one package. Functions are told apart by their names
// alone, so that of two methods with one name both count.
func inPackage(files []*ast.File, features []string) []string {
	functions := map[string]function{}
	for _, f := range files {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				f := functions[fn.Name.Name]
				f.read(fn.Body)
				functions[fn.Name.Name] = f
			}
		}
	}
	var tests []string
	for name := range functions {
		if strings.HasPrefix(name, "Test") && name != "TestMain" && reaches(functions, name, features, map[string]bool{}) {
			tests = append(tests, name)
		}
	}
	slices.Sort(tests)
	return tests
}

func (f *function) read(body ast.Node) {
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if selected(n.Fun) == "Require" {
				for _, arg := range n.Args {
					f.features = append(f.features, selected(arg))
				}
			}
		case *ast.Ident:
			f.names = append(f.names, n.Name)
		}
		return true
	})
}

// selected is X of kerneltest.X; "" for anything else.
func selected(e ast.Expr) string {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if x, ok := sel.X.(*ast.Ident); !ok || x.Name != "kerneltest" {
		return ""
	}
	return sel.Sel.Name
}

func reaches(functions map[string]function, name string, features []string, seen map[string]bool) bool {
	f, ok := functions[name]
	if !ok || seen[name] {
		return false
	}
	seen[name] = true
	if slices.ContainsFunc(f.features, func(x string) bool { return slices.Contains(features, x) }) {
		return true
	}
	return slices.ContainsFunc(f.names, func(n string) bool { return reaches(functions, n, features, seen) })
}
