package ipip_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tortie/felix/ipip"
	"tortie/internal/kernel"
	"tortie/internal/kernel/fakekernel"
	"tortie/internal/kernel/kerneltest"
)

// kern is a kernel, real or fake.
type kern interface {
	ipip.Kernel
	CreateVeth(kernel.VethSpec) (kernel.Link, error)
	AddAddress(link int, prefix netip.Prefix) error
	Rename(index int, name string) error
	Sysctl(name string) (string, error)
	SetSysctl(name, value string) error
}

// world is a node with the Tunnel under test.
type world struct {
	*testing.T
	kern
	cfg    ipip.Config
	tunnel *ipip.Tunnel
	log    *bytes.Buffer
}

func newWorld(t *testing.T, k kern) *world {
	w := &world{T: t, kern: k, log: &bytes.Buffer{}}
	w.cfg = ipip.Config{Kernel: k, Log: slog.New(slog.NewTextHandler(w.log, nil)), MTU: func() int { return 1480 - 8 }}
	w.tunnel = ipip.New(w.cfg)
	return w
}

func onEachKernel(t *testing.T, test func(*world)) {
	t.Run("fake", func(t *testing.T) { test(newWorld(t, fakekernel.New())) })
	t.Run("real", func(t *testing.T) {
		kerneltest.Require(t, kerneltest.IPIP)
		test(newWorld(t, kerneltest.New(t)))
	})
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

const addr, other = "10.65.1.1", "10.65.1.9"

func (w *world) apply(a string) {
	w.Helper()
	desired, _ := netip.ParseAddr(a)
	w.tunnel.Set(desired)
	w.ok(w.tunnel.Apply(w.Context()))
}

// read is what there is of the device, which is nobody's when it is not in use.
func (w *world) read() string {
	w.Helper()
	l, err := w.LinkByName(ipip.Device)
	if errors.Is(err, kernel.ErrNotFound) {
		return "not in use"
	}
	w.ok(err)
	addrs, err := w.Addresses(l.Index)
	w.ok(err)
	var texts []string
	for _, a := range addrs {
		if !a.Prefix.Addr().IsLinkLocalUnicast() {
			texts = append(texts, a.Prefix.String()+map[bool]string{true: " host"}[a.Scope == kernel.ScopeHost])
		}
	}
	if !ipip.Owns(l) && !l.Up && len(texts) == 0 {
		return "not in use"
	}
	forwarding, err := w.Sysctl("ipv4/conf/" + ipip.Device + "/forwarding")
	w.ok(err)
	return fmt.Sprintf("ours %v mtu %d up %v forwarding %s addresses %s", ipip.Owns(l), l.MTU, l.Up, forwarding, strings.Join(texts, " "))
}

func inUse(a string) string {
	return "ours true mtu 1472 up true forwarding 1 addresses " + a + "/32 host"
}

func (w *world) wants(want string) {
	w.Helper()
	if d := cmp.Diff(want, w.read()); d != "" {
		w.Errorf("(-want +got):\n%s", d)
	}
	index, up := w.tunnel.Link()
	if l, err := w.LinkByName(ipip.Device); up != (want != "not in use") || up && (err != nil || l.Index != index) {
		w.Errorf("link %d %v for %v (%v)", index, up, l, err)
	}
}

func TestDeviceComesChangesAndGoes(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.apply("")
		w.wants("not in use")
		w.apply(addr)
		w.wants(inUse(addr))
		w.apply(other)
		w.wants(inUse(other))
		w.apply("")
		w.wants("not in use")
		w.apply(addr)
		w.wants(inUse(addr))
	})
}

func TestPreparedDeviceIsThereBeforeItIsDesired(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.ok(w.tunnel.Prepare(w.Context(), netip.MustParseAddr(addr)))
		w.wants(inUse(addr))
		w.apply("") // a State from before it was published
		w.wants(inUse(addr))
		w.apply(addr)
		w.ok(w.tunnel.Prepare(w.Context(), netip.MustParseAddr(other)))
		w.wants(inUse(addr)) // until the Node says another
		w.tunnel.Forget()
		w.apply("")
		w.wants("not in use")
	})
}

func TestWhatIsRightIsNotTouched(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.apply(addr)
		w.log.Reset()
		w.tunnel = ipip.New(w.cfg) // felix was killed and started again
		w.apply(addr)
		w.wants(inUse(addr))
		if w.log.Len() > 0 {
			w.Errorf("log of nothing:\n%s", w.log)
		}
	})
}

func TestDriftIsMended(t *testing.T) {
	for name, tamper := range map[string]func(w *world, index int) error{
		"switched off": func(w *world, index int) error { return w.SetDown(index) },
		"forwarding":   func(w *world, _ int) error { return w.SetSysctl("ipv4/conf/"+ipip.Device+"/forwarding", "0") },
		"MTU":          func(w *world, index int) error { return w.SetMTU(index, 1400) },
		"mark":         func(w *world, index int) error { return w.SetAlias(index, "") },
		"address removed": func(w *world, index int) error {
			return w.DeleteAddress(index, netip.MustParsePrefix(addr+"/32"))
		},
		"address of another scope": func(w *world, index int) error {
			p := netip.MustParsePrefix(addr + "/32")
			return errors.Join(w.DeleteAddress(index, p), w.AddAddress(index, p))
		},
		"address added": func(w *world, index int) error { return w.AddAddress(index, netip.MustParsePrefix("10.99.0.1/32")) },
	} {
		t.Run(name, func(t *testing.T) {
			onEachKernel(t, func(w *world) {
				w.apply(addr)
				index, _ := w.tunnel.Link()
				w.ok(tamper(w, index))
				if w.read() == inUse(addr) {
					w.Fatal("nothing was changed")
				}
				w.log.Reset()
				w.ok(w.tunnel.Apply(w.Context()))
				w.wants(inUse(addr))
				if !strings.Contains(w.log.String(), "someone had changed it") {
					w.Errorf("it is not said:\n%s", w.log)
				}
			})
		})
	}
}

// TestStrangersAreLeftAlone: a tunl0 that somebody else uses, while no pool asks for
// IPIP; and one that is none of IPIP at all.
func TestStrangersAreLeftAlone(t *testing.T) {
	onEachKernel(t, func(w *world) {
		w.apply(addr)
		w.apply("")
		l, err := w.LinkByName(ipip.Device)
		if errors.Is(err, kernel.ErrNotFound) {
			l, err = w.CreateDevice(ipip.Device, "ipip")
		}
		w.ok(err)
		w.ok(w.AddAddress(l.Index, netip.MustParsePrefix("10.99.0.1/32")))
		w.ok(w.SetUp(l.Index))
		before := w.read()
		w.apply("")
		if got := w.read(); got != before || !strings.Contains(got, "10.99.0.1") {
			w.Errorf("%s, want %s", got, before)
		}
	})
	t.Run("no IPIP device", func(t *testing.T) {
		w := newWorld(t, fakekernel.New())
		_, err := w.CreateVeth(kernel.VethSpec{Host: ipip.Device, Peer: "p"})
		w.ok(err)
		w.tunnel.Set(netip.MustParseAddr(addr))
		if err := w.tunnel.Apply(t.Context()); err == nil || !strings.Contains(err.Error(), "a device of that name is there which is none of IPIP (veth)") {
			t.Error(err)
		}
		w.apply("")
		if _, err := w.LinkByName(ipip.Device); err != nil {
			t.Error(err)
		}
	})
}

// TestKernelWithoutIPIPIsSaidAndNotAskedAgain by every look at the tunnels: who publishes
// the address tries again.
func TestKernelWithoutIPIPIsSaidAndNotAskedAgain(t *testing.T) {
	k := fakekernel.New()
	k.WithoutIPIP()
	w := newWorld(t, k)
	err := w.tunnel.Prepare(t.Context(), netip.MustParseAddr(addr))
	if !errors.Is(err, ipip.ErrUnsupported) || !strings.Contains(err.Error(), "modprobe ipip") || !strings.Contains(err.Error(), "ipipMode: Never") {
		t.Errorf("%v", err)
	}
	w.apply("")
	w.wants("not in use")
	if failed := w.tunnel.Failed(); !errors.Is(failed, ipip.ErrUnsupported) {
		t.Errorf("failed: %v", failed)
	}
}

// lacking is the kernel of this machine without IPIP, whether it has it or not: what
// it says to a device and a kind that it does not know.
type lacking struct{ kern }

func (l lacking) LinkByName(string) (kernel.Link, error) { return l.kern.LinkByName("no-such-device") }

func (l lacking) CreateDevice(name, _ string) (kernel.Link, error) {
	return l.kern.CreateDevice(name, "no-such-kind")
}

// TestAnswerOfARealKernelWithoutIPIPIsUnderstood: the same, in its own words.
func TestAnswerOfARealKernelWithoutIPIPIsUnderstood(t *testing.T) {
	w := newWorld(t, lacking{kerneltest.New(t)})
	if err := w.tunnel.Prepare(t.Context(), netip.MustParseAddr(addr)); !errors.Is(err, ipip.ErrUnsupported) {
		t.Errorf("%v", err)
	}
}

func TestFailureAtAnyRequestIsToldAndMendedByTheNextApply(t *testing.T) {
	for _, op := range []string{"read link", "create device", "set alias", "set MTU", "read addresses", "add address", "switch on", "read ipip"} {
		t.Run(op, func(t *testing.T) {
			k := fakekernel.New()
			w := newWorld(t, k)
			k.FailNth(1, op, errors.New("out of luck"))
			w.tunnel.Set(netip.MustParseAddr(addr))
			if err := w.tunnel.Apply(t.Context()); err == nil {
				t.Fatal("no error")
			}
			w.ok(w.tunnel.Apply(t.Context()))
			w.wants(inUse(addr))
		})
	}
}
