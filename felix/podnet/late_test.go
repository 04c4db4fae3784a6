package podnet_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
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
	if err := w.net.Check(context.Background(), b, nil); err != nil {
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
	if err := w.net.Check(context.Background(), a, nil); err != nil {
		t.Errorf("the earlier sandbox: %v", err)
	}
}

func TestExpectedAddressesAreThereWhenTheOthersCome(t *testing.T) {
	ips := addrs("10.65.0.1", "fd65::1")
	for name, expected := range map[string][]netip.Addr{
		"right":          ips,
		"another":        addrs("10.65.0.9", "fd65::1"),
		"one too many":   addrs("10.65.0.1", "10.65.0.2", "fd65::1"),
		"one too few":    addrs("10.65.0.1"),
		"unusable":       addrs("127.0.0.1", "fd65::1"),
		"nobody can say": nil,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			sooner, later := w.newPod(), w.newPod()
			a := attachment(sooner, 1)
			a.Addrs = ips
			w.add(a)
			b := late(later, 2, func(context.Context) ([]netip.Addr, error) {
				if name == "right" {
					w.hasAddresses(later, ips) //nolint:contextcheck // the kernel takes none
				}
				return ips, nil
			})
			b.Expected = func() []netip.Addr { return expected }
			w.add(b)
			if one, two := withoutLinkLocal(w.picture(sooner.Handle)), withoutLinkLocal(w.picture(later.Handle)); one != two {
				t.Errorf("with addresses from the start:\n%s\nwith expected ones:\n%s", one, two)
			}
		})
	}
}

// hasAddresses requires that the pod's interface has the addresses.
func (w *world) hasAddresses(p pod, want []netip.Addr) {
	w.Helper()
	link, err := p.LinkByName("eth0")
	if err != nil {
		w.Fatal(err)
	}
	have, err := p.Addresses(link.Index)
	if err != nil {
		w.Fatal(err)
	}
	for _, ip := range want {
		if !slices.ContainsFunc(have, func(a kernel.Address) bool { return a.Prefix.Addr() == ip }) {
			w.Errorf("%s is missing among %v", ip, have)
		}
	}
}

func TestExpectedAddressesThatNeverComeLeaveNothing(t *testing.T) {
	w := newWorld(t, nil)
	p := w.newPod()
	before := w.picture(w.node) + w.picture(p.Handle)
	refused := errors.New("conflict")
	a := late(p, 1, func(context.Context) ([]netip.Addr, error) { return nil, refused })
	a.Expected = func() []netip.Addr { return addrs("10.65.0.1", "fd65::1") }
	if _, err := w.net.Add(context.Background(), a); !errors.Is(err, refused) {
		t.Errorf("error %v", err)
	}
	if after := w.picture(w.node) + w.picture(p.Handle); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// With its last IPv4 address an interface loses its IPv4 routes: the new ones come
// first.
func TestRepeatedAddWithOtherAddressesKeepsTheRoutes(t *testing.T) {
	w := newWorld(t, nil)
	fresh, again := w.newPod(), w.newPod()
	a := attachment(fresh, 1)
	a.Addrs = addrs("10.65.0.2", "fd65::2")
	w.add(a)
	b := attachment(again, 2)
	b.Addrs = addrs("10.65.0.1", "fd65::1")
	w.add(b)
	b.Addrs = a.Addrs
	if _, err := w.net.Add(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	if one, two := withoutLinkLocal(w.picture(fresh.Handle)), withoutLinkLocal(w.picture(again.Handle)); one != two {
		t.Errorf("a fresh pod:\n%s\na repeated ADD:\n%s", one, two)
	}
}
