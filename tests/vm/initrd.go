package vm

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// moduleNames are loaded before the machine's root can be: the channels to this
// machine, its file system, and what makes that one writable.
func moduleNames() []string {
	return []string{"virtio_pci", "virtio_console", "virtio_rng", "9pnet_virtio", "9p", "overlay"}
}

// initrd is the machine's first file system: a program as its first process, and
// modules.
func initrd(program string, img Image) ([]byte, error) {
	self, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	if err := static(self); err != nil {
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	list, err := os.ReadFile(filepath.Join(img.Modules, "modules.dep"))
	if err != nil {
		return nil, err
	}
	files, err := inOrder(string(list), moduleNames())
	if err != nil {
		return nil, err
	}
	var a archive
	for _, dir := range []string{"dev", "proc", "sys", moduleDir, "upper", "lower", "root"} {
		a.add(dir, modeDir|0o755, nil, 0)
	}
	a.add("dev/console", modeChar|0o600, nil, 1)
	a.add("init", modeFile|0o755, self, 0)
	for i, file := range files {
		data, err := os.ReadFile(filepath.Join(img.Modules, file))
		if err != nil {
			return nil, err
		}
		a.add(fmt.Sprintf("%s/%03d-%s", moduleDir, i, filepath.Base(file)), modeFile|0o644, data, 0)
	}
	a.add("TRAILER!!!", 0, nil, 0)
	return a.Bytes(), nil
}

func static(program []byte) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is not static, and can't be the first process of a virtual machine: build it with CGO_ENABLED=0, as make does")
		}
	}
	return nil
}

// inOrder gives the files of modules, each behind those it needs, of the list that
// depmod made. What is not in the list is part of the kernel.
func inOrder(list string, names []string) ([]string, error) {
	needs, file := map[string][]string{}, map[string]string{}
	for line := range strings.Lines(list) {
		name, others, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			return nil, fmt.Errorf("modules.dep: line %q", line)
		}
		needs[name] = strings.Fields(others)
		file[strings.TrimSuffix(filepath.Base(name), ".ko")] = name
	}
	var out []string
	done := map[string]bool{}
	var visit func(string)
	visit = func(f string) {
		if f == "" || done[f] {
			return
		}
		done[f] = true
		for _, n := range needs[f] {
			visit(n)
		}
		out = append(out, f)
	}
	for _, n := range names {
		visit(file[n])
	}
	return out, nil
}

// archive is a cpio archive of the kind that the kernel unpacks ("newc").
type archive struct {
	bytes.Buffer
	inode int
}

const modeDir, modeChar, modeFile = 0o040000, 0o020000, 0o100000

// add appends a file, a folder, or the device 5 of that minor number.
func (a *archive) add(name string, mode int, data []byte, minor int) {
	a.inode++
	major := 0
	if mode&^0o7777 == modeChar {
		major = 5
	}
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	a.WriteString(name + "\x00")
	a.pad()
	a.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}
