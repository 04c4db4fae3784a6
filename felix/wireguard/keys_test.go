package wireguard_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tortie/felix/wireguard"
	"tortie/internal/overlay"
)

// cupboard is a file with keys, opened anew each time as a new felix does.
type cupboard struct {
	*testing.T
	path string
	log  bytes.Buffer
}

func newCupboard(t *testing.T) *cupboard {
	return &cupboard{T: t, path: filepath.Join(t.TempDir(), "felix", wireguard.KeyFile)}
}

func (c *cupboard) open() *wireguard.Keys {
	return wireguard.OpenKeys(c.path, slog.New(slog.NewTextHandler(&c.log, nil)))
}

func (c *cupboard) current() overlay.Key {
	c.Helper()
	key, err := c.open().Current(false, time.Unix(1000, 0))
	if err != nil {
		c.Fatal(err)
	}
	return key.Public()
}

func (c *cupboard) next() overlay.Key {
	c.Helper()
	key, err := c.open().Next(false, time.Unix(2000, 0))
	if err != nil {
		c.Fatal(err)
	}
	return key.Public()
}

// TestKeyIsMadeOnceAndForRootAlone: it outlives felix, and each version of IP has another.
func TestKeyIsMadeOnceAndForRootAlone(t *testing.T) {
	c := newCupboard(t)
	first := c.current()
	other, err := c.open().Current(true, time.Unix(1000, 0))
	if err != nil || other.Public() == first || c.current() != first {
		t.Fatalf("keys %v, %v, %v: %v", first, other.Public(), c.current(), err)
	}
	if err := os.Chmod(c.path, 0o644); err != nil { // somebody has copied it there
		t.Fatal(err)
	}
	c.current()
	if i, err := os.Stat(c.path); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: %v", i.Mode(), err)
	}
}

// TestPrivateKeyIsNotPrinted in whatever way.
func TestPrivateKeyIsNotPrinted(t *testing.T) {
	c := newCupboard(t)
	key, err := c.open().Current(false, time.Unix(1000, 0))
	if err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewTextHandler(&c.log, nil)).Info("key", "key", key, "in", struct{ K wireguard.Private }{key})
	text := c.log.String() + fmt.Sprintf("%v %+v %#v %s", key, key, key, key)
	stored, err := os.ReadFile(c.path)
	if err != nil || strings.Count(text, "(a private key)") < 5 {
		t.Errorf("%v: %s", err, text)
	}
	for _, form := range []string{fmt.Sprintf("%x", key[:]), fmt.Sprintf("%d", key[:]), string(stored[20:60])} {
		if strings.Contains(text, form) {
			t.Errorf("the key is in %s", text)
		}
	}
}

// TestNextKeyCountsWhenTheNodeShowsIt, also after felix ended in between.
func TestNextKeyCountsWhenTheNodeShowsIt(t *testing.T) {
	c := newCupboard(t)
	first, next := c.current(), c.next()
	if next == first || c.next() != next || c.current() != first {
		t.Fatal("the next key is not kept beside the current one")
	}
	for _, tt := range []struct {
		name   string
		shown  overlay.Key
		counts bool
	}{{"the Node shows the former", first, false}, {"and none", overlay.Key{}, false}, {"and the next", next, true}, {"as before", next, false}} {
		counts, err := c.open().Promote(false, tt.shown, "please")
		if err != nil || counts != tt.counts {
			t.Errorf("%s: %v, %v", tt.name, counts, err)
		}
	}
	if c.current() != next {
		t.Error("the next key is not the current one")
	}
	raw, err := os.ReadFile(c.path)
	if err != nil || strings.Contains(string(raw), `"next":"`) {
		t.Errorf("the former key is still there: %v", err)
	}
}

// TestKeyIsDueByItsAgeAndOnceByARequest.
func TestKeyIsDueByItsAgeAndOnceByARequest(t *testing.T) {
	c := newCupboard(t)
	c.current() // made at 1000
	for _, tt := range []struct {
		name     string
		lifetime time.Duration
		request  string
		at       int64
		due      bool
	}{
		{"any age", 0, "", 1 << 40, false},
		{"young", time.Hour, "", 1000 + 3599, false},
		{"old", time.Hour, "", 1000 + 3600, true},
		{"asked for", 0, "please", 1001, true},
	} {
		k := c.open()
		if _, err := k.Current(false, time.Unix(tt.at, 0)); err != nil {
			t.Fatal(err)
		}
		if due := k.Due(false, tt.lifetime, tt.request, time.Unix(tt.at, 0)); due != tt.due {
			t.Errorf("%s: %v", tt.name, due)
		}
	}
	next := c.next()
	if _, err := c.open().Promote(false, next, "please"); err != nil {
		t.Fatal(err)
	}
	k := c.open()
	if _, err := k.Current(false, time.Unix(3000, 0)); err != nil || k.Due(false, 0, "please", time.Unix(3000, 0)) || !k.Due(false, 0, "again", time.Unix(3000, 0)) {
		t.Errorf("a request is not met once: %v", err)
	}
}

// TestDamagedKeysAreSetAside and said; the node gets new ones.
func TestDamagedKeysAreSetAside(t *testing.T) {
	for _, damage := range []string{"", "{", `{"ipv4":{"current":"AAAA"}}`, `{"ipv4":{"next":"?"}}`} {
		c := newCupboard(t)
		first := c.current()
		if err := os.WriteFile(c.path, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if next := c.current(); next == first || c.current() != next {
			t.Errorf("%q: no new key", damage)
		}
		if kept, err := os.ReadFile(c.path + ".damaged"); err != nil || string(kept) != damage || !strings.Contains(c.log.String(), "damaged") {
			t.Errorf("%q: kept %q, %v, said %s", damage, kept, err, &c.log)
		}
	}
}

// TestNamesOfDevicesAreKept for an uninstallation.
func TestNamesOfDevicesAreKept(t *testing.T) {
	c := newCupboard(t)
	for range 2 {
		if err := c.open().Named("wg9"); err != nil {
			t.Fatal(err)
		}
	}
	if got := wireguard.Devices(c.path); len(got) != 1 || got[0] != "wg9" || len(wireguard.Devices(c.path+"x")) != 0 {
		t.Errorf("devices %v", got)
	}
}
