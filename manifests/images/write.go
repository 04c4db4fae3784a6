package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

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
	temp := path + ".new"
	defer func() { _ = os.Remove(temp) }()
	if err := writeArchive(temp, img, i.references, i.created); err != nil {
		return "", fmt.Errorf("write %s: %w", temp, err)
	}
	hash, err := img.Digest()
	if err != nil {
		return "", err
	}
	return hash.String(), os.Rename(temp, path)
}

// writeArchive makes a docker-archive. The library's own writer of several tags has
// them in another order each time.
func writeArchive(path string, img v1.Image, references []string, modified time.Time) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	about := tarball.Descriptor{Config: "config.json", RepoTags: references}
	parts := []file{{path: about.Config, data: config}}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for n, layer := range layers {
		content, err := layer.Compressed()
		if err != nil {
			return err
		}
		data, err := io.ReadAll(content)
		if err = errors.Join(err, content.Close()); err != nil {
			return err
		}
		about.Layers = append(about.Layers, fmt.Sprintf("layer-%d.tar.gz", n))
		parts = append(parts, file{path: about.Layers[n], data: data})
	}
	manifest, err := json.Marshal(tarball.Manifest{about})
	if err != nil {
		return err
	}
	for _, part := range append(parts, file{path: "manifest.json", data: manifest}) {
		if err := part.add(w, modified); err != nil {
			return err
		}
	}
	return w.Close()
}

// searchPath is the images' PATH.
const searchPath = "/usr/sbin:/usr/bin:/sbin:/bin"

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
		Env: []string{"PATH=" + searchPath},
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
