// Package image makes container images without a registry or a daemon, as the
// archives that containerd imports.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Spec is an image of static programs.
type Spec struct {
	// Reference is its name and tag.
	Reference string
	// Programs are files of this machine by their path in the image.
	Programs map[string]string
	// Entrypoint is what runs in it.
	Entrypoint []string
}

// Write makes the archive.
func (s Spec) Write(path string) error {
	layer, err := s.layer()
	if err != nil {
		return fmt.Errorf("make the image %s: %w", s.Reference, err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return err
	}
	cfg = cfg.DeepCopy()
	cfg.Architecture, cfg.OS = "amd64", "linux"
	cfg.Config = v1.Config{Entrypoint: s.Entrypoint, Env: []string{"PATH=/"}}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return err
	}
	tag, err := name.NewTag(s.Reference)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(path, tag, img)
}

func (s Spec) layer() (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	paths := make([]string, 0, len(s.Programs))
	for path := range s.Programs {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	if err := w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}); err != nil {
		return nil, err
	}
	for _, path := range paths {
		text, err := os.ReadFile(s.Programs[path])
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Name: filepath.Clean(path)[1:], Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(text))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(text); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}
