// Command images builds the OCI images of Tortie from the programs in bin/,
// without a registry, a container runtime or a Dockerfile. The same inputs give
// the same bytes.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	var b build
	out := flag.String("out", "bin/images", "folder for the archives")
	unpacked := flag.String("unpack", "", "write the images' files below this folder instead: one folder for each image")
	flag.StringVar(&b.bin, "bin", "bin", "folder of the programs")
	flag.StringVar(&b.version, "version", "unknown", "version: the image's tag and label")
	flag.StringVar(&b.revision, "revision", "", "commit the programs were built from")
	created := flag.String("created", os.Getenv("SOURCE_DATE_EPOCH"), "time of the build in seconds since 1970, the commit's as a rule")
	flag.StringVar(&b.repository, "repository", "tortie", "what stands before the images' names")
	flag.Parse()
	if err := run(b, *created, *out, *unpacked, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(b build, created, out, unpacked string, stdout io.Writer) error {
	seconds, err := strconv.ParseInt(created, 10, 64)
	if err != nil {
		return fmt.Errorf("-created %q: want seconds since 1970, for example $(git show -s --format=%%ct)", created)
	}
	b.created = time.Unix(seconds, 0).UTC()
	if unpacked != "" {
		for _, spec := range b.images() {
			if err := spec.unpack(filepath.Join(unpacked, spec.name)); err != nil {
				return fmt.Errorf("%s: %w", spec.name, err)
			}
		}
		return nil
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, spec := range b.images() {
		path := filepath.Join(out, "tortie-"+spec.name+".tar")
		digest, err := spec.write(path)
		if err != nil {
			return fmt.Errorf("%s: %w", spec.name, err)
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(stdout, "%s  %s  %.1f MB  %s\n", strings.Join(spec.references, ", "), path, float64(info.Size())/1e6, digest)
	}
	return nil
}
