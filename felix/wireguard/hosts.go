package wireguard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"tortie/felix/calc"
	"tortie/felix/hostways"
	"tortie/internal/overlay"
)

// Hosts leads what goes to other nodes' own addresses into the devices; *hostways.Ways
// does.
type Hosts interface {
	Set(v6 bool, ways []hostways.Way) (changed bool)
	Apply(ctx context.Context) error
	Abandon(ctx context.Context, lost func(netip.Addr) bool) error
}

// hosts is what is known of the peers of one version of IP, to whose own addresses
// packets go through the device.
type hosts struct {
	// met are the nodes that have answered since they are peers, so that they know this
	// one. Before, what is sent to them would wait for ever, and with it the datastore's
	// word about this node's key, if it comes from here. One that was met stays so as long as
	// it is a peer, and this node has the same key: nobody else can have packets go in clear.
	met map[string]bool
	// rekeyed is when this node's key was another last, as far as is known.
	rekeyed time.Time
	// have is the device as it was read last.
	have *wgtypes.Device
}

// ways are those of one version of IP; waits: there may be more soon.
func (e *tunnel) ways(ready func(netip.Addr) bool, lost map[overlay.Key]bool) (ways []hostways.Way, waits bool) {
	if e.desired == nil || e.link == 0 {
		clear(e.hosts.met)
		return nil, false
	}
	own, met := e.desired.Here.Address.Addr(), map[string]bool{}
	handshakes := handshakesOf(e.hosts.have)
	for _, p := range e.desired.Peers {
		to := p.End.Address.Addr()
		if !slices.Contains(p.Allowed, netip.PrefixFrom(to, to.BitLen())) {
			continue
		}
		met[p.Node] = e.hosts.met[p.Node] || handshakes[p.End.Secure.Key].After(e.hosts.rekeyed)
		if !met[p.Node] || lost[p.End.Secure.Key] || !ready(to) {
			waits = true
			continue
		}
		ways = append(ways, hostways.Way{To: to, From: own, Link: e.link})
	}
	e.hosts.met = met
	return ways, waits
}

func handshakesOf(d *wgtypes.Device) map[overlay.Key]time.Time {
	out := map[overlay.Key]time.Time{}
	if d != nil {
		for _, p := range d.Peers {
			out[overlay.Key(p.PublicKey)] = p.LastHandshakeTime
		}
	}
	return out
}

// The pauses between two looks at whether peers have answered.
const (
	firstHostLook   = 20 * time.Millisecond
	longestHostLook = 10 * time.Second
)

// leadHosts is called with mu held, when the devices are as they should be.
func (t *Tunnels) leadHosts(ctx context.Context) error {
	if t.cfg.Hosts == nil {
		return nil
	}
	waits := false
	for v6, end := range t.ends {
		var ways []hostways.Way
		if t.settings.Hosts {
			led, more := end.ways(t.cfg.Ready, t.lost)
			ways, waits = led, waits || more
		}
		t.cfg.Hosts.Set(v6, ways)
	}
	if t.hostLook != nil {
		t.hostLook.Stop()
		t.hostLook = nil
	}
	if waits {
		t.hostPause = min(max(2*t.hostPause, firstHostLook), longestHostLook)
		t.hostLook = time.AfterFunc(t.hostPause, t.lookAtHosts)
	}
	return t.cfg.Hosts.Apply(ctx)
}

// lookAtHosts sees whether peers have answered. It is no turn of the dataplane's: one
// reads each rule and route of the node.
func (t *Tunnels) lookAtHosts() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for v6, end := range t.ends {
		if name, _ := t.settings.of(v6); end.link != 0 {
			end.hosts.have, _ = t.readDevice(name) // else the next look does
		}
	}
	if err := t.leadHosts(context.Background()); err != nil {
		t.cfg.Wake() // who says what is wrong
	}
}

func (t *Tunnels) readDevice(name string) (*wgtypes.Device, error) {
	control, err := t.cfg.Open()
	if err != nil {
		return nil, err
	}
	defer control.Close() //nolint:errcheck // nothing is written by it
	return control.Device(name)
}

// rekeyed is how old a session gets that is used, at most: the protocol's Rekey-After-Time.
// doubt is how long a peer has to answer when it is asked.
const (
	rekeyed = 120 * time.Second
	doubt   = 10 * time.Second
)

// Lost says, again and again, that the datastore can't be reached. Packets to a node that
// has no session with this one any more, and gets none, then go in clear: it may be the
// one with the datastore, and have another key by now, which only the datastore can tell.
// Each peer whose session is old is asked for a new one first. It needs neither Set nor
// Apply: so can a felix that starts.
func (t *Tunnels) Lost(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cfg.Hosts == nil {
		return nil
	}
	var errs []error
	addresses := map[netip.Addr]bool{}
	for _, name := range t.cfg.Keys.Devices() {
		device, err := t.readDevice(name)
		if err != nil {
			continue // it is not there
		}
		errs = append(errs, t.ask(device, time.Now()))
		for _, p := range device.Peers {
			for _, n := range p.AllowedIPs {
				if a, _ := netip.AddrFromSlice(n.IP); t.lost[overlay.Key(p.PublicKey)] {
					addresses[a.Unmap()] = true
				}
			}
		}
	}
	if len(t.lost) == 0 {
		return errors.Join(errs...)
	}
	if t.applied {
		errs = append(errs, t.leadHosts(ctx))
	}
	return errors.Join(append(errs, t.cfg.Hosts.Abandon(ctx, func(a netip.Addr) bool { return addresses[a] }))...)
}

// ask notes who is lost, and asks all with an old session for a new one.
func (t *Tunnels) ask(device *wgtypes.Device, now time.Time) error {
	var old []wgtypes.Key
	for _, p := range device.Peers {
		key := overlay.Key(p.PublicKey)
		age := now.Sub(p.LastHandshakeTime)
		if age <= rekeyed {
			delete(t.doubted, key)
			delete(t.lost, key)
			continue
		}
		old = append(old, p.PublicKey)
		if t.doubted[key].IsZero() {
			t.doubted[key] = now
		}
		if age > alive && now.Sub(t.doubted[key]) >= doubt {
			t.lost[key] = true
		}
	}
	if len(old) == 0 {
		return nil
	}
	control, err := t.cfg.Open()
	if err != nil {
		return fmt.Errorf("ask the peers of %s: %w", device.Name, err)
	}
	defer control.Close() //nolint:errcheck // ConfigureDevice has said what failed
	r := run{cfg: t.cfg, settings: t.settings, device: device.Name}
	r.link.Up = true
	return r.nudge(control, old)
}

// Found says that the datastore can be reached again.
func (t *Tunnels) Found() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lost) > 0 {
		t.cfg.Wake()
	}
	clear(t.lost)
	clear(t.doubted)
}

// Unmet are the nodes whose own addresses are not reached through the devices though they
// are to be, by name.
func (t *Tunnels) Unmet() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for _, end := range t.ends {
		if !t.settings.Hosts || end.desired == nil || end.link == 0 {
			continue
		}
		for _, p := range end.desired.Peers {
			if !end.hosts.met[p.Node] || t.lost[p.End.Secure.Key] {
				out = append(out, p.Node)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Devices are those that are up, as they are.
func (t *Tunnels) Devices() []*wgtypes.Device {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*wgtypes.Device
	for _, v6 := range []bool{false, true} {
		name, _ := t.settings.of(v6)
		if t.ends[v6].link == 0 {
			continue
		}
		if d, err := t.readDevice(name); err == nil {
			out = append(out, d)
		}
	}
	return out
}

// State is what the marks of the packets are made from: whose own addresses may be led
// into the devices. The peers are those of a State, own what the peers take from it.
func (s Settings) State(secure []calc.SecureTunnel, pods []netip.Prefix) hostways.State {
	out := hostways.State{Device4: s.Name4, Device6: s.Name6, Port4: s.Port4, Port6: s.Port6}
	if !s.Hosts || len(secure) == 0 {
		return out
	}
	out.Own = slices.Clone(pods)
	for _, t := range secure {
		for _, a := range []netip.Addr{t.Here.Address.Addr(), t.Here.Secure.Tunnel} {
			out.Own = append(out.Own, netip.PrefixFrom(a, a.BitLen()))
		}
		for _, p := range t.Peers {
			out.Peers = append(out.Peers, p.End.Address.Addr())
		}
	}
	return out
}
