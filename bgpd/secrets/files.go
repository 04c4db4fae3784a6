package secrets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"tortie/bgpd/topology"
)

// look is how often files are looked at: there are few of them, and a folder that is
// mounted anew says nothing of it.
const look = time.Second

// maxFile bounds what is read of a file; no password is as long.
const maxFile = 64 << 10

// Files are Secrets as folders below Dir, a file for each key: Dir/<secret>/<key>.
type Files struct{ Dir string }

// Follow implements Source.
func (f Files) Follow(ctx context.Context, name string, tell func(topology.Secret)) {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	last := f.read(name)
	tell(last)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if now := f.read(name); !reflect.DeepEqual(now, last) {
			last = now
			tell(now)
		}
	}
}

func (f Files) read(name string) topology.Secret {
	folder := filepath.Join(f.Dir, name)
	s := topology.Secret{Where: "folder " + folder, Keys: map[string]string{}}
	if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		s.Problem = fmt.Sprintf("%q is not the name of a secret", name)
		return s
	}
	entries, err := os.ReadDir(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.Problem = fmt.Sprintf("there is no folder %s: make it, with a file for each key (BGPD_PASSWORD_DIR is %s)", folder, f.Dir)
		return s
	case err != nil:
		s.Problem = fmt.Sprintf("read the passwords: %v", err)
		return s
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") { // how Kubernetes changes all files of a mount at once
			continue
		}
		text, err := readSmall(filepath.Join(folder, e.Name()))
		if err != nil {
			s.Problem = fmt.Sprintf("read the passwords: %v", err)
			return s
		}
		s.Keys[e.Name()] = text
	}
	return s
}

func readSmall(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a file", path)
	case info.Size() > maxFile:
		return "", fmt.Errorf("%s has %d bytes, which is no password", path, info.Size())
	}
	text, err := os.ReadFile(path)
	return string(text), err
}

// Nowhere is the Source where nobody has said where passwords are.
type Nowhere struct{}

// Follow implements Source.
func (Nowhere) Follow(ctx context.Context, name string, tell func(topology.Secret)) {
	tell(topology.Secret{Problem: fmt.Sprintf("secret %s: this is no pod of a cluster: set BGPD_PASSWORD_DIR to a folder with a file %s/<key>, or KUBECONFIG", name, name)})
	<-ctx.Done()
}
