// Package wireguard reconciles this node's WireGuard devices, one for each version of
// IP: the device, its key, port, address and MTU, and a peer for every other node that
// has published a key. A peer sends what is that node's and nothing else. Where the
// kernel has no WireGuard, package userspace stands in; both are configured alike.
package wireguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"tortie/felix/calc"
	"tortie/felix/tunneladdr"
	"tortie/internal/felixsetting"
	"tortie/internal/kernel"
	"tortie/internal/overlay"
)

// Kernel is what the Tunnels see of the node; *kernel.Handle has it all.
type Kernel interface {
	tunneladdr.Kernel
	LinkByName(name string) (kernel.Link, error)
	CreateDevice(name, kind string) (kernel.Link, error)
	DeleteLink(index int) error
	SetMTU(index, mtu int) error
	SetUp(index int) error
	SetDown(index int) error
	SwapSysctls(settings []kernel.Setting) (old []kernel.Setting, err error)
}

// Control reads and configures WireGuard devices; *wgctrl.Client is one.
type Control interface {
	Device(name string) (*wgtypes.Device, error)
	ConfigureDevice(name string, cfg wgtypes.Config) error
	Close() error
}

// Config is what Tunnels work with; all of it is required.
type Config struct {
	Kernel Kernel
	Keys   *Keys
	// Open makes a Control for the node's network namespace. One that was made before a
	// kernel's first device does not know of it.
	Open func() (Control, error)
	// Userspace starts the process that stands in for the kernel.
	Userspace func(name string, mtu int) error
	// MTU is that of the device of one version of IP.
	MTU func(v6 bool) int
	// Listen is nil when the UDP port could be had now; nil: it is not asked.
	Listen func(port uint16) error
	// Wake has Apply called soon.
	Wake func()
	// Hosts is told which nodes' own addresses are reached through the devices, those that
	// Ready says yes of; nil: none.
	Hosts Hosts
	Ready func(netip.Addr) bool
	Log   *slog.Logger
}

// Settings are what all nodes of a cluster agree on.
type Settings struct {
	Name4, Name6 string
	Port4, Port6 uint16
	KeepAlive    time.Duration // 0 for none
	Hosts        bool          // what goes to nodes' own addresses is encrypted, too
}

func (s Settings) of(v6 bool) (name string, port uint16) {
	if v6 {
		return s.Name6, s.Port6
	}
	return s.Name4, s.Port4
}

func (s *Settings) rename(v6 bool, name string) {
	if v6 {
		s.Name6 = name
	} else {
		s.Name4 = name
	}
}

// What WireGuard adds to a packet, at most: the outer headers of IP and UDP, and its own.
const (
	Overhead4 = 60
	Overhead6 = 80
)

// linger is how long this node receives from one that does not send to it any more, and
// has a device that nothing asks for: a node that is slow to hear of it still sends.
const linger = 30 * time.Second

// Tunnels are the devices as they should be and as they are. The methods may be
// called from any goroutine; while Apply runs the others wait.
type Tunnels struct {
	cfg Config

	mu sync.Mutex
	// settings are as asked but for names that are those of strangers' devices.
	settings, asked Settings
	ends            map[bool]*tunnel // by: is it IPv6
	// former are names of devices that the settings say no more; ending those of which a
	// process is still to end, and since when.
	former []string
	ending map[string]time.Time
	// settled: the last Apply made the kernel as desired, so that a difference found
	// later is somebody else's doing.
	settled bool
	// look has Apply called when a peer is late.
	look *time.Timer
	// hostLook is when it is looked next whether peers have answered, hostPause after the
	// last time.
	hostLook  *time.Timer
	hostPause time.Duration
	// doubted are peers that are asked for a new session while the datastore can't be
	// reached, and since when; lost those that gave none. applied: Set counts by now.
	doubted map[overlay.Key]time.Time
	lost    map[overlay.Key]bool
	applied bool
}

// New makes Tunnels that want nothing. Nothing is read or written before Apply.
func New(cfg Config) *Tunnels {
	t := &Tunnels{cfg: cfg, ends: map[bool]*tunnel{}, ending: map[string]time.Time{}, doubted: map[overlay.Key]time.Time{}, lost: map[overlay.Key]bool{}}
	for _, v6 := range []bool{false, true} {
		t.ends[v6] = &tunnel{left: map[overlay.Key]leaving{}, endpoints: map[overlay.Key]netip.AddrPort{}, greetings: greetings{}}
	}
	return t
}

// Configure has the devices made with these settings from the next Apply on.
func (t *Tunnels) Configure(s Settings) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settled = t.settled && t.asked == s
	t.hostPause = 0
	t.asked = s
	_ = t.takeNames() // Apply does it again, and says it
}

// takeNames makes the settings those asked for. Where a stranger's device has a name, the
// former one goes on, or at the start the default.
func (t *Tunnels) takeNames() error {
	var errs []error
	s := t.asked
	for _, v6 := range []bool{false, true} {
		was, _ := t.settings.of(v6)
		now, _ := s.of(v6)
		if was == now {
			continue
		}
		if l, err := t.cfg.Kernel.LinkByName(now); err == nil && !Ours(l) {
			if was == "" {
				was = defaultName(v6)
			}
			errs = append(errs, fmt.Errorf("%s %q is the name of a device that is not felix' (%s): set another in the FelixConfiguration; meanwhile it is %s", nameField(v6), now, or(l.Kind, "hardware"), was))
			s.rename(v6, was)
		} else if was != "" {
			t.former = append(t.former, was)
		}
	}
	t.settings = s
	return errors.Join(errs...)
}

// Settings are those that hold.
func (t *Tunnels) Settings() Settings {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.settings
}

func defaultName(v6 bool) string {
	if v6 {
		return felixsetting.DefaultWireguardName6
	}
	return felixsetting.DefaultWireguardName4
}

func nameField(v6 bool) string {
	if v6 {
		return "wireguardInterfaceNameV6"
	}
	return "wireguardInterfaceName"
}

// Set makes exactly these tunnels desired. What is desired no more lingers.
func (t *Tunnels) Set(tunnels []calc.SecureTunnel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settled, t.hostPause = false, 0
	now := time.Now()
	waits := false
	for v6, end := range t.ends {
		var want *calc.SecureTunnel
		for i := range tunnels {
			if tunnels[i].Here.Address.Addr().Is6() == v6 {
				want = &tunnels[i]
			}
		}
		waits = end.set(want, now) || waits
	}
	if waits {
		time.AfterFunc(linger+time.Second, t.cfg.Wake)
	}
}

// Prepare makes the device of a version of IP that is about to be published, unless
// there is one. It stays until Set names that version, or Forget.
func (t *Tunnels) Prepare(ctx context.Context, tunnel netip.Addr) error {
	t.mu.Lock()
	t.ends[tunnel.Is6()].prepared = tunnel
	t.settled = false
	t.mu.Unlock()
	return t.Apply(ctx)
}

// Forget undoes a Prepare, as of the next Apply.
func (t *Tunnels) Forget(v6 bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ends[v6].prepared = netip.Addr{}
}

// Rekeyed has the devices take the keys as they are now.
func (t *Tunnels) Rekeyed(ctx context.Context) error {
	t.mu.Lock()
	t.settled = false
	t.mu.Unlock()
	return t.Apply(ctx)
}

// Link is the device for addresses of a version, and false when there is none that
// packets could go through.
func (t *Tunnels) Link(v6 bool) (int, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	index := t.ends[v6].link
	return index, index != 0
}

// Unready are the destinations at peers that are new, and have yet to answer: for a moment
// they are better reached by another way, if there is one. It is never long (holding), for
// whoever keeps two nodes from their handshake must not have their packets in clear.
func (t *Tunnels) Unready() map[netip.Prefix]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	out, now := map[netip.Prefix]bool{}, time.Now()
	for _, end := range t.ends {
		if end.desired == nil || len(end.greetings) == 0 {
			continue
		}
		for _, p := range end.desired.Peers {
			if a := end.greetings[p.End.Secure.Key]; a != nil && a.held(now) {
				for _, dst := range p.Allowed {
					out[dst] = true
				}
			}
		}
	}
	return out
}

// Owns reports whether a link is one of them.
func (t *Tunnels) Owns(l kernel.Link) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Ours(l) && (l.Name == t.settings.Name4 || l.Name == t.settings.Name6)
}

// Apply reads the kernel and makes it as desired. What fails in one version of IP
// does not hold up the other; all of it can be repeated.
func (t *Tunnels) Apply(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	// First, for they have the ports.
	errs := []error{t.takeNames(), t.removeFormer()}
	if t.awaitEnds() {
		return errors.Join(errs...)
	}
	t.applied = true
	greeting := false
	for _, v6 := range []bool{false, true} {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		name, port := t.settings.of(v6)
		if name == "" {
			continue // not configured yet
		}
		end := t.ends[v6]
		r := run{cfg: t.cfg, settings: t.settings, v6: v6, device: name, port: port, sibling: t.sibling(v6), endpoints: end.endpoints, greetings: end.greetings}
		want := end.now(time.Now())
		if want == nil {
			end.link = 0
			errs = append(errs, r.remove("nothing asks for it any more"))
			continue
		}
		index, err := r.make(want)
		end.hosts.have = r.have
		if !r.rekeyed.IsZero() {
			end.hosts.rekeyed = r.rekeyed
			clear(end.hosts.met)
		}
		if end.link = index; err != nil {
			err = fmt.Errorf("WireGuard device %s: %w", name, err)
		}
		errs = append(errs, err)
		r.report(t.settled)
		greeting = greeting || index != 0 && !r.link.Up
	}
	if greeting {
		time.AfterFunc(time.Second, t.cfg.Wake)
	}
	waits := t.lookAgain()
	errs = append(errs, t.leadHosts(ctx))
	err := errors.Join(errs...)
	t.settled = err == nil && !greeting && !waits
	return err
}

// sibling is the device of the other version of IP, and the port that it has; 0 for none.
func (t *Tunnels) sibling(v6 bool) func() (name string, port uint16) {
	return func() (string, uint16) {
		name, _ := t.settings.of(!v6)
		if d, err := t.readDevice(name); err == nil {
			return name, uint16(d.ListenPort)
		}
		return name, 0
	}
}

// lookAgain has Apply called when a greeted peer is late, and reports whether there is one
// that may be.
func (t *Tunnels) lookAgain() bool {
	var next time.Time
	now := time.Now()
	for _, end := range t.ends {
		if at, some := end.greetings.next(now); some && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if t.look != nil {
		t.look.Stop()
		t.look = nil
	}
	if !next.IsZero() {
		t.look = time.AfterFunc(time.Until(next), t.cfg.Wake)
	}
	return !next.IsZero()
}

// removeFormer takes away devices under names that are not theirs any more.
func (t *Tunnels) removeFormer() error {
	var errs []error
	var left []string
	for _, name := range t.former {
		if name == t.settings.Name4 || name == t.settings.Name6 {
			continue
		}
		r := run{cfg: t.cfg, device: name}
		link, _ := t.cfg.Kernel.LinkByName(name)
		if err := r.remove("it has another name now"); err != nil {
			errs, left = append(errs, err), append(left, name)
			continue
		}
		for _, end := range t.ends {
			if link.Index != 0 && end.link == link.Index {
				end.link = 0
			}
		}
		if link.Kind == "tun" {
			t.ending[name] = time.Now()
		}
	}
	t.former = left
	return errors.Join(errs...)
}

// awaitEnds reports whether the process of a device that is gone has yet to end, and give
// its port back, and has Apply called again. One that takes longer is met as a port that
// is taken.
func (t *Tunnels) awaitEnds() bool {
	const patience, pause = time.Second, 20 * time.Millisecond
	for name, since := range t.ending {
		if _, err := t.readDevice(name); gone(err) || time.Since(since) >= patience {
			delete(t.ending, name)
		}
	}
	if len(t.ending) > 0 {
		time.AfterFunc(pause, t.cfg.Wake)
	}
	return len(t.ending) > 0
}

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
		r.cfg.Log.Warn("a WireGuard device was mended: someone had changed it", attrs...)
		return
	}
	r.cfg.Log.Info("a WireGuard device was changed", attrs...)
}
