package clab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"tortie/tests/clab/docker"
)

// The image that the labs' hosts and routers are by default: a small Debian.
const (
	debianImage = "tortie/debian:lab"
	// recipeLabel on the image has the recipe's checksum: another recipe, another image.
	recipeLabel = "tortie.recipe"
)

// debianPackages are what is in it besides the essential ones.
func debianPackages() []string {
	return []string{
		"iproute2", "iputils-ping", "nftables", "procps", "tcpdump", "jq", // a host
		"frr", "frr-pythontools", "bird2", // the routers
	}
}

// Images makes the images of the labs.
type Images struct {
	Docker docker.Docker
	// Bin is the folder of what `make images` has built, Labs that of the labs.
	Bin, Labs string
	// Install installs a Debian package of this machine for a tool, "tool:package".
	Install func(ctx context.Context, tools ...string) error
	// Say is told what is being done, and then what was.
	Say func(format string, args ...any)
}

// Load loads an image that `make images` has built, by its name there, and returns
// all names that it has.
func (i Images) Load(ctx context.Context, name string) ([]string, error) {
	archive := filepath.Join(i.Bin, "images", "tortie-"+name+".tar")
	if _, err := os.Stat(archive); err != nil {
		return nil, fmt.Errorf("%w; run `make images` first", err)
	}
	out, err := i.Docker.Run(ctx, "load", "--quiet", "--input", archive)
	if err != nil {
		return nil, err
	}
	names := loaded(out)
	if len(names) == 0 {
		return nil, fmt.Errorf("docker load of %s says %q, which names no image", archive, out)
	}
	return names, nil
}

// loaded reads the names of the image from what `docker load` prints.
func loaded(out string) []string {
	var names []string
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Loaded image: "); ok {
			names = append(names, name)
		}
	}
	return names
}

// ForgetOthers removes the images of earlier builds: those of the same repository
// under other names.
func (i Images) ForgetOthers(ctx context.Context, names []string) error {
	repository, _, _ := strings.Cut(names[0], ":")
	out, err := i.Docker.Run(ctx, "images", "--format", "{{.Repository}}:{{.Tag}}", repository)
	if err != nil {
		return err
	}
	for _, other := range strings.Fields(out) {
		if slices.Contains(names, other) || strings.HasSuffix(other, ":<none>") {
			continue
		}
		if _, err := i.Docker.Run(ctx, "rmi", other); err != nil {
			return err
		}
	}
	// What has lost its names to a later build.
	_, err = i.Docker.Run(ctx, "image", "prune", "--force")
	return err
}

// Debian makes the image of the hosts and routers if it is not there: a Debian tree
// by mmdebstrap, from the sources that this machine's apt has.
func (i Images) Debian(ctx context.Context) error {
	recipe, err := i.recipe()
	if err != nil {
		return err
	}
	have, err := i.Docker.Run(ctx, "image", "inspect", "--format", `{{index .Config.Labels "`+recipeLabel+`"}}`, debianImage)
	if err == nil && have == recipe.sum() {
		i.Say("%s: there already", debianImage)
		return nil
	}
	if err := i.Install(ctx, "mmdebstrap:mmdebstrap"); err != nil {
		return err
	}
	if err := recipe.build(ctx, i.Docker); err != nil {
		return fmt.Errorf("build %s: %w", debianImage, err)
	}
	i.Say("%s: built by mmdebstrap from Debian %s, with %s", debianImage, recipe.suite, strings.Join(debianPackages(), ", "))
	return nil
}

// recipe is all that the image depends on.
type recipe struct {
	suite   string
	sources []string // files of apt
	start   string   // FRR's start script
	script  []byte   // its content
}

func (i Images) recipe() (recipe, error) {
	r := recipe{start: filepath.Join(i.Labs, "debian", "docker-start")}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return r, err
	}
	if r.suite = codename(string(release)); r.suite == "" {
		return r, errors.New("this machine is no Debian, from whose packages the labs' image is made: " +
			"set HOST_IMAGE, FRR_IMAGE and BIRD_IMAGE to images that you have (see tests/clab/README.md)")
	}
	for _, pattern := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err == nil && strings.Contains(string(text), r.suite) {
				r.sources = append(r.sources, f)
			}
		}
	}
	r.script, err = os.ReadFile(r.start)
	return r, err
}

// codename is Debian's name of the release, from /etc/os-release.
func codename(release string) string {
	values := map[string]string{}
	for line := range strings.Lines(release) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[name] = strings.Trim(value, `"`)
		}
	}
	if values["ID"] != "debian" {
		return ""
	}
	return values["VERSION_CODENAME"]
}

// arguments are mmdebstrap's; the tree goes to its standard output.
func (r recipe) arguments() []string {
	args := []string{
		"--quiet", "--variant=minbase", "--include=" + strings.Join(debianPackages(), ","),
		`--aptopt=APT::Install-Recommends "false"`,
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--customize-hook=copy-in " + r.start + " /usr/lib/frr",
		r.suite, "-",
	}
	return append(args, r.sources...)
}

// changes are what `docker import` adds to the tree.
func (r recipe) changes() []string {
	return []string{
		"--change", "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"--change", `CMD ["sleep", "infinity"]`,
	}
}

// sum tells recipes apart.
func (r recipe) sum() string {
	h := sha256.New()
	for _, part := range slices.Concat(r.arguments(), r.changes()) {
		fmt.Fprintf(h, "%s\n", strings.ReplaceAll(part, r.start, "docker-start"))
	}
	h.Write(r.script)
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// build makes the tree and gives it to the engine as it comes.
func (r recipe) build(ctx context.Context, d docker.Docker) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tree := docker.Command(ctx, "mmdebstrap", r.arguments()...)
	var said bytes.Buffer
	tree.Stderr = &said
	out, err := tree.StdoutPipe()
	if err != nil {
		return err
	}
	if err := tree.Start(); err != nil {
		return err
	}
	args := append(slices.Concat([]string{"import"}, r.changes(), []string{"--change", "LABEL " + recipeLabel + "=" + r.sum()}), "-", debianImage)
	_, importErr := d.Pipe(ctx, out, args...)
	if importErr != nil {
		cancel()
	}
	err = tree.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("mmdebstrap: %w: %s", err, lastLines(said.String(), 5))
		// What was imported of half a tree is no image.
		_, _ = d.Run(context.WithoutCancel(ctx), "rmi", debianImage)
	}
	return errors.Join(err, importErr)
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
