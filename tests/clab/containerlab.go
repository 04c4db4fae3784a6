package clab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"tortie/tests/clab/docker"
)

const (
	containerlabModule  = "github.com/srl-labs/containerlab"
	containerlabVersion = "0.79.0"
	// The topologies use pid-mode, which is as old as that.
	leastMinor = 78
)

// FindContainerlab returns the path of an installed containerlab that can run the
// labs on this machine; empty if there is none.
func FindContainerlab(ctx context.Context) string {
	if _, err := os.Stat("/proc/modules"); err != nil {
		return "" // it wants to read that; the one we build does without
	}
	path, err := exec.LookPath("containerlab")
	if err != nil {
		return ""
	}
	out, err := docker.Output(docker.Command(ctx, path, "version"))
	if err != nil || !recent(out) {
		return ""
	}
	return path
}

// recent reads the output of `containerlab version`.
func recent(version string) bool {
	m := regexp.MustCompile(`version: v?(\d+)\.(\d+)`).FindStringSubmatch(version)
	if m == nil {
		return false
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return major > 0 || minor >= leastMinor
}

// BuildContainerlab builds containerlab from its module into a folder and returns
// its path; built says whether it was not there yet.
func BuildContainerlab(ctx context.Context, cache string) (path string, built bool, err error) {
	path = filepath.Join(cache, "containerlab-"+containerlabVersion)
	if _, err := os.Stat(path); err == nil {
		return path, false, nil
	}
	temp, err := os.MkdirTemp(cache, "containerlab-build-")
	if err != nil {
		return "", false, err
	}
	defer func() { _ = os.RemoveAll(temp) }()
	source, err := copyModule(ctx, temp)
	if err != nil {
		return "", false, fmt.Errorf("fetch containerlab %s: %w", containerlabVersion, err)
	}
	if err := withoutModulesFile(filepath.Join(source, "utils", "kernel_module.go")); err != nil {
		return "", false, err
	}
	cmd := docker.Command(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X "+containerlabModule+"/cmd/version.Version="+containerlabVersion, "-o", path+".new", ".")
	cmd.Dir, cmd.Env = source, goEnv()
	if _, err := docker.Output(cmd); err != nil {
		return "", false, fmt.Errorf("build containerlab %s: %w", containerlabVersion, err)
	}
	return path, true, os.Rename(path+".new", path)
}

func goEnv() []string { return append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off") }

// copyModule fetches the module and copies its source. It is built in the copy,
// as its own main module: so the versions of what it needs are those it names.
func copyModule(ctx context.Context, temp string) (string, error) {
	if err := os.WriteFile(filepath.Join(temp, "go.mod"), []byte("module fetch\n"), 0o644); err != nil {
		return "", err
	}
	cmd := docker.Command(ctx, "go", "mod", "download", "-json", containerlabModule+"@v"+containerlabVersion)
	cmd.Dir, cmd.Env = temp, goEnv()
	out, err := docker.Output(cmd)
	if err != nil {
		return "", err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &module); err != nil {
		return "", err
	}
	source := filepath.Join(temp, "source")
	return source, os.CopyFS(source, os.DirFS(module.Dir))
}

// withoutModulesFile has containerlab take a kernel without loadable modules, which
// has no /proc/modules, for one in which none is loaded.
func withoutModulesFile(path string) error {
	const open = "f, err := os.Open(\"/proc/modules\")\n"
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if strings.Count(string(text), open) != 1 {
		return fmt.Errorf("%s is not what it is in containerlab %s", path, containerlabVersion)
	}
	patched := strings.Replace(string(text), open, open+"\tif os.IsNotExist(err) {\n\t\treturn false, nil\n\t}\n", 1)
	if err := os.Chmod(path, 0o644); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(patched), 0o644)
}

// Containerlab is a containerlab with the engine it works on.
type Containerlab struct {
	Path   string
	Docker docker.Docker
	// Netns is the network namespace in which it must make links: that of an engine
	// of our own; empty for the machine's.
	Netns string
	// Dir is where it keeps the files of its labs.
	Dir string
}

// ownFiles has containerlab write its host names and its ssh configuration into files
// of its own mount namespace instead of the machine's.
const ownFiles = `set -e
hosts=$(mktemp); cp /etc/hosts "$hosts"; mount --bind "$hosts" /etc/hosts; rm "$hosts"
[ ! -d /etc/ssh/ssh_config.d ] || mount -t tmpfs none /etc/ssh/ssh_config.d
exec "$@"`

// run runs a containerlab command and returns what it said.
func (c Containerlab) run(ctx context.Context, args ...string) (string, error) {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return "", err
	}
	line := append([]string{"unshare", "--mount", "--propagation", "slave", "sh", "-c", ownFiles, "containerlab", c.Path}, args...)
	if c.Netns != "" {
		line = append([]string{"nsenter", "--net=" + c.Netns}, line...)
	}
	cmd := docker.Command(ctx, line[0], line[1:]...)
	cmd.Dir = c.Dir
	cmd.Env = append(c.Docker.Env(), "CLAB_LABDIR_BASE="+c.Dir, "CLAB_VERSION_CHECK=disable", "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("containerlab %s: %w:\n%s", args[0], err, complaints(string(out)))
	}
	return string(out), nil
}

// complaints are the lines of a log that are about something wrong, or its last ones.
func complaints(log string) string {
	var bad []string
	lines := strings.Split(strings.TrimSpace(log), "\n")
	for _, line := range lines {
		if strings.Contains(line, " ERRO ") || strings.Contains(line, " FATA ") {
			bad = append(bad, line)
		}
	}
	if len(bad) == 0 {
		bad = lines
	}
	return strings.Join(bad[max(0, len(bad)-10):], "\n")
}
