package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// nodeMain makes this process the holder of a node: in its own mount namespace it
// gives the node an /etc and a /var of its own, as overlays over the machine's,
// and an empty /run. Everything that joins the node sees the programs' default
// paths, and nothing of it reaches the machine.
func nodeMain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("node", flag.ContinueOnError)
	dir := flags.String("dir", "", "directory for what the node writes")
	name := flags.String("name", "", "host name")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := nodeMounts(*dir); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(*name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	// The lab waits for this file: it appears when the node may be joined.
	ready, err := os.Create("/run/ready")
	if err != nil {
		return err
	}
	if err := ready.Close(); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func nodeMounts(dir string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, tree := range []string{"etc", "var"} {
		upper, work := filepath.Join(dir, tree), filepath.Join(dir, "."+tree+"-work")
		for _, d := range []string{upper, work} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		opts := fmt.Sprintf("lowerdir=/%s,upperdir=%s,workdir=%s", tree, upper, work)
		if err := syscall.Mount("overlay", "/"+tree, "overlay", 0, opts); err != nil {
			return fmt.Errorf("mount overlay on /%s: %w", tree, err)
		}
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs on /run: %w", err)
	}
	return nil
}
