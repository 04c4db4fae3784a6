package wireguard

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"tortie/internal/overlay"
)

// Private is a private key. It is written to the device and to one file, and nowhere
// else: printed, it says only what it is.
type Private [32]byte

// String hides the key.
func (Private) String() string { return "(a private key)" }

// GoString hides the key.
func (Private) GoString() string { return "(a private key)" }

// LogValue hides the key.
func (Private) LogValue() slog.Value { return slog.StringValue("(a private key)") }

// Public is the key that others know the owner by.
func (p Private) Public() overlay.Key {
	key, err := ecdh.X25519().NewPrivateKey(p[:])
	if err != nil {
		return overlay.Key{} // never, of 32 bytes
	}
	return overlay.Key(key.PublicKey().Bytes())
}

func newPrivate() (p Private, err error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return p, err
	}
	p = Private(key.Bytes())
	// As a device gives it back.
	p[0] &= 248
	p[31] = p[31]&127 | 64
	return p, nil
}

// Keys are this node's private keys, one for each version of IP, in a file that only
// root can read. They outlive felix and the machine, so that its peers go on knowing
// the node. In a change of keys the next one is there beside the current one until the
// Node shows it.
type Keys struct {
	path string
	log  *slog.Logger

	mu sync.Mutex
	// read: the file has been.
	read bool
	file keyFile
}

type keyFile struct {
	IPv4 keyPair `json:"ipv4"`
	IPv6 keyPair `json:"ipv6"`
	// Devices are the names that felix gave to its devices.
	Devices []string `json:"devices,omitempty"`
}

type keyPair struct {
	Current string    `json:"current,omitempty"`
	Next    string    `json:"next,omitempty"`
	Made    time.Time `json:"made,omitzero"` // the current one, or the next
	// Request is the last one, of the Node's annotation, that was met.
	Request string `json:"request,omitempty"`
}

// KeyFile is the name of the file with the keys, beside the journal.
const KeyFile = "wireguard.keys"

// OpenKeys is for the keys in a file, which is made with the first of them.
func OpenKeys(path string, log *slog.Logger) *Keys { return &Keys{path: path, log: log} }

func (f *keyFile) pair(v6 bool) *keyPair {
	if v6 {
		return &f.IPv6
	}
	return &f.IPv4
}

// load is called with mu held. A file that can't be understood is set aside: its node
// gets new keys, as after a change of keys.
func (k *Keys) load() error {
	if k.read {
		return nil
	}
	raw, err := os.ReadFile(k.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("read the keys of WireGuard: %w", err)
	default:
		if err := os.Chmod(k.path, 0o600); err != nil {
			return fmt.Errorf("protect the keys of WireGuard: %w", err)
		}
		if err := json.Unmarshal(raw, &k.file); err != nil || !k.file.IPv4.sound() || !k.file.IPv6.sound() {
			k.file = keyFile{}
			aside := k.path + ".damaged"
			if err := os.Rename(k.path, aside); err != nil {
				return fmt.Errorf("set the damaged keys of WireGuard aside: %w", err)
			}
			k.log.Warn("the file with WireGuard's keys is damaged; the node gets new ones", "file", k.path, "kept-as", aside)
		}
	}
	k.read = true
	return nil
}

func (p *keyPair) sound() bool {
	for _, s := range []string{p.Current, p.Next} {
		if _, ok := parsePrivate(s); s != "" && !ok {
			return false
		}
	}
	return true
}

func parsePrivate(s string) (p Private, ok bool) {
	raw, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(raw) != len(p) {
		return p, false
	}
	return Private(raw), true
}

// save is called with mu held. What is on disk is whole at any moment.
func (k *Keys) save() error {
	raw, err := json.Marshal(k.file)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(k.path), 0o700)
	}
	if err == nil {
		err = replaceFile(k.path, raw)
	}
	if err != nil {
		k.read = false // what is on disk counts
		return fmt.Errorf("write the keys of WireGuard: %w", err)
	}
	return nil
}

func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".wireguard-") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone when all went well
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Current is the node's key; it is made when there is none. now is when.
func (k *Keys) Current(v6 bool, now time.Time) (Private, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(); err != nil {
		return Private{}, err
	}
	pair := k.file.pair(v6)
	if p, ok := parsePrivate(pair.Current); ok {
		return p, nil
	}
	p, err := newPrivate()
	if err != nil {
		return p, fmt.Errorf("make a key for WireGuard: %w", err)
	}
	pair.Current, pair.Made = base64.StdEncoding.EncodeToString(p[:]), now
	return p, k.save()
}

// Due reports whether the key is to be changed: it is older than its lifetime, if that
// is not 0, or somebody asks for it with a request that was not met yet.
func (k *Keys) Due(v6 bool, lifetime time.Duration, request string, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	pair := k.file.pair(v6)
	return lifetime > 0 && now.Sub(pair.Made) >= lifetime || request != "" && request != pair.Request
}

// Next is the key that comes after the current one, made when there is none, and kept
// until Promote.
func (k *Keys) Next(v6 bool, now time.Time) (Private, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(); err != nil {
		return Private{}, err
	}
	pair := k.file.pair(v6)
	if p, ok := parsePrivate(pair.Next); ok {
		return p, nil
	}
	p, err := newPrivate()
	if err != nil {
		return p, fmt.Errorf("make a key for WireGuard: %w", err)
	}
	pair.Next, pair.Made = base64.StdEncoding.EncodeToString(p[:]), now
	return p, k.save()
}

// Promote makes the next key the current one, if shown is its public one, and forgets
// the former.
func (k *Keys) Promote(v6 bool, shown overlay.Key, request string) (promoted bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(); err != nil {
		return false, err
	}
	pair := k.file.pair(v6)
	next, ok := parsePrivate(pair.Next)
	if !ok || next.Public() != shown {
		return false, nil
	}
	pair.Current, pair.Next, pair.Request = pair.Next, "", request
	return true, k.save()
}

// Named notes the name of a device, by which an uninstallation finds it.
func (k *Keys) Named(device string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(); err != nil {
		return err
	}
	if slices.Contains(k.file.Devices, device) {
		return nil
	}
	k.file.Devices = append(k.file.Devices, device)
	return k.save()
}

// Devices are the names that were noted.
func (k *Keys) Devices() []string { return Devices(k.path) }

// Devices are the names that were noted in a file of keys; none when there is no file.
func Devices(path string) []string {
	raw, err := os.ReadFile(path)
	var file keyFile
	if err != nil || json.Unmarshal(raw, &file) != nil {
		return nil
	}
	return file.Devices
}
