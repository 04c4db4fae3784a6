// Package kube builds Kubernetes, and the CoreDNS that belongs to it, from their
// Go modules, once: nothing of them is kept in this repository.
package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Version is that of Kubernetes. The next one needs cgroups version 2 and
// containerd 2.
const Version = "1.36.3"

// CoreDNSVersion is that of CoreDNS.
const CoreDNSVersion = "1.14.0"

// Programs are what Build builds.
func Programs() []string {
	return []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl", "coredns"}
}

// Build returns the folder of the programs, after it has built those that are
// missing into a cache outside of any repository. say is told what takes long.
func Build(ctx context.Context, say func(format string, args ...any)) (bin string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	b := builder{dir: filepath.Join(cache, "tortie", "kubernetes-v"+Version), say: say}
	bin = filepath.Join(b.dir, "bin")
	for _, program := range Programs() {
		if _, err := os.Stat(filepath.Join(bin, program)); err == nil {
			continue
		}
		if err := b.build(ctx, program); err != nil {
			return "", fmt.Errorf("build %s: %w", program, err)
		}
	}
	return bin, nil
}

type builder struct {
	dir string
	say func(format string, args ...any)
}

func (b *builder) build(ctx context.Context, program string) error {
	module, pkg, flags := b.kubernetes(), "k8s.io/kubernetes/cmd/"+program, kubernetesFlags()
	if program == "coredns" {
		module, pkg, flags = coreDNS(), "localdns", []string{"-ldflags", "-s -w"}
	}
	src := filepath.Join(b.dir, module.name)
	if err := module.write(ctx, src); err != nil {
		return err
	}
	b.say("building %s from its module; all of Kubernetes takes 10 to 30 minutes, once …", program)
	out := filepath.Join(b.dir, "bin", program)
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	// A build that is cut off must not look like one that is done.
	args := append([]string{"build", "-trimpath", "-o", out + ".new"}, flags...)
	if err := goTool(ctx, src, io.Discard, append(args, pkg)...); err != nil {
		return err
	}
	return os.Rename(out+".new", out)
}

// kubernetesFlags are the same for all programs: otherwise each would compile
// everything anew.
func kubernetesFlags() []string {
	var ld strings.Builder
	ld.WriteString("-s -w")
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, v := range [][2]string{
			{"gitVersion", "v" + Version},
			{"gitMajor", "1"},
			{"gitMinor", strings.Split(Version, ".")[1]},
			{"gitCommit", "local"},
			{"gitTreeState", "clean"},
			{"buildDate", "2026-01-01T00:00:00Z"},
		} {
			fmt.Fprintf(&ld, " -X %s.%s=%s", pkg, v[0], v[1])
		}
	}
	return []string{"-tags", "notest,grpcnotrace", "-ldflags", ld.String()}
}

// module is one that exists only to build something out of others.
type module struct {
	name  string
	files func(ctx context.Context, dir string) (map[string]string, error)
}

func (m module) write(ctx context.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files, err := m.files(ctx, dir)
	if err != nil {
		return err
	}
	// go.mod last: that it is there says that the module is whole.
	for _, name := range []string{"main.go", "tools.go", "go.mod"} {
		if text, ok := files[name]; ok {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// kubernetes is a module that requires k8s.io/kubernetes and, by their versions,
// the modules that it has in its own tree: under a replacement alone they would
// change their version, and so all be compiled again, as soon as another import
// names one.
func (b *builder) kubernetes() module {
	return module{name: "src", files: func(ctx context.Context, dir string) (map[string]string, error) {
		var info struct{ GoMod, Error string }
		var out bytes.Buffer
		err := goTool(ctx, dir, &out, "mod", "download", "-json", "k8s.io/kubernetes@v"+Version)
		if jsonErr := json.Unmarshal(out.Bytes(), &info); err != nil || jsonErr != nil || info.Error != "" {
			return nil, fmt.Errorf("download Kubernetes: %w", errors.Join(err, jsonErr, errors.New(info.Error)))
		}
		theirs, err := os.ReadFile(info.GoMod)
		if err != nil {
			return nil, err
		}
		version, err := goVersion(ctx, dir)
		if err != nil {
			return nil, err
		}
		return map[string]string{
			"go.mod":   kubernetesModule(version, string(theirs)),
			"tools.go": "//go:build tools\n\npackage tools\n\nimport _ \"k8s.io/kubernetes/cmd/kube-apiserver\"\n",
		}, nil
	}}
}

var (
	staging = regexp.MustCompile(`(?m)^\s*(k8s\.io/[a-z0-9-]+) v0\.0\.0( //.*)?$`)
	godebug = regexp.MustCompile(`(?ms)^godebug (\(.*?^\)|\S+)$`)
)

// kubernetesModule is the text of go.mod, made from that of k8s.io/kubernetes.
func kubernetesModule(goVersion, theirs string) string {
	version := "v0." + strings.TrimPrefix(Version, "1.")
	var require, replace strings.Builder
	for _, m := range staging.FindAllStringSubmatch(theirs, -1) {
		fmt.Fprintf(&require, "\t%s %s\n", m[1], version)
		fmt.Fprintf(&replace, "\t%s => %s %s\n", m[1], m[1], version)
	}
	return fmt.Sprintf("module localkube\n\ngo %s\n\n%s\n\nrequire k8s.io/kubernetes v%s\n\nrequire (\n%s)\n\nreplace (\n%s)\n",
		goVersion, strings.Join(godebug.FindAllString(theirs, -1), "\n"), Version, require.String(), replace.String())
}

// coreDNS is one with the plugins that a cluster needs; all of them would link
// half a dozen clouds.
func coreDNS() module {
	return module{name: "dns", files: func(ctx context.Context, dir string) (map[string]string, error) {
		version, err := goVersion(ctx, dir)
		if err != nil {
			return nil, err
		}
		var imports strings.Builder
		for _, plugin := range []string{"cache", "errors", "health", "kubernetes", "loadbalance", "log", "ready"} {
			fmt.Fprintf(&imports, "\t_ \"github.com/coredns/coredns/plugin/%s\"\n", plugin)
		}
		return map[string]string{
			"go.mod": fmt.Sprintf("module localdns\n\ngo %s\n\nrequire github.com/coredns/coredns v%s\n", version, CoreDNSVersion),
			"main.go": "package main\n\nimport (\n\t\"github.com/coredns/coredns/core/dnsserver\"\n\t\"github.com/coredns/coredns/coremain\"\n" +
				imports.String() + ")\n\nfunc main() {\n\tdnsserver.Directives = []string{\"errors\", \"log\", \"health\", \"ready\", \"cache\", \"loadbalance\", \"kubernetes\"}\n\tcoremain.Run()\n}\n",
		}, nil
	}}
}

func goVersion(ctx context.Context, dir string) (string, error) {
	var out bytes.Buffer
	err := goTool(ctx, dir, &out, "env", "GOVERSION")
	return strings.TrimPrefix(strings.TrimSpace(out.String()), "go"), err
}

// goTool runs the go command outside of any module but that of dir.
func goTool(ctx context.Context, dir string, out io.Writer, args ...string) error {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, &stderr
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local", "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s: %w: %s", args[0], err, lastLines(stderr.String(), 5))
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}
