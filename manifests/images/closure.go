package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// architecture is that of the build machine, in OCI's words.
func architecture() string { return runtime.GOARCH }

// libraryPaths are where the loader looks for a library, on Debian and on
// distributions without folders for architectures.
func libraryPaths() []string {
	triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	return []string{"/lib/" + triplet, "/usr/lib/" + triplet, "/lib64", "/usr/lib64", "/lib", "/usr/lib"}
}

// closure is a program of the build machine with the loader and all libraries
// that it loads, each under the path by which it is looked for.
func closure(program string) ([]file, error) {
	files := []file{{path: strings.TrimPrefix(program, "/"), source: program}}
	seen := map[string]bool{}
	todo := []string{program}
	for len(todo) > 0 {
		needed, loader, err := requirements(todo[0])
		if err != nil {
			return nil, fmt.Errorf("what %s loads: %w", program, err)
		}
		todo = todo[1:]
		for _, library := range needed {
			if seen[library] {
				continue
			}
			seen[library] = true
			source, err := find(library)
			if err != nil {
				return nil, fmt.Errorf("what %s loads: %w", program, err)
			}
			files = append(files, file{path: strings.TrimPrefix(source, "/"), source: source})
			todo = append(todo, source)
		}
		if loader != "" && !seen[loader] {
			seen[loader] = true
			files = append(files, file{path: strings.TrimPrefix(loader, "/"), source: loader})
		}
	}
	// The loader is a library of others as well.
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return slices.CompactFunc(files, func(a, b file) bool { return a.path == b.path }), nil
}

// requirements are the names of the libraries that an ELF file loads, and the
// path of its loader if it is a program.
func requirements(path string) (libraries []string, loader string, err error) {
	f, err := elf.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, "", fmt.Errorf("%s is not on this machine: install its package", path)
	}
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err != nil {
			return nil, "", err
		}
		loader = strings.TrimRight(string(name), "\x00")
	}
	libraries, err = f.ImportedLibraries()
	return libraries, loader, err
}

func find(library string) (string, error) {
	for _, dir := range libraryPaths() {
		path := filepath.Join(dir, library)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("library %s is in none of %s", library, strings.Join(libraryPaths(), ", "))
}
