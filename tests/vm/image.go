package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Image is a kernel to boot.
type Image struct {
	// Kernel is its file, not compressed: that costs seconds in an emulated processor.
	Kernel string
	// Modules is the folder of its modules; the folder's name is its version.
	Modules string
}

// kernelPackage depends on Debian's present kernel. That of its cloud flavour would be
// smaller, but has no 9p.
const kernelPackage = "linux-image-amd64"

// Find gives the kernel in the user's cache folder; the first time it is fetched
// with apt-get and unpacked there (not installed), in a few seconds.
func Find(ctx context.Context, say func(format string, args ...any)) (Image, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return Image{}, err
	}
	dir := filepath.Join(cache, "tortie", "vm")
	if img, err := imageIn(dir); err == nil {
		return img, nil
	}
	say("fetching Debian's kernel into %s …", dir)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return Image{}, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "vm-")
	if err != nil {
		return Image{}, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := fetch(ctx, tmp); err != nil {
		return Image{}, fmt.Errorf("fetch a kernel for the virtual machine: %w", err)
	}
	// Who is second finds it done.
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return Image{}, err
	}
	return imageIn(dir)
}

func imageIn(dir string) (Image, error) {
	img := Image{Kernel: filepath.Join(dir, "vmlinux")}
	if _, err := os.Stat(img.Kernel); err != nil {
		return Image{}, err
	}
	found, err := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if err != nil || len(found) != 1 {
		return Image{}, fmt.Errorf("%s holds no modules of one kernel: remove it, it is made anew", dir)
	}
	img.Modules = found[0]
	return img, nil
}

// fetch puts kernel and modules into a folder.
func fetch(ctx context.Context, dir string) error {
	deb, err := download(ctx, dir)
	if err != nil {
		return err
	}
	image, err := unpack(ctx, deb, dir)
	if err != nil {
		return err
	}
	if err := os.Remove(deb); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("%s holds the modules of %d kernels, want one", filepath.Base(deb), len(found))
	}
	if err := run(exec.CommandContext(ctx, "depmod", "-b", dir, filepath.Base(found[0]))); err != nil {
		return err
	}
	kernel, err := decompress(ctx, image)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "vmlinux"), kernel, 0o644)
}

// download fetches the package into a folder; if it isn't known, or no more what is
// known of it, after an update.
func download(ctx context.Context, dir string) (string, error) {
	try := func() error {
		out, err := exec.CommandContext(ctx, "apt-cache", "depends", "--important", kernelPackage).Output()
		if err != nil {
			return err
		}
		_, name, _ := strings.Cut(string(out), "Depends: ")
		name, _, _ = strings.Cut(name, "\n")
		if name == "" {
			return fmt.Errorf("apt knows no package %s", kernelPackage)
		}
		get := exec.CommandContext(ctx, "apt-get", "-qq", "download", name)
		get.Dir = dir
		return run(get)
	}
	if err := try(); err != nil {
		if err := run(exec.CommandContext(ctx, "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", "update")); err != nil {
			return "", err
		}
		if err := try(); err != nil {
			return "", err
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("apt-get download left %d packages in %s, want one", len(found), dir)
	}
	return found[0], nil
}

func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// unpack puts the modules that tests could need below dir, and gives the compressed
// kernel.
func unpack(ctx context.Context, deb, dir string) (image []byte, err error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	image, err = unpackTar(tar.NewReader(out), dir)
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	_, err = io.Copy(io.Discard, out)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
	}
	if image == nil {
		return nil, fmt.Errorf("%s holds no kernel", filepath.Base(deb))
	}
	return image, nil
}

func unpackTar(r *tar.Reader, dir string) (image []byte, err error) {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return image, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		switch {
		case h.Typeflag != tar.TypeReg:
			continue
		case strings.HasPrefix(name, "boot/vmlinuz-"):
			if image, err = io.ReadAll(r); err != nil {
				return nil, err
			}
			continue
		case !wanted(name):
			continue
		}
		to := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return nil, err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(to, data, 0o644); err != nil {
			return nil, err
		}
	}
}

// wanted: what has to do with networks, without the drivers of real devices, and what
// the machine itself needs. It is a tenth of all modules.
func wanted(name string) bool {
	_, module, ok := strings.Cut(strings.TrimPrefix(name, "lib/modules/"), "/")
	if !ok {
		return false
	}
	below := func(dirs ...string) bool {
		return slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(module, "kernel/"+d+"/") })
	}
	switch {
	case below("drivers/net/ethernet", "drivers/net/wireless", "drivers/net/usb", "net/mac80211", "net/wireless", "net/bluetooth"):
		return false
	case below("net", "drivers/net", "drivers/virtio", "crypto", "arch", "lib", "fs/9p", "fs/overlayfs", "fs/fuse", "fs/fscache", "fs/netfs"):
		return true
	}
	return !strings.HasPrefix(module, "kernel/") || strings.HasPrefix(path.Base(module), "virtio")
}

// decompress gives the kernel within a bzImage: the boot protocol's header says where
// it lies.
func decompress(ctx context.Context, image []byte) ([]byte, error) {
	payload, err := payloadOf(image)
	if err != nil {
		return nil, err
	}
	for _, how := range [][]string{{"xz", "-dc", "--single-stream"}, {"zstd", "-dc"}, {"gzip", "-dc"}} {
		// What follows the compressed data is its size, which some of them complain of.
		cmd := exec.CommandContext(ctx, how[0], how[1:]...)
		cmd.Stdin = bytes.NewReader(payload)
		out, _ := cmd.Output()
		if _, err := elf.NewFile(bytes.NewReader(out)); err == nil {
			return out, nil
		}
	}
	return nil, errors.New("the kernel is compressed in a way that neither xz, zstd nor gzip undoes")
}

func payloadOf(image []byte) ([]byte, error) {
	const setupSectors, magic, payloadOffset, payloadLength = 0x1f1, 0x202, 0x248, 0x24c
	if len(image) < payloadLength+4 || string(image[magic:magic+4]) != "HdrS" {
		return nil, errors.New("the kernel is no bzImage")
	}
	start := (uint64(image[setupSectors])+1)*512 + uint64(binary.LittleEndian.Uint32(image[payloadOffset:]))
	end := start + uint64(binary.LittleEndian.Uint32(image[payloadLength:]))
	if end > uint64(len(image)) {
		return nil, errors.New("the kernel is cut short")
	}
	return image[start:end], nil
}
