package wireguard

import (
	"context"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"tortie/felix/hostways"
	"tortie/internal/overlay"
)

// fakeControl is a device with peers that have sessions since some time; a peer that is
// written to has a new one if it answers.
type fakeControl struct {
	name    string
	peers   []wgtypes.Peer
	answers map[wgtypes.Key]bool
	asked   map[wgtypes.Key]int
}

func (f *fakeControl) Device(name string) (*wgtypes.Device, error) {
	if name != f.name {
		return nil, fs.ErrNotExist
	}
	return &wgtypes.Device{Name: name, Peers: slices.Clone(f.peers)}, nil
}

func (f *fakeControl) ConfigureDevice(_ string, cfg wgtypes.Config) error {
	for _, c := range cfg.Peers {
		for i := range f.peers {
			if p := &f.peers[i]; p.PublicKey == c.PublicKey && *c.PersistentKeepaliveInterval == greeting {
				f.asked[p.PublicKey]++
				if f.answers[p.PublicKey] {
					p.LastHandshakeTime = time.Now()
				}
			}
		}
	}
	return nil
}

func (*fakeControl) Close() error { return nil }

// abandoned notes to whom packets go in clear.
type abandoned struct{ all, now []netip.Addr }

func (*abandoned) Set(bool, []hostways.Way) bool { return false }
func (*abandoned) Apply(context.Context) error   { return nil }
func (a *abandoned) Abandon(_ context.Context, lost func(netip.Addr) bool) error {
	a.now = nil
	for _, addr := range a.all {
		if lost(addr) {
			a.now = append(a.now, addr)
		}
	}
	return nil
}

// TestOnlyWhoGivesNoSessionIsSentToInClear while the datastore can't be reached: peers whose
// session is old are asked first, and one that answers, or has a session, stays.
func TestOnlyWhoGivesNoSessionIsSentToInClear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy, idle, gone := wgtypes.Key{1}, wgtypes.Key{2}, wgtypes.Key{3}
		ways := &abandoned{}
		control := &fakeControl{name: "wireguard.cali", answers: map[wgtypes.Key]bool{busy: true, idle: true}, asked: map[wgtypes.Key]int{}}
		for i, key := range []wgtypes.Key{busy, idle, gone} {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
			ways.all = append(ways.all, a)
			control.peers = append(control.peers, wgtypes.Peer{
				PublicKey: key, LastHandshakeTime: time.Now(), AllowedIPs: []net.IPNet{{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}},
			})
		}
		control.peers[1].LastHandshakeTime = time.Now().Add(-time.Hour)
		keys := OpenKeys(t.TempDir()+"/keys", slog.New(slog.DiscardHandler))
		if err := keys.Named(control.name); err != nil {
			t.Fatal(err)
		}
		woken := 0
		tunnels := New(Config{Keys: keys, Hosts: ways, Open: func() (Control, error) { return control, nil }, Wake: func() { woken++ }})
		for began := time.Now(); time.Since(began) < 5*time.Minute; time.Sleep(5 * time.Second) {
			if err := tunnels.Lost(t.Context()); err != nil {
				t.Fatal(err)
			}
			var want []netip.Addr
			if time.Since(began) > alive {
				want = ways.all[2:]
			}
			if !slices.Equal(ways.now, want) {
				t.Errorf("after %s in clear to %v, want %v", time.Since(began), ways.now, want)
			}
		}
		if control.asked[idle] == 0 || control.asked[gone] < 10 {
			t.Errorf("asked %v", control.asked)
		}
		if tunnels.Found(); woken != 1 || len(tunnels.lost) > 0 || tunnels.lost[overlay.Key(gone)] {
			t.Errorf("woken %d times, %v still counts as lost", woken, tunnels.lost)
		}
	})
}
