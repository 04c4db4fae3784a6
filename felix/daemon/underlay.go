package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"sync"
	"time"

	"tortie/felix/calc"
	"tortie/felix/config"
	"tortie/felix/ipip"
	"tortie/felix/podnet"
	"tortie/felix/problems"
	"tortie/felix/wireguard"
	"tortie/internal/kernel"
	"tortie/internal/overlay"
)

// defaultMTU is what a pod gets while the node's own device is not known.
const defaultMTU = 1500

// underlayRefresh is how often the devices are looked at again, whatever was told of them.
const underlayRefresh = 30 * time.Second

// underlayGather is how long events are gathered before the devices are looked at: where
// containers of another network come and go each brings several, and all addresses and
// devices are read on the socket that ADD needs.
const underlayGather = 100 * time.Millisecond

// links is what underlay asks of the kernel; *kernel.Handle has it.
type links interface {
	Links() ([]kernel.Link, error)
	Addresses(link int) ([]kernel.Address, error)
	SubscribeExcept(ctx context.Context, topics kernel.Topics, ignore kernel.Ignore) (<-chan kernel.Event, error)
}

// What VXLAN adds to a packet: the outer headers of IP and UDP, its own, and the inner
// one of Ethernet.
const (
	overhead4 = 50
	overhead6 = 70
)

// device is that of an overlay in one version of IP: how large its MTU should be, under
// which name, and what it adds to a packet.
type device struct {
	parameter       string
	by              overlay.Carrier
	given, overhead int
}

// underlay knows the MTU that pods may use: the least of the devices that carry
// the node's own addresses, less what the overlays in use add.
type underlay struct {
	kernel links
	log    *slog.Logger
	file   string // where others read the pods' MTU; empty for nowhere
	// changed is called when a device of an overlay is to have another MTU.
	changed func()

	reading sync.Mutex // an older look never counts after a newer one

	mu       sync.Mutex
	measures measures
	addrs    []netip.Prefix
	told     int   // the MTU of pods that was last published
	failed   error // why the file could not be written
}

// measures is all that the MTUs follow from.
type measures struct {
	settings config.MTU
	vxlan    config.VXLAN
	ipip     config.IPIP
	secure   config.Wireguard
	// device is the one with the least MTU of those that count; its MTU is 0 while it is not known.
	device kernel.Link
	// noMatch: no device is as the settings have it, so the node's own count.
	noMatch bool
	// used: which overlays pods' packets may meet.
	used4, used6, usedIPIP, secure4, secure6 bool
}

func (m measures) underlay() int {
	if m.device.MTU != 0 {
		return m.device.MTU
	}
	return defaultMTU
}

// pods is the MTU of new pods.
func (m measures) pods() int {
	mtu := m.underlay()
	if m.used4 {
		mtu = min(mtu, m.tunnel(false))
	}
	if m.used6 {
		mtu = min(mtu, m.tunnel(true))
	}
	if m.usedIPIP {
		mtu = min(mtu, m.ipipTunnel())
	}
	if m.secure4 {
		mtu = min(mtu, m.secureTunnel(false))
	}
	if m.secure6 {
		mtu = min(mtu, m.secureTunnel(true))
	}
	return mtu
}

// devices are those of all overlays.
func (m measures) devices() (vxlan4, vxlan6, ipips device) {
	return device{"vxlanMTU", overlay.VXLAN, m.vxlan.MTU4, overhead4}, device{"vxlanMTUV6", overlay.VXLAN, m.vxlan.MTU6, overhead6},
		device{"ipipMTU", overlay.IPIP, m.ipip.MTU, ipip.Overhead}
}

// tunnel is the MTU of a VXLAN device.
func (m measures) tunnel(v6 bool) int {
	v4, other, _ := m.devices()
	if v6 {
		return m.of(other)
	}
	return m.of(v4)
}

// ipipTunnel is the MTU of the IPIP device.
func (m measures) ipipTunnel() int {
	_, _, d := m.devices()
	return m.of(d)
}

// secures are the devices of WireGuard.
func (m measures) secures() (v4, v6 device) {
	return device{"wireguardMTU", overlay.WireGuard, m.secure.MTU4, wireguard.Overhead4}, device{"wireguardMTUV6", overlay.WireGuard, m.secure.MTU6, wireguard.Overhead6}
}

// secureTunnel is the MTU of a WireGuard device.
func (m measures) secureTunnel(v6 bool) int {
	v4, other := m.secures()
	if v6 {
		return m.of(other)
	}
	return m.of(v4)
}

// of is the MTU of an overlay's device: as configured, unless that is more than the
// underlay lets through whole.
func (m measures) of(d device) int {
	fits := m.underlay() - d.overhead
	if d.given != 0 && (d.given < fits || m.device.MTU == 0) {
		return d.given
	}
	return fits
}

// problems are settings that can't be as the operator has them.
func (m measures) problems() []problems.Problem {
	var out []problems.Problem
	v4, v6, ipips := m.devices()
	secure4, secure6 := m.secures()
	for _, d := range []device{v4, v6, ipips, secure4, secure6} {
		if fits := m.device.MTU - d.overhead; m.device.MTU != 0 && d.given > fits {
			out = append(out, problems.Problem{Reason: reasonMTU, Topic: d.parameter, Line: fmt.Sprintf(
				"%s %d is more than the node's device %s carries whole (MTU %d, less %d for %s): %d is used; lower it to that, or leave it out",
				d.parameter, d.given, m.device.Name, m.device.MTU, d.overhead, d.by, fits)})
		}
	}
	if m.noMatch {
		out = append(out, problems.Problem{Reason: reasonMTU, Topic: "mtuIfacePattern", Line: fmt.Sprintf(
			"mtuIfacePattern %q matches no device of this node that is up: the MTU of pods is that of the device with the node's address", m.settings.Pattern)})
	}
	return out
}

// podProblems are MTUs with which pods' packets get lost, or that not all pods can have.
// asked are those of network configurations, by network; v6: pods have IPv6 addresses.
func (m measures) podProblems(asked map[string]int, v6 bool) []problems.Problem {
	var out []problems.Problem
	say := func(topic, format string, args ...any) {
		out = append(out, problems.Problem{Reason: reasonMTU, Topic: topic, Line: fmt.Sprintf(format, args...)})
	}
	const little = "is less than the %d that IPv6 needs (RFC 8200, section 5): pods with an IPv6 address have %[2]d, and their larger packets may get lost where this is all that goes through: %s"
	if mtu := m.pods(); v6 && m.device.MTU != 0 && mtu < podnet.LeastMTU6 {
		source, advice := fmt.Sprintf("the MTU of pods, %d by that of the device %s,", mtu, m.device.Name), "raise the device's"
		if d := m.configured(mtu); d != "" {
			source, advice = fmt.Sprintf("%s %d", d, mtu), "raise it, or leave it out"
		}
		say("ipv6", "%s "+little, source, podnet.LeastMTU6, advice)
	}
	for _, network := range slices.Sorted(maps.Keys(asked)) {
		switch mtu, fits := asked[network], m.pods(); {
		case v6 && mtu < podnet.LeastMTU6:
			say("network "+network, "%s "+little, fmt.Sprintf("mtu %d of the network configuration %s", mtu, network), podnet.LeastMTU6, "raise it, or leave it out")
		case m.device.MTU != 0 && mtu > fits && mtu <= m.device.MTU:
			say("network "+network, "mtu %d of the network configuration %s is more than the %d that goes through the overlays in use on this node: larger packets between nodes get lost when they may not be broken up; lower it to that, or leave it out and felix finds it", mtu, network, fits)
		}
	}
	return out
}

// configured is the parameter by which the MTU of pods is what it is; empty for none.
func (m measures) configured(mtu int) string {
	v4, v6, ipips := m.devices()
	secure4, secure6 := m.secures()
	for d, used := range map[device]bool{v4: m.used4, v6: m.used6, ipips: m.usedIPIP, secure4: m.secure4, secure6: m.secure6} {
		if used && d.given == mtu {
			return d.parameter
		}
	}
	return ""
}

// MTU is the one for pods.
func (u *underlay) MTU() int { return u.now().pods() }

func (u *underlay) now() measures {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.measures
}

// tunnelMTU is that of a VXLAN device.
func (u *underlay) tunnelMTU(v6 bool) int { return u.now().tunnel(v6) }

// ipipMTU is that of the IPIP device.
func (u *underlay) ipipMTU() int { return u.now().ipipTunnel() }

// secureMTU is that of a WireGuard device.
func (u *underlay) secureMTU(v6 bool) int { return u.now().secureTunnel(v6) }

// limit is the MTU with which a pod's packets can still leave the node in one piece, and
// false while that is not known.
func (u *underlay) limit() (most int, device string, known bool) {
	m := u.now()
	return m.device.MTU, m.device.Name, m.device.MTU != 0
}

func (u *underlay) problems() []problems.Problem {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := u.measures.problems()
	if u.failed != nil && u.measures.settings.RequireFile {
		out = append(out, problems.Problem{Reason: reasonMTU, Topic: "file", Line: u.failed.Error()})
	}
	return out
}

// ready: who demands the file waits for it.
func (u *underlay) ready() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.measures.settings.RequireFile {
		return u.failed
	}
	return nil
}

// configure tells what the operator has chosen.
func (u *underlay) configure(vxlan config.VXLAN, ipip config.IPIP, secure config.Wireguard, mtu config.MTU) {
	u.change(func(m *measures) { m.vxlan, m.ipip, m.secure, m.settings = vxlan, ipip, secure, mtu })
	u.refresh()
}

// set tells the node's addresses as the datastore has them, and from which pools it
// has tunnels.
func (u *underlay) set(addrs []netip.Prefix, tunnels []calc.TunnelPool) {
	u.mu.Lock()
	same := slices.Equal(u.addrs, addrs)
	u.addrs = addrs
	u.mu.Unlock()
	u.change(func(m *measures) {
		m.used4 = slices.ContainsFunc(tunnels, func(p calc.TunnelPool) bool { return p.By == overlay.VXLAN && p.Prefix.Addr().Is4() })
		m.used6 = slices.ContainsFunc(tunnels, func(p calc.TunnelPool) bool { return p.By == overlay.VXLAN && p.Prefix.Addr().Is6() })
		m.usedIPIP = slices.ContainsFunc(tunnels, func(p calc.TunnelPool) bool { return p.By == overlay.IPIP })
		m.secure4 = slices.ContainsFunc(tunnels, func(p calc.TunnelPool) bool { return p.By == overlay.WireGuard && p.Prefix.Addr().Is4() })
		m.secure6 = slices.ContainsFunc(tunnels, func(p calc.TunnelPool) bool { return p.By == overlay.WireGuard && p.Prefix.Addr().Is6() })
	})
	if !same {
		u.refresh()
	}
}

// refresh reads the devices.
func (u *underlay) refresh() {
	u.reading.Lock()
	defer u.reading.Unlock()
	held, err := u.kernel.Addresses(0)
	if err != nil {
		u.log.Warn("reading the node's addresses failed; pods keep the MTU known so far", "mtu", u.MTU(), "err", err)
		return
	}
	all, err := u.kernel.Links()
	if err != nil {
		u.log.Warn("reading the node's devices failed; pods keep the MTU known so far", "mtu", u.MTU(), "err", err)
		return
	}
	u.mu.Lock()
	addrs := u.addrs
	u.mu.Unlock()
	u.change(func(m *measures) {
		found := matching(all, m.settings.Pattern)
		m.noMatch = m.settings.Pattern != "" && found.MTU == 0
		if found.MTU == 0 {
			found = carrying(all, held, addrs)
		}
		if found.MTU != 0 {
			m.device = found
		}
	})
}

// change takes in what is new, and tells whom it concerns what comes of it.
func (u *underlay) change(apply func(*measures)) {
	u.mu.Lock()
	before := u.measures
	apply(&u.measures)
	now := u.measures
	publish := now.device.MTU != 0 && (u.told != now.pods() || u.failed != nil)
	if publish {
		u.publish(now)
	}
	u.mu.Unlock()
	if u.changed != nil && (before.tunnel(false) != now.tunnel(false) || before.tunnel(true) != now.tunnel(true) || before.ipipTunnel() != now.ipipTunnel() ||
		before.secureTunnel(false) != now.secureTunnel(false) || before.secureTunnel(true) != now.secureTunnel(true)) {
		u.changed()
	}
}

// publish is called with the lock held.
func (u *underlay) publish(now measures) {
	if mtu := now.pods(); mtu != u.told {
		u.log.Info("MTU of new pods", "mtu", mtu, "device", now.device.Name, "mtu-of-device", now.device.MTU)
		u.told = mtu
	}
	if u.file == "" {
		return
	}
	failed := writeMTU(u.file, u.told)
	if failed != nil && u.failed == nil {
		u.log.Warn("other programs won't learn the MTU of pods", "err", failed)
	}
	u.failed = failed
}

// matching is the device with the least MTU of those that are up and have such a name;
// MTU 0 for none, and without a pattern.
func matching(all []kernel.Link, pattern string) (least kernel.Link) {
	re, err := regexp.Compile(pattern)
	if err != nil || pattern == "" {
		return least
	}
	for _, l := range all {
		if l.Up && re.MatchString(l.Name) && (least.MTU == 0 || l.MTU < least.MTU) {
			least = l
		}
	}
	return least
}

// carrying is the device with the least MTU of those that have one of the node's
// addresses; MTU 0 for none.
func carrying(all []kernel.Link, held []kernel.Address, node []netip.Prefix) (least kernel.Link) {
	for _, a := range held {
		if !slices.ContainsFunc(node, func(p netip.Prefix) bool { return p.Addr() == a.Prefix.Addr() }) {
			continue
		}
		for _, l := range all {
			if l.Index == a.Link && (least.MTU == 0 || l.MTU < least.MTU) {
				least = l
			}
		}
	}
	return least
}

// run follows changes of the devices until ctx ends.
func (u *underlay) run(ctx context.Context) error {
	ticker := time.NewTicker(underlayRefresh) // the edge: run is the waiting alone
	defer ticker.Stop()
	var events <-chan kernel.Event
	var due <-chan time.Time
	for {
		if events == nil { // or the kernel has ended it
			events, _ = u.kernel.SubscribeExcept(ctx, kernel.LinkEvents|kernel.AddressEvents, kernel.Pods()) // else the ticker does
		}
		select {
		case _, more := <-events:
			if more {
				if due == nil {
					due = time.After(underlayGather)
				}
				continue
			}
			events = nil
			if !u.wait(ctx, ticker) {
				return nil
			}
		case <-due:
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		due = nil
		u.refresh()
	}
}

// wait keeps a kernel that says nothing from being asked all the time.
func (*underlay) wait(ctx context.Context, ticker *time.Ticker) bool {
	select {
	case <-ticker.C:
		return true
	case <-ctx.Done():
		return false
	}
}
