package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// borrowed is a plugin under a name that is not ours alone. It is replaced, because
// an older one doesn't know the CNI version that runtimes ask for, and given back.
// Nothing but these files remembers which it is.
type borrowed struct {
	path string
	// before is the one that was there; absent where there was none.
	before string
	// mark has the checksums of the one that was put there last and of the one that
	// it replaced, which is there if that was interrupted. With another content it is
	// somebody else's.
	mark string
}

func (s settings) borrowed(name string) borrowed {
	beside := func(suffix string) string { return filepath.Join(s.binDir, "."+name+suffix) }
	return borrowed{path: filepath.Join(s.binDir, name), before: beside(".before-calico"), mark: beside(".calico")}
}

// put takes the place of what is there, having kept it if it is another's.
func (b borrowed) put(from string, say func(format string, args ...any)) error {
	old, ours, err := b.whose()
	if err != nil {
		return err
	}
	if old != nil && !ours {
		if err := replaceByCopy(b.path, b.before); err != nil {
			return err
		}
		say("%s: the one that was there is kept as %s", b.path, b.before)
	}
	sums, err := checksum(from)
	if err != nil {
		return err
	}
	if ours {
		sums = append(sums, old...)
	}
	if err := replace(b.mark, 0o644, func(w io.Writer) error { _, err := w.Write(sums); return err }); err != nil {
		return err
	}
	return replaceByCopy(from, b.path)
}

// giveBack leaves what was there before, or what another has put there since.
func (b borrowed) giveBack(say func(format string, args ...any)) error {
	there, ours, err := b.whose()
	if err != nil {
		return err
	}
	switch _, missing := os.Stat(b.before); {
	case there != nil && !ours:
		say("%s: left, it is not the one that was installed", b.path)
	case missing == nil:
		if err := os.Rename(b.before, b.path); err != nil {
			return err
		}
		say("%s: as it was before", b.path)
	default:
		if gone, err := remove(b.path); err != nil {
			return err
		} else if gone {
			say("%s: removed", b.path)
		}
	}
	_, err = remove(b.before)
	_, err2 := remove(b.mark)
	return errors.Join(err, err2)
}

// whose gives the checksum of what is there; nil when there is nothing.
func (b borrowed) whose() (sum []byte, ours bool, err error) {
	sum, err = checksum(b.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	marks, err := os.ReadFile(b.mark)
	if errors.Is(err, fs.ErrNotExist) {
		return sum, false, nil
	}
	for mark := range slices.Chunk(marks, sha256.Size) {
		ours = ours || bytes.Equal(mark, sum)
	}
	return sum, ours, err
}

func checksum(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}
