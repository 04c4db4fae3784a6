// Package manifestfile reads the resources an operator hands to a command: YAML
// and JSON from files, directories and standard input, several documents each,
// single resources, arrays and Lists.
//
// A caller that writes only after Read succeeded never acts on half an input.
package manifestfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tortie/internal/api"
	"tortie/internal/filefault"
)

// Stdin is the file name that means standard input.
const Stdin = "-"

// Decoder turns one JSON document into a resource and refuses what it doesn't
// know. *api.Registry is one.
type Decoder interface {
	DecodeStrict(doc []byte) (api.Object, error)
}

// Options are the choices of a Read.
type Options struct {
	// Recursive descends into subdirectories.
	Recursive bool
	// AllowEmpty accepts a file or directory without any resource.
	AllowEmpty bool
	// Stdin is what the file name "-" reads.
	Stdin io.Reader
}

// Source says where a resource was found, for messages.
type Source struct {
	File  string
	Line  int // line of the file where the document starts, from 1
	Index int // number of the document in the file, from 1
	Of    int // documents in the file
	Item  int // number of the item in a List or array, from 1; 0 outside one
}

// String is "pools.yaml:23 (document 3 of 5, item 2)", without the parts that
// say nothing.
func (s Source) String() string {
	var in []string
	if s.Of > 1 {
		in = append(in, fmt.Sprintf("document %d of %d", s.Index, s.Of))
	}
	if s.Item > 0 {
		in = append(in, fmt.Sprintf("item %d", s.Item))
	}
	where := fmt.Sprintf("%s:%d", s.File, s.Line)
	if len(in) > 0 {
		where += " (" + strings.Join(in, ", ") + ")"
	}
	return where
}

// Document is one resource and where it came from.
type Document struct {
	Source Source
	Object api.Object
	doc    *rawDocument
}

// At is the Source with the line of a field such as "spec.cidr"; the line of
// the closest enclosing field when the field itself is not in the document.
func (d Document) At(field string) Source {
	return d.doc.at(d.Source, field)
}

// Error is a part of the input that can't be used.
type Error struct {
	Source Source
	Err    error
}

// Error is "where: what".
func (e *Error) Error() string { return e.Source.String() + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Read reads all resources of the named files and directories in order. The
// error joins one error for everything that can't be used, so that an operator
// sees all of it at once. The documents returned with an error are the others:
// to be checked further, never to be acted on.
func Read(paths []string, dec Decoder, opts Options) ([]Document, error) {
	var (
		docs []Document
		errs []error
	)
	for _, path := range paths {
		found, err := readPath(path, dec, opts)
		docs = append(docs, found...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return docs, errors.Join(errs...)
}

func readPath(path string, dec Decoder, opts Options) ([]Document, error) {
	if path == Stdin {
		content, err := io.ReadAll(opts.Stdin)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return decodeFile("<stdin>", content, dec, opts)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, filefault.Explain(err)
	}
	if !info.IsDir() {
		return readFile(path, dec, opts)
	}
	files, err := manifestsIn(path, opts.Recursive)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 && !opts.AllowEmpty {
		return nil, fmt.Errorf("%s: no .yaml, .yml or .json file in this directory%s",
			path, recursionHint(opts.Recursive))
	}
	var (
		docs []Document
		errs []error
	)
	for _, file := range files {
		found, err := readFile(file, dec, opts)
		docs = append(docs, found...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return docs, errors.Join(errs...)
}

func recursionHint(recursive bool) string {
	if recursive {
		return " or below it"
	}
	return " (-R looks below it as well)"
}

func readFile(path string, dec Decoder, opts Options) ([]Document, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, filefault.Explain(err)
	}
	return decodeFile(path, content, dec, opts)
}

// manifestsIn lists the manifests of a directory in lexical order, so that the
// order of writes doesn't depend on the file system.
func manifestsIn(dir string, recursive bool) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if path != dir && !recursive {
				return filepath.SkipDir
			}
			return nil
		}
		if slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(path))) {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		return nil, filefault.Explain(err)
	}
	slices.Sort(files)
	return files, nil
}

func decodeFile(name string, content []byte, dec Decoder, opts Options) ([]Document, error) {
	raws := split(name, content)
	if len(raws) == 0 {
		if opts.AllowEmpty {
			return nil, nil
		}
		return nil, fmt.Errorf("%s: no resource in this file (--skip-empty accepts that)", name)
	}
	var (
		docs []Document
		errs []error
	)
	for _, raw := range raws {
		found, err := raw.decode(dec)
		docs = append(docs, found...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return docs, errors.Join(errs...)
}
