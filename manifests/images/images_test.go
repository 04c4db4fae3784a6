package main

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// testBuild is a build of programs that are only names.
func testBuild(t *testing.T) build {
	bin := t.TempDir()
	for _, p := range []string{"felix", "bgpd", "calicoctl", "install-cni", "calico", "bandwidth", "portmap", "tuning", "kube-controllers", "etcd"} {
		if err := os.WriteFile(filepath.Join(bin, p), []byte("program "+p), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return build{bin: bin, version: "v1", revision: "abc", repository: "tortie", created: time.Unix(1_700_000_000, 0).UTC()}
}

// withoutTools leaves out what comes from the build machine.
func withoutTools(images []image) []image {
	for i := range images {
		images[i].tools = nil
	}
	return images
}

func TestSameInputsGiveTheSameArchive(t *testing.T) {
	b := testBuild(t)
	var archives [2][]byte
	for i := range archives {
		// A file's own times must not show.
		if err := os.Chtimes(filepath.Join(b.bin, "felix"), time.Unix(int64(i), 0), time.Unix(int64(i), 0)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "node.tar")
		if _, err := withoutTools(b.images())[0].write(path); err != nil {
			t.Fatal(err)
		}
		var err error
		if archives[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(archives[0], archives[1]) {
		t.Error("two builds differ")
	}
}

func TestImagesHaveProgramsLabelsAndUser(t *testing.T) {
	for _, img := range withoutTools(testBuild(t).images()) {
		path := filepath.Join(t.TempDir(), "image.tar")
		if _, err := img.write(path); err != nil {
			t.Fatal(err)
		}
		a := open(t, path)
		if !slices.Equal(a.manifest.RepoTags, []string{"tortie/" + img.name + ":v1", "tortie/" + img.name + ":dev"}) {
			t.Errorf("tags %v", a.manifest.RepoTags)
		}
		c := a.config.Config
		if c.User != img.user || c.Labels["org.opencontainers.image.version"] != "v1" || c.Labels["org.opencontainers.image.revision"] != "abc" {
			t.Errorf("%s: user %q, labels %v", img.name, c.User, c.Labels)
		}
		if entry := strings.TrimPrefix(c.Entrypoint[0], "/"); !strings.HasPrefix(a.files[entry], "program ") {
			t.Errorf("%s: its entry point %s is not in it", img.name, entry)
		}
	}
}

// TestDockerfileBuildsTheSame: the files come from the same list, and what else an
// image is stands in the Dockerfile again.
func TestDockerfileBuildsTheSame(t *testing.T) {
	dockerfile, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range withoutTools(testBuild(t).images()) {
		dir, path := t.TempDir(), filepath.Join(t.TempDir(), "image.tar")
		if _, err := img.write(path); err != nil {
			t.Fatal(err)
		}
		if err := img.unpack(dir); err != nil {
			t.Fatal(err)
		}
		inArchive, unpacked := open(t, path).files, tree(t, dir)
		if !maps.Equal(inArchive, unpacked) {
			t.Errorf("%s: unpacked %v, in the archive %v", img.name, slices.Sorted(maps.Keys(unpacked)), slices.Sorted(maps.Keys(inArchive)))
		}
		entry, err := json.Marshal(img.command)
		if err != nil {
			t.Fatal(err)
		}
		stage := "FROM scratch AS " + img.name + "\nCOPY --from=build /images/" + img.name + " /\nUSER " + img.user + "\n" +
			"ENV PATH=" + searchPath + "\nENTRYPOINT " + string(entry) + "\n"
		if !strings.Contains(string(dockerfile), stage) {
			t.Errorf("the Dockerfile has no\n%s", stage)
		}
	}
}

// tree is what untar would give of a folder.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, content := strings.TrimPrefix(path, dir+"/"), []byte(nil)
		if d.IsDir() {
			name += "/"
		} else if d.Type().IsRegular() {
			content, err = os.ReadFile(path)
		}
		files[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestMissingProgramIsNamed(t *testing.T) {
	b := testBuild(t)
	if err := os.Remove(filepath.Join(b.bin, "bgpd")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "node.tar")
	_, err := withoutTools(b.images())[0].write(path)
	if err == nil || !strings.Contains(err.Error(), "bgpd") || !strings.Contains(err.Error(), "make build") {
		t.Errorf("error %v", err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestToolRunsFromItsClosure runs nft with nothing but what the image has of it.
func TestToolRunsFromItsClosure(t *testing.T) {
	files, err := closure("/usr/sbin/nft")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, f := range files {
		to := filepath.Join(root, f.path)
		data, err := os.ReadFile(f.source)
		if err = errors.Join(err, os.MkdirAll(filepath.Dir(to), 0o755)); err == nil {
			err = os.WriteFile(to, data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/usr/sbin/nft", "--version")
	cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", []string{}, &syscall.SysProcAttr{Chroot: root}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "nftables v") {
		t.Errorf("nft in the image: %v: %s", err, out)
	}
}

// archive is a docker-archive as it was read back.
type archive struct {
	manifest struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	config struct {
		Config struct {
			User       string
			Entrypoint []string
			Labels     map[string]string
		} `json:"config"`
	}
	files map[string]string
}

func open(t *testing.T, path string) archive {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parts := untar(t, f)
	a := archive{files: map[string]string{}}
	var manifests []json.RawMessage
	if err := json.Unmarshal([]byte(parts["manifest.json"]), &manifests); err != nil || len(manifests) != 1 {
		t.Fatalf("manifest: %v", err)
	}
	if err := json.Unmarshal(manifests[0], &a.manifest); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(parts[a.manifest.Config]), &a.config); err != nil {
		t.Fatal(err)
	}
	for _, layer := range a.manifest.Layers {
		z, err := gzip.NewReader(strings.NewReader(parts[layer]))
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(a.files, untar(t, z))
	}
	return a
}

func untar(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	files := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(content)
	}
}
