// Package ipip reconciles this node's one device of IPIP: that it is there, its
// address, its MTU. To which node a packet goes is said by the routes, whose next hop
// is that node's own address.
//
// The kernel makes the device by itself with the module of IPIP, and doesn't let it be
// deleted. So its name says nothing of whose it is; a mark (an alias) does: one
// without it is left alone unless the device is wanted.
package ipip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"

	"tortie/felix/tunneladdr"
	"tortie/internal/kernel"
)

// Device is the device's name, upstream's and the kernel's own.
const Device = "tunl0"

// Overhead is what the encapsulation adds to a packet.
const Overhead = 20

const (
	kind = "ipip"
	mark = "tortie: IPIP between nodes"
)

// Owns reports whether a link is the device, in use by felix.
func Owns(l kernel.Link) bool { return l.Name == Device && l.Kind == kind && l.Alias == mark }

// Kernel is what a Tunnel sees of the node; *kernel.Handle has it all.
type Kernel interface {
	Remover
	LinkByName(name string) (kernel.Link, error)
	CreateDevice(name, kind string) (kernel.Link, error)
	IPIP(index int) (kernel.IPIP, error)
	SetMTU(index, mtu int) error
	SetUp(index int) error
	Apply(changes ...kernel.Change) []error
	SwapSysctls(settings []kernel.Setting) (old []kernel.Setting, err error)
}

// Config is what a Tunnel works with; all of it is required.
type Config struct {
	Kernel Kernel
	// MTU is that of the device.
	MTU func() int
	Log *slog.Logger
}

// ErrUnsupported says that the kernel has no IPIP.
var ErrUnsupported = errors.New("the kernel doesn't do IPIP (CONFIG_NET_IPIP): load the module (modprobe ipip), take a kernel that has it, " +
	"or set ipipMode: Never, or a vxlanMode, in the IP pools")

// Tunnel is the device as it should be and as it is. The methods may be called from
// any goroutine; while Apply runs the others wait.
type Tunnel struct {
	cfg Config

	mu      sync.Mutex
	desired netip.Addr // invalid: none
	// prepared is an address that is not desired yet: nobody is told of it before the
	// device is there to receive.
	prepared netip.Addr
	link     int // 0 while packets can't go through it, as of the last Apply
	failed   error
	// settled: the last Apply made the kernel as desired, so that a difference found
	// later is somebody else's doing.
	settled bool
}

// New makes a Tunnel that wants no device. Nothing is read or written before Apply.
func New(cfg Config) *Tunnel { return &Tunnel{cfg: cfg} }

// Set makes a device with this address desired; none when the address is invalid.
func (t *Tunnel) Set(addr netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if addr.IsValid() {
		t.prepared = netip.Addr{}
	}
	t.settled = t.settled && t.desired == addr
	t.desired = addr
}

// Prepare makes the device for an address that is about to be published, unless one is
// desired already: that one stays as it is until Set. It stays until Set or Forget; when
// it can't be made nothing goes on trying.
func (t *Tunnel) Prepare(ctx context.Context, addr netip.Addr) error {
	t.mu.Lock()
	t.prepared, t.settled = addr, false
	t.mu.Unlock()
	err := t.Apply(ctx)
	if err != nil {
		t.Forget()
	}
	return err
}

// Forget undoes a Prepare, as of the next Apply.
func (t *Tunnel) Forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prepared = netip.Addr{}
}

// Link is the device, and false when there is none that packets could go through.
func (t *Tunnel) Link() (int, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.link, t.link != 0
}

// Failed is why the device could not be had when it was last wanted; nil when it could.
func (t *Tunnel) Failed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// Apply reads the kernel and makes it as desired.
func (t *Tunnel) Apply(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	addr := t.desired
	if !addr.IsValid() {
		addr = t.prepared
	}
	r := run{cfg: t.cfg}
	var err error
	if addr.IsValid() {
		t.link, err = r.make(addr)
		r.report(t.settled)
		if t.failed = nil; t.link == 0 && err != nil {
			t.failed = fmt.Errorf("IPIP device %s: %w", Device, err)
		}
	} else {
		t.link, err = 0, r.remove()
	}
	t.settled = err == nil
	if err != nil {
		return fmt.Errorf("IPIP device %s: %w", Device, err)
	}
	return nil
}

// run is one look at the device.
type run struct {
	cfg  Config
	link kernel.Link
	done []string // what was not as it should be
}

func (r *run) did(format string, args ...any) { r.done = append(r.done, fmt.Sprintf(format, args...)) }

// report logs what was changed, as somebody else's doing when nothing was due.
func (r *run) report(settled bool) {
	switch attrs := []any{"iface", Device, "changes", strings.Join(r.done, ", ")}; {
	case len(r.done) == 0:
	case settled:
		r.cfg.Log.Warn("IPIP mended: someone had changed it", attrs...)
	default:
		r.cfg.Log.Info("IPIP changed", attrs...)
	}
}

// make returns the device's index once packets can go through it, whatever becomes of
// the rest: without it all routes over it are withdrawn.
func (r *run) make(addr netip.Addr) (int, error) {
	if err := r.ensureDevice(); err != nil {
		return 0, err
	}
	old, err := r.cfg.Kernel.SwapSysctls([]kernel.Setting{{Name: "ipv4/conf/" + Device + "/forwarding", Value: "1"}})
	if len(old) > 0 {
		r.did("forwarding")
	}
	there, addressErr := r.ensureAddress(addr)
	if err = errors.Join(err, addressErr); !there {
		return 0, err
	}
	if !r.link.Up {
		r.did("switched on")
		if upErr := r.cfg.Kernel.SetUp(r.link.Index); upErr != nil {
			return 0, errors.Join(err, upErr)
		}
	}
	return r.link.Index, err
}

func (r *run) ensureDevice() (err error) {
	if err := r.find(); err != nil {
		return err
	}
	k := r.cfg.Kernel
	if r.link.Alias != mark {
		r.did("marked as felix's")
		if err := k.SetAlias(r.link.Index, mark); err != nil {
			return err
		}
	}
	if mtu := r.cfg.MTU(); r.link.MTU != mtu {
		r.did("MTU %d instead of %d", mtu, r.link.MTU)
		return k.SetMTU(r.link.Index, mtu)
	}
	return nil
}

// find finds the device, or makes it. One that is made may have come by itself
// meanwhile, with the module.
func (r *run) find() (err error) {
	k := r.cfg.Kernel
	r.link, err = k.LinkByName(Device)
	if errors.Is(err, kernel.ErrNotFound) {
		r.link, err = k.CreateDevice(Device, kind)
		switch {
		case errors.Is(err, kernel.ErrNotSupported):
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		case errors.Is(err, kernel.ErrExists):
			if r.link, err = k.LinkByName(Device); errors.Is(err, kernel.ErrNotFound) {
				return fmt.Errorf("another device of IPIP without a remote end is there already (ip -d link show type ipip): remove it")
			}
		}
		if err == nil {
			r.did("made")
		}
	}
	if err != nil {
		return err
	}
	if r.link.Kind != kind {
		return fmt.Errorf("a device of that name is there which is none of IPIP (%s); rename or remove it", r.link.Kind)
	}
	switch ends, err := k.IPIP(r.link.Index); {
	case err != nil:
		return err
	case ends != (kernel.IPIP{}):
		return fmt.Errorf("it is a tunnel of somebody else's (%s), not one for all nodes: rename or remove it (ip link delete %s)", ends, Device)
	}
	return nil
}

// ensureAddress gives the device its one address before it takes another away. The
// routes over it name it as the source of the node's own packets; the kernel is not to
// choose it for others (deprecated), as it would for those to this node's own pods: a
// device that is older than the node's own comes first. A device that is up is taken to
// have its address when that can't be read.
func (r *run) ensureAddress(addr netip.Addr) (there bool, err error) {
	want := netip.PrefixFrom(addr, addr.BitLen())
	have, err := r.cfg.Kernel.Addresses(r.link.Index)
	if err != nil {
		return r.link.Up, err
	}
	for _, a := range have {
		if a.Prefix != want {
			continue
		}
		if there = a.Scope == kernel.ScopeHost; !there { // which an address keeps
			if err := r.cfg.Kernel.DeleteAddress(r.link.Index, want); err != nil {
				return r.link.Up, err
			}
		}
	}
	if !there {
		r.did("address %s", want)
		if err := errors.Join(r.cfg.Kernel.Apply(kernel.LinkAddress{Link: r.link.Index, Prefix: want, Deprecated: true})...); err != nil {
			return false, err
		}
	}
	return true, tunneladdr.Drop(r.cfg.Kernel, r.link.Index, have, want, r.did)
}

// remove takes the device out of use if felix had it in use.
func (r *run) remove() error {
	link, err := r.cfg.Kernel.LinkByName(Device)
	if errors.Is(err, kernel.ErrNotFound) || err == nil && !Owns(link) {
		return nil
	}
	if err == nil {
		err = Remove(r.cfg.Kernel, link)
	}
	if err == nil {
		r.cfg.Log.Info("IPIP device out of use: no IP pool asks for it any more", "iface", Device)
	}
	return err
}

// Remover is what Remove needs of the node.
type Remover interface {
	LinkByIndex(index int) (kernel.Link, error)
	DeleteLink(index int) error
	SetDown(index int) error
	SetAlias(index int, alias string) error
	Addresses(link int) ([]kernel.Address, error)
	DeleteAddress(link int, prefix netip.Prefix) error
}

// Remove deletes the device; where the kernel keeps it, it is left switched off,
// without an address, and nobody's.
func Remove(k Remover, link kernel.Link) error {
	if err := k.DeleteLink(link.Index); err != nil {
		return err
	}
	if _, err := k.LinkByIndex(link.Index); errors.Is(err, kernel.ErrNotFound) {
		return nil
	}
	have, err := k.Addresses(link.Index)
	if err != nil {
		return err
	}
	if err := k.SetDown(link.Index); err != nil {
		return err
	}
	if err := tunneladdr.Drop(k, link.Index, have, netip.Prefix{}, func(string, ...any) {}); err != nil {
		return err
	}
	return k.SetAlias(link.Index, "") // the mark goes last, or a rest would be nobody's
}
