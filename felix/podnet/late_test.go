package podnet_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"tortie/felix/podnet"
	"tortie/internal/kernel"
)

var bothFamilies = []kernel.Family{kernel.IPv4, kernel.IPv6}

// late is an attachment whose addresses come from fn.
func late(p pod, n int, fn func(context.Context) ([]netip.Addr, error)) podnet.Attachment {
	a := attachment(p, n)
	a.Addrs, a.Late, a.Families = nil, fn, bothFamilies
	return a
}

func TestLateAddressesEndInTheSameWiring(t *testing.T) {
	w := newWorld(t, nil)
	ips := addrs("10.65.0.1", "fd65::1")
	sooner, later := w.newPod(), w.newPod()
	a := attachment(sooner, 1)
	a.Addrs = ips
	w.add(a)
	b := late(later, 2, func(context.Context) ([]netip.Addr, error) {
		if _, err := w.node.LinkByName(hostIf(2)); err != nil {
			t.Errorf("addresses are awaited before the device is there: %v", err)
		}
		return ips, nil
	})
	w.add(b)
	b.Addrs = ips
	if err := w.net.Check(context.Background(), b); err != nil {
		t.Error(err)
	}
	if one, two := withoutLinkLocal(w.picture(sooner.Handle)), withoutLinkLocal(w.picture(later.Handle)); one != two {
		t.Errorf("with addresses from the start:\n%s\nwith late ones:\n%s", one, two)
	}
}

// withoutLinkLocal drops the address the kernel makes by itself, in its own time.
func withoutLinkLocal(picture string) string {
	var kept strings.Builder
	for line := range strings.Lines(picture) {
		if !strings.Contains(line, "address fe80:") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func TestLateAddressesThatDoNotComeLeaveNothing(t *testing.T) {
	refused := errors.New("pool is full")
	for name, fn := range map[string]func(context.Context) ([]netip.Addr, error){
		"none":           func(context.Context) ([]netip.Addr, error) { return nil, refused },
		"one family":     func(context.Context) ([]netip.Addr, error) { return addrs("10.65.0.1"), nil },
		"bad address":    func(context.Context) ([]netip.Addr, error) { return addrs("127.0.0.1", "fd65::1"), nil },
		"another family": func(context.Context) ([]netip.Addr, error) { return addrs("10.65.0.1", "10.65.0.2"), nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			p := w.newPod()
			before := w.picture(w.node) + w.picture(p.Handle)
			_, err := w.net.Add(context.Background(), late(p, 1, fn))
			if !errors.Is(err, refused) && !errors.Is(err, podnet.ErrInvalid) {
				t.Errorf("error %v", err)
			}
			if after := w.picture(w.node) + w.picture(p.Handle); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

// An earlier sandbox of the pod may still be running: as long as the new one has
// no addresses, it keeps its device.
func TestEarlierSandboxKeepsItsDeviceUntilTheNewOneHasAddresses(t *testing.T) {
	w := newWorld(t, nil)
	old, young := w.newPod(), w.newPod()
	a := attachment(old, 1)
	w.add(a)
	refused := errors.New("pool is full")
	_, err := w.net.Add(context.Background(), late(young, 1, func(context.Context) ([]netip.Addr, error) { return nil, refused }))
	if !errors.Is(err, refused) {
		t.Errorf("error %v", err)
	}
	if err := w.net.Check(context.Background(), a); err != nil {
		t.Errorf("the earlier sandbox: %v", err)
	}
}
