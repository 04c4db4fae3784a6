// Package vxlan reconciles this node's VXLAN devices, one for each version of IP: the
// device, its address, and for every other node an entry of the forwarding table and
// a permanent neighbour. Everything on such a device is felix's; nothing is flooded or
// learned, so that what the datastore says is where packets go.
package vxlan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"

	"tortie/felix/tunneladdr"
	"tortie/internal/kernel"
	"tortie/internal/overlay"
)

// The names of the devices, by which they are known to be felix's.
const (
	Device4 = "vxlan.calico"
	Device6 = "vxlan-v6.calico"
)

// Kernel is what the Tunnels see of the node; *kernel.Handle has it all.
type Kernel interface {
	tunneladdr.Kernel
	LinkByName(name string) (kernel.Link, error)
	CreateVxlan(spec kernel.VxlanSpec) (kernel.Link, error)
	Vxlan(index int) (kernel.Vxlan, error)
	DeleteLink(index int) error
	SetMTU(index, mtu int) error
	SetMAC(index int, mac kernel.MAC) error
	SetUp(index int) error
	Neighbours(link int) ([]kernel.Neighbour, error)
	DeleteNeighbour(link int, ip netip.Addr) error
	FDB(link int) ([]kernel.FDBEntry, error)
	DeleteFDB(link int, mac kernel.MAC) error
	SwapSysctls(settings []kernel.Setting) (old []kernel.Setting, err error)
}

// Config is what Tunnels work with; all of it is required.
type Config struct {
	Kernel Kernel
	// MTU is that of the device of one version of IP.
	MTU func(v6 bool) int
	Log *slog.Logger
}

// Settings are what all nodes of a cluster agree on.
type Settings struct {
	VNI  uint32
	Port uint16
}

// Tunnels are the devices as they should be and as they are. The methods may be
// called from any goroutine; while Apply runs the others wait.
type Tunnels struct {
	cfg Config

	mu       sync.Mutex
	settings Settings
	desired  map[bool]overlay.Tunnel // by: is it IPv6
	// prepared are ends that are not desired yet: nobody is told of a tunnel address
	// before the device is there to receive.
	prepared map[bool]overlay.End
	links    map[bool]int // the devices that are up, as of the last Apply
	failed   map[bool]error
	// settled: the last Apply made the kernel as desired, so that a difference found
	// later is somebody else's doing.
	settled bool
}

// New makes Tunnels that want nothing. Nothing is read or written before Apply.
func New(cfg Config) *Tunnels {
	return &Tunnels{cfg: cfg, desired: map[bool]overlay.Tunnel{}, prepared: map[bool]overlay.End{}, links: map[bool]int{}, failed: map[bool]error{}}
}

// Configure has the devices made with these settings from the next Apply on; before the
// first call there are none. A device keeps its settings for life: it is made anew.
func (t *Tunnels) Configure(s Settings) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settled = t.settled && t.settings == s
	t.settings = s
}

// Set makes exactly these tunnels desired.
func (t *Tunnels) Set(tunnels []overlay.Tunnel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.desired)
	for _, tunnel := range tunnels {
		v6 := tunnel.Here.Tunnel.Is6()
		t.desired[v6] = tunnel
		delete(t.prepared, v6)
	}
	t.settled = false
}

// Prepare makes the device of an end that is about to be published, unless one of that
// version of IP is desired already: that one stays as it is until Set, and has another
// address only after that is published. It stays until Set names that version, or Forget.
func (t *Tunnels) Prepare(ctx context.Context, here overlay.End) error {
	t.mu.Lock()
	t.prepared[here.Tunnel.Is6()] = here
	t.settled = false
	t.mu.Unlock()
	return t.Apply(ctx)
}

// Forget undoes a Prepare, as of the next Apply.
func (t *Tunnels) Forget(v6 bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.prepared, v6)
}

// Link is the device for addresses of a version, and false when there is none that
// packets could go through.
func (t *Tunnels) Link(v6 bool) (int, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	index, ok := t.links[v6]
	return index, ok
}

// Failed is why there is no device for addresses of a version though there should be.
func (t *Tunnels) Failed(v6 bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed[v6]
}

// Owns reports whether a link of that name is one of ours.
func Owns(name string) bool { return name == Device4 || name == Device6 }

// Apply reads the kernel and makes it as desired. What fails in one version of IP
// does not hold up the other; all of it can be repeated.
func (t *Tunnels) Apply(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, v6 := range []bool{false, true} {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r := run{cfg: t.cfg, settings: t.settings, v6: v6, device: deviceName(v6)}
		tunnel, wanted := t.desired[v6]
		if here, soon := t.prepared[v6]; soon && !wanted {
			tunnel, wanted = overlay.Tunnel{Here: here}, true
		}
		if !wanted {
			errs = append(errs, r.remove())
			delete(t.links, v6)
			delete(t.failed, v6)
			continue
		}
		index, err := r.make(tunnel)
		if delete(t.links, v6); index != 0 {
			t.links[v6] = index
		}
		if err != nil {
			err = fmt.Errorf("VXLAN device %s: %w", r.device, err)
		}
		if delete(t.failed, v6); index == 0 {
			t.failed[v6] = err
		}
		errs = append(errs, err)
		r.report(t.settled)
	}
	err := errors.Join(errs...)
	t.settled = err == nil
	return err
}

func deviceName(v6 bool) string {
	if v6 {
		return Device6
	}
	return Device4
}

// run is one look at one device.
type run struct {
	cfg      Config
	settings Settings
	v6       bool
	device   string
	link     kernel.Link
	done     []string // what was not as it should be
}

func (r *run) did(format string, args ...any) { r.done = append(r.done, fmt.Sprintf(format, args...)) }

// report logs what was changed, as somebody else's doing when nothing was due.
func (r *run) report(settled bool) {
	const most = 5
	if len(r.done) == 0 {
		return
	}
	what := r.done
	if len(what) > most {
		what = append(what[:most:most], fmt.Sprintf("and %d more", len(r.done)-most))
	}
	attrs := []any{"iface", r.device, "changes", strings.Join(what, ", ")}
	if settled {
		r.cfg.Log.Warn("VXLAN mended: someone had changed it", attrs...)
		return
	}
	r.cfg.Log.Info("VXLAN changed", attrs...)
}

// remove takes the device away when it is one of VXLAN: anything else is a stranger's.
func (r *run) remove() error {
	link, err := r.cfg.Kernel.LinkByName(r.device)
	if errors.Is(err, kernel.ErrNotFound) || err == nil && link.Kind != "vxlan" {
		return nil
	}
	if err == nil {
		err = r.cfg.Kernel.DeleteLink(link.Index)
	}
	if err != nil {
		return fmt.Errorf("remove VXLAN device %s: %w", r.device, err)
	}
	r.cfg.Log.Info("VXLAN device removed: no IP pool asks for it any more", "iface", r.device)
	return nil
}

// make returns the device's index once packets can go through it, whatever becomes of
// the rest: without it all routes into the tunnel are withdrawn.
func (r *run) make(tunnel overlay.Tunnel) (int, error) {
	if err := r.ensureDevice(tunnel.Here); err != nil {
		return 0, err
	}
	err := r.ensureForwarding()
	there, addressErr := tunneladdr.Ensure(r.cfg.Kernel, r.link, tunnel.Here.Tunnel, r.did)
	if err = errors.Join(err, addressErr); !there {
		return 0, err
	}
	if !r.link.Up {
		r.did("switched on")
		if upErr := r.cfg.Kernel.SetUp(r.link.Index); upErr != nil {
			return 0, errors.Join(err, r.portTaken(upErr))
		}
	}
	return r.link.Index, errors.Join(err, r.ensureFDB(tunnel.Peers), r.ensureNeighbours(tunnel.Peers))
}

func (r *run) ensureDevice(here overlay.End) (err error) {
	want := kernel.VxlanSpec{
		Name: r.device, MAC: kernel.MAC(here.MAC), MTU: r.cfg.MTU(r.v6),
		Vxlan: kernel.Vxlan{VNI: r.settings.VNI, Port: r.settings.Port, Local: here.Address.Addr()},
	}
	k := r.cfg.Kernel
	r.link, err = k.LinkByName(r.device)
	switch {
	case errors.Is(err, kernel.ErrNotFound):
		return r.create(want)
	case err != nil:
		return err
	case r.link.Kind != "vxlan":
		return fmt.Errorf("a device of that name is there which is none of VXLAN (%s); rename or remove it", or(r.link.Kind, "hardware"))
	}
	have, err := k.Vxlan(r.link.Index)
	if err != nil {
		return err
	}
	if have != want.Vxlan { // which a device keeps for life
		if err := k.DeleteLink(r.link.Index); err != nil {
			return err
		}
		return r.create(want)
	}
	if r.link.MTU != want.MTU {
		r.did("MTU %d instead of %d", want.MTU, r.link.MTU)
		if err := k.SetMTU(r.link.Index, want.MTU); err != nil {
			return err
		}
	}
	if r.link.MAC != want.MAC {
		r.did("MAC address %s instead of %s", want.MAC, r.link.MAC)
		return k.SetMAC(r.link.Index, want.MAC)
	}
	return nil
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func (r *run) create(want kernel.VxlanSpec) (err error) {
	r.did("made %s", want)
	r.link, err = r.cfg.Kernel.CreateVxlan(want)
	switch {
	case errors.Is(err, kernel.ErrNotSupported):
		return fmt.Errorf("%w: load its module (modprobe vxlan), or take a kernel that has it, or set vxlanMode: Never in the IP pools", err)
	case errors.Is(err, kernel.ErrExists):
		return fmt.Errorf("another VXLAN device has VNI %d on port %d already (ip -d link show type vxlan); remove it, "+
			"or set vxlanVNI or vxlanPort in the FelixConfiguration default: %w", want.VNI, want.Port, err)
	}
	return err
}

// portTaken says what to do when the port is another program's.
func (r *run) portTaken(err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	return fmt.Errorf("UDP port %d is taken by another program (ss -ulpn): end that, or set vxlanPort in the FelixConfiguration default: %w", r.settings.Port, err)
}

// ensureForwarding: IPv6 forwards by one switch for all devices, IPv4 by one for each.
func (r *run) ensureForwarding() error {
	if r.v6 {
		return nil
	}
	old, err := r.cfg.Kernel.SwapSysctls([]kernel.Setting{{Name: "ipv4/conf/" + r.device + "/forwarding", Value: "1"}})
	if len(old) > 0 {
		r.did("forwarding")
	}
	return err
}

// ensureFDB says where each other node is.
func (r *run) ensureFDB(peers []overlay.End) error {
	entries, err := r.cfg.Kernel.FDB(r.link.Index)
	if err != nil {
		return err
	}
	have, want := map[kernel.MAC]netip.Addr{}, map[kernel.MAC]netip.Addr{}
	for _, e := range entries {
		have[e.MAC] = e.Remote
	}
	for _, p := range peers {
		want[kernel.MAC(p.MAC)] = p.Address.Addr()
	}
	return settle(r, table[kernel.MAC, netip.Addr]{
		what: "fdb entry", want: want, have: have,
		set: func(mac kernel.MAC) kernel.Change {
			return kernel.FDBEntry{Link: r.link.Index, MAC: mac, Remote: want[mac]}
		},
		remove: func(mac kernel.MAC) error { return r.cfg.Kernel.DeleteFDB(r.link.Index, mac) },
	})
}

// ensureNeighbours says which node has which tunnel address. Permanent entries are
// never asked for, nor counted against the kernel's one table of 1,024.
func (r *run) ensureNeighbours(peers []overlay.End) error {
	entries, err := r.cfg.Kernel.Neighbours(r.link.Index)
	if err != nil {
		return err
	}
	have, want := map[netip.Addr]kernel.MAC{}, map[netip.Addr]kernel.MAC{}
	for _, n := range entries {
		have[n.IP] = n.MAC
	}
	for _, p := range peers {
		want[p.Tunnel] = kernel.MAC(p.MAC)
	}
	return settle(r, table[netip.Addr, kernel.MAC]{
		what: "neighbour", want: want, have: have,
		set: func(ip netip.Addr) kernel.Change {
			return kernel.Neighbour{Link: r.link.Index, IP: ip, MAC: want[ip]}
		},
		remove: func(ip netip.Addr) error { return r.cfg.Kernel.DeleteNeighbour(r.link.Index, ip) },
	})
}

// key is what a table of the device is kept by.
type key interface {
	comparable
	fmt.Stringer
}

// table is one of the device's.
type table[K key, V comparable] struct {
	what       string // one of its entries
	want, have map[K]V
	set        func(K) kernel.Change
	remove     func(K) error
}

// settle makes a table what it should be: what is missing or other in one go, what is
// too much one by one.
func settle[K key, V comparable](r *run, t table[K, V]) error {
	missing, extra := difference(t.want, t.have)
	changes := make([]kernel.Change, 0, len(missing))
	for _, k := range missing {
		changes = append(changes, t.set(k))
	}
	var errs []error
	for _, k := range extra {
		r.did("no %s %s", t.what, k)
		errs = append(errs, t.remove(k))
	}
	return errors.Join(append(errs, r.change(changes))...)
}

// change has the kernel work off changes, all at once.
func (r *run) change(changes []kernel.Change) error {
	for _, c := range changes {
		_, object := c.Subject()
		r.did("%s", object)
	}
	return errors.Join(r.cfg.Kernel.Apply(changes...)...)
}

// difference is what of want is missing or another in have, and what have has besides,
// in an order that is the same each time: an error in another order would be news.
func difference[K key, V comparable](want, have map[K]V) (missing, extra []K) {
	for k, v := range want {
		if got, there := have[k]; !there || got != v {
			missing = append(missing, k)
		}
	}
	for k := range have {
		if _, wanted := want[k]; !wanted {
			extra = append(extra, k)
		}
	}
	for _, keys := range [][]K{missing, extra} {
		slices.SortFunc(keys, func(a, b K) int { return cmp.Compare(a.String(), b.String()) })
	}
	return missing, extra
}
