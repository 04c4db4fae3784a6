package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// plugins are the names of what is installed.
func plugins() []string { return append([]string{"calico", "calico-ipam"}, shared()...) }

// shared have CNI's own names: loopback, which containerd runs for every pod, portmap
// for host ports, and what is often chained. Another network's installation has
// files of these names, too.
func shared() []string { return []string{"bandwidth", "loopback", "portmap", "tuning"} }

// install puts the plugins and then, last, the configuration on the host: from
// the moment a runtime sees that, it starts pods. Each file is whole at any
// moment. Nothing is written where another network's configuration would keep
// this one from being used.
func (s settings) install(say func(format string, args ...any)) error {
	if err := s.refuseOthers(); err != nil {
		return err
	}
	for _, name := range plugins() {
		to := filepath.Join(s.binDir, name)
		if s.skip[name] {
			say("%s: skipped, as SKIP_CNI_BINARIES says", name)
			continue
		}
		if _, err := os.Stat(to); err == nil && !s.overwrite {
			say("%s: left as it is, as UPDATE_CNI_BINARIES says", name)
			continue
		}
		if err := s.put(name, say); err != nil {
			return fmt.Errorf("install the CNI plugin %s: %w", name, err)
		}
		say("%s: installed", to)
	}
	if err := replace(filepath.Join(s.netDir, s.confName), 0o600, func(w io.Writer) error {
		_, err := w.Write(s.config)
		return err
	}); err != nil {
		return fmt.Errorf("install the CNI configuration: %w", err)
	}
	say("%s: installed, on the host in %s; the runtime uses it from now on", filepath.Join(s.netDir, s.confName), s.netDirOnHost)
	return nil
}

// put installs a plugin. Of a shared one, what was there before stays beside it.
func (s settings) put(name string, say func(format string, args ...any)) error {
	from, to := filepath.Join(s.source, name), filepath.Join(s.binDir, name)
	if !slices.Contains(shared(), name) {
		return replaceByCopy(from, to)
	}
	return s.borrowed(name).put(from, say)
}

// refuseOthers: a runtime takes the first configuration by name.
func (s settings) refuseOthers() error {
	entries, err := os.ReadDir(s.netDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for other CNI configurations: %w", err)
	}
	for _, e := range entries { // sorted by name
		name := e.Name()
		if name >= s.confName {
			break
		}
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name)) {
			return fmt.Errorf("%s holds the configuration of another network, %s, which the runtime prefers to %s: remove it, or set CNI_CONF_NAME to a name before it",
				s.netDirOnHost, name, s.confName)
		}
	}
	return nil
}

// uninstall takes everything away again, the configuration first. What is absent
// is a success.
func (s settings) uninstall(say func(format string, args ...any)) error {
	var paths []string
	for _, name := range plugins() {
		if !s.skip[name] && !slices.Contains(shared(), name) {
			paths = append(paths, filepath.Join(s.binDir, name))
		}
	}
	for _, path := range append([]string{filepath.Join(s.netDir, s.confName)}, paths...) {
		gone, err := remove(path)
		if err != nil {
			return fmt.Errorf("uninstall: %w", err)
		}
		if gone {
			say("%s: removed", path)
		}
	}
	for _, name := range shared() {
		if s.skip[name] {
			continue
		}
		if err := s.borrowed(name).giveBack(say); err != nil {
			return fmt.Errorf("uninstall: %w", err)
		}
	}
	return nil
}

// remove is false for what is absent.
func remove(path string) (bool, error) {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func replaceByCopy(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	return replace(to, 0o755, func(w io.Writer) error {
		_, err := io.Copy(w, source)
		return err
	})
}

// replace makes a file appear at once and whole, also after a loss of power. The
// name of the new one, until it has its place, is none that a runtime reads.
func replace(path string, mode fs.FileMode, write func(io.Writer) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	err = errors.Join(write(f), f.Chmod(mode), f.Sync())
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// trimmed is a message without the line ends of its causes: one line for each
// failure.
func trimmed(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
