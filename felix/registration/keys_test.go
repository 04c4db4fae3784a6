package registration

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"tortie/felix/wireguard"
	"tortie/internal/api"
	"tortie/internal/overlay"
)

// locksmith is a node with Keys and no device.
type locksmith struct {
	*node
	store  *wireguard.Keys
	keys   *Keys
	events []string // what was done to the device, and what the Node said then
	refuse error
	wish   KeyWish
}

func (l *locksmith) shown() overlay.Key {
	l.Helper()
	e, err := l.node.store.Get(l.Context(), api.Key{Kind: api.KindNode, Name: "node1"})
	if err != nil {
		l.Fatal(err)
	}
	key, _ := overlay.ParseKey(e.Object.(*api.Node).Status.WireguardPublicKey)
	return key
}

// heard wants what the Node says by now taken in.
func (l *locksmith) heard(change func(*KeyWish)) {
	l.Helper()
	change(&l.wish)
	l.wish.Shown.V4.Secure = overlay.Secure{Key: l.shown(), Tunnel: netip.MustParseAddr("10.65.0.1")}
	l.keys.Want(l.wish)
	synctest.Wait()
}

func withLocksmith(t *testing.T, test func(*locksmith)) {
	synctest.Test(t, func(t *testing.T) {
		l := &locksmith{node: newNode(t, nil)}
		by := &api.Node{Spec: api.NodeSpec{BGP: &api.NodeBGPSpec{IPv4Address: "10.10.1.1/24"}}}
		by.Name = "node1"
		l.put(by)
		log := slog.New(slog.NewTextHandler(&l.log, nil))
		l.store = wireguard.OpenKeys(filepath.Join(t.TempDir(), wireguard.KeyFile), log)
		note := func(what string) error {
			l.events = append(l.events, what+" while the Node shows "+l.shown().String()[:4])
			return l.refuse
		}
		l.keys = NewKeys(KeyConfig{
			Node: "node1", Client: l.node.store, Registry: api.NewRegistry(), Keys: l.store, Log: log,
			Prepare: func(context.Context, netip.Addr) error { return note("prepared") },
			Rekeyed: func(context.Context) error { return note("rekeyed") },
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.keys.Run(ctx) }()
		test(l)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (l *locksmith) did(want ...string) {
	l.Helper()
	if len(l.events) != len(want) {
		l.Fatalf("%q, want %q", l.events, want)
	}
	for i := range want {
		if l.events[i] != want[i] {
			l.Errorf("%q, want %q", l.events[i], want[i])
		}
	}
	l.events = nil
}

const none = "AAAA" // how the key that is none begins

// TestKeyIsPublishedWhenItsDeviceIsThere, and taken back when WireGuard is off.
func TestKeyIsPublishedWhenItsDeviceIsThere(t *testing.T) {
	withLocksmith(t, func(l *locksmith) {
		l.refuse = errors.New("no device")
		l.heard(func(w *KeyWish) { w.V4 = true })
		if l.shown() != (overlay.Key{}) || l.keys.Problem() == nil {
			t.Errorf("published %s without a device; problem %v", l.shown(), l.keys.Problem())
		}
		l.refuse = nil
		time.Sleep(retryMax)
		synctest.Wait()
		first := l.shown()
		if first == (overlay.Key{}) || l.keys.Problem() != nil {
			t.Fatalf("published %s; problem %v", first, l.keys.Problem())
		}
		l.events = nil
		l.heard(func(*KeyWish) {})
		l.did() // all is right
		l.heard(func(w *KeyWish) { w.V4 = false })
		if l.shown() != (overlay.Key{}) {
			t.Error("the key is still published")
		}
		l.heard(func(w *KeyWish) { w.V4 = true })
		if l.shown() != first {
			t.Error("it is another key than before")
		}
		l.did("prepared while the Node shows " + none)
	})
}

// TestKeyIsChangedInItsTimeAndOnRequest: the Node shows the new one first, the device
// has it at once after.
func TestKeyIsChangedInItsTimeAndOnRequest(t *testing.T) {
	withLocksmith(t, func(l *locksmith) {
		l.heard(func(w *KeyWish) { w.V4, w.Lifetime = true, time.Hour })
		first := l.shown()
		l.heard(func(*KeyWish) {})
		l.events = nil
		time.Sleep(time.Hour + keyLook/2)
		synctest.Wait()
		second := l.shown()
		if second == first {
			t.Fatal("the key has had its time and is the same")
		}
		l.did("rekeyed while the Node shows " + second.String()[:4])
		l.heard(func(*KeyWish) {})
		l.did()
		l.heard(func(w *KeyWish) { w.Request = "please" })
		third := l.shown()
		l.did("rekeyed while the Node shows " + third.String()[:4])
		l.heard(func(*KeyWish) {})
		if third == second || l.shown() != third {
			t.Errorf("asked once: %s, %s, %s", second, third, l.shown())
		}
	})
}

// TestFloatingAddressesAreShown in the Node while there are any, and go with them.
func TestFloatingAddressesAreShown(t *testing.T) {
	withLocksmith(t, func(l *locksmith) {
		shown := func() string {
			e, err := l.keys.cfg.Client.Get(t.Context(), api.Key{Kind: api.KindNode, Name: l.keys.cfg.Node})
			if err != nil {
				t.Fatal(err)
			}
			return e.Object.GetAnnotations()[api.AnnotationFloatingAddresses]
		}
		for _, want := range []string{"10.65.250.9", "10.65.250.9,fd65::9", ""} {
			before := shown()
			l.heard(func(w *KeyWish) { w.Floating, w.FloatingShown = want, before })
			if got := shown(); got != want {
				t.Errorf("the Node shows %q, want %q", got, want)
			}
		}
	})
}
