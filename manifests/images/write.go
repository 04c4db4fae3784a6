package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// write makes the archive, in the form that `docker load` and `ctr images import`
// take, and returns the image's digest. A build that fails leaves no archive.
func (i image) write(path string) (digest string, err error) {
	img, err := i.assemble()
	if err != nil {
		return "", err
	}
	ref, err := name.NewTag(i.reference)
	if err != nil {
		return "", fmt.Errorf("reference %s: %w", i.reference, err)
	}
	temp := path + ".new"
	defer func() { _ = os.Remove(temp) }()
	if err := tarball.WriteToFile(temp, ref, img); err != nil {
		return "", fmt.Errorf("write %s: %w", temp, err)
	}
	hash, err := img.Digest()
	if err != nil {
		return "", err
	}
	return hash.String(), os.Rename(temp, path)
}

func (i image) assemble() (v1.Image, error) {
	layers := slices.Clone(i.layers)
	for _, tool := range i.tools {
		files, err := closure(tool)
		if err != nil {
			return nil, err
		}
		layers[0] = append(slices.Clone(layers[0]), files...)
	}
	img := empty.Image
	for _, files := range layers {
		layer, err := newLayer(files, i.created)
		if err == nil {
			img, err = mutate.Append(img, mutate.Addendum{
				Layer: layer, History: v1.History{Created: v1.Time{Time: i.created}, CreatedBy: "manifests/images"},
			})
		}
		if err != nil {
			return nil, err
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.Architecture, cfg.OS, cfg.Created = architecture(), "linux", v1.Time{Time: i.created}
	cfg.Config = v1.Config{
		User: i.user, Entrypoint: i.command, Labels: i.labels, WorkingDir: "/",
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	return mutate.ConfigFile(img, cfg)
}

// newLayer packs files with their folders, all of root and of one time.
func newLayer(files []file, modified time.Time) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	made := map[string]bool{".": true}
	for _, f := range files {
		if err := addFolders(w, path.Dir(f.path), made, modified); err != nil {
			return nil, err
		}
		if f.dir {
			made[f.path] = true
		}
		if err := f.add(w, modified); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	content := b.Bytes()
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
}

func addFolders(w *tar.Writer, dir string, made map[string]bool, modified time.Time) error {
	if made[dir] {
		return nil
	}
	if err := addFolders(w, path.Dir(dir), made, modified); err != nil {
		return err
	}
	made[dir] = true
	return file{path: dir, dir: true}.add(w, modified)
}

func (f file) add(w *tar.Writer, modified time.Time) error {
	header := &tar.Header{Name: f.path, Mode: 0o644, ModTime: modified, Format: tar.FormatPAX, Typeflag: tar.TypeReg}
	data := f.data
	switch {
	case f.dir:
		header.Typeflag, header.Name, header.Mode = tar.TypeDir, f.path+"/", 0o755
		if f.path == "tmp" {
			header.Mode = 0o1777
		}
	case f.link != "":
		header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, f.link, 0o777
	case f.source != "":
		var err error
		if data, err = os.ReadFile(f.source); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%w; run `make build` first", err)
			}
			return err
		}
		header.Mode = 0o755
	}
	header.Size = int64(len(data))
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}
