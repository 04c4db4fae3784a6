package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"tortie/tests/e2e/image"
	"tortie/tests/e2e/machine"
)

// The images that are made here.
const (
	PauseImage   = "tortie-e2e/pause:1"
	AgentImage   = "tortie-e2e/agent:1"
	CoreDNSImage = "tortie-e2e/coredns:1"
)

// makeImages makes the images of everything but the product.
func (c *Cluster) makeImages(ctx context.Context) error {
	if err := os.MkdirAll(c.layout.images(), 0o755); err != nil {
		return err
	}
	pause := filepath.Join(c.layout.images(), "pause")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", pause, "tortie/tests/e2e/pause")
	build.Dir, build.Env = c.cfg.Source, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build pause: %w: %s", err, strings.TrimSpace(string(out)))
	}
	agent := filepath.Join(c.cfg.Source, "bin", "lab-agent")
	for _, s := range []image.Spec{
		{Reference: PauseImage, Programs: map[string]string{"/pause": pause}, Entrypoint: []string{"/pause"}},
		{Reference: AgentImage, Programs: map[string]string{"/agent": agent, "/pause": pause}, Entrypoint: []string{"/agent"}},
		{Reference: CoreDNSImage, Programs: map[string]string{"/coredns": filepath.Join(c.cfg.Kubernetes, "coredns")}, Entrypoint: []string{"/coredns"}},
	} {
		name := strings.TrimPrefix(s.Reference, "tortie-e2e/")
		if err := s.Write(filepath.Join(c.layout.images(), strings.Split(name, ":")[0]+".tar")); err != nil {
			return err
		}
	}
	return nil
}

// archives are all images that nodes get: those made here, and the product's.
func (c *Cluster) archives() ([]string, error) {
	own, err := filepath.Glob(filepath.Join(c.layout.images(), "*.tar"))
	if err != nil {
		return nil, err
	}
	product, err := filepath.Glob(filepath.Join(c.cfg.Source, "bin", "images", "*.tar"))
	if err == nil && len(product) == 0 {
		err = fmt.Errorf("no images in %s; run: make images", filepath.Join(c.cfg.Source, "bin", "images"))
	}
	return append(own, product...), err
}

// LoadImages brings the images to the nodes, as the README does.
func (c *Cluster) LoadImages(ctx context.Context, nodes ...*machine.Machine) error {
	archives, err := c.archives()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, node := range nodes {
		g.Go(func() error {
			for _, archive := range archives {
				if err := loadImage(ctx, node, archive); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func loadImage(ctx context.Context, node *machine.Machine, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := node.Command(ctx, "ctr", "-n", "k8s.io", "images", "import", "-")
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %s on %s: %w: %s", filepath.Base(archive), node.Spec.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// LoadImagesWhenUp waits for a node's containerd and loads the images.
func (c *Cluster) LoadImagesWhenUp(ctx context.Context, node string) error {
	return c.awaitImages(ctx, []*machine.Machine{c.machines[node]})
}
