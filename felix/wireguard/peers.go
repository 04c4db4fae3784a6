package wireguard

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"tortie/felix/calc"
	"tortie/internal/kernel"
	"tortie/internal/overlay"
)

// alive is for how long after a handshake a peer's session lasts: the protocol's
// Reject-After-Time. Where such a peer sends from is where it is.
const alive = 180 * time.Second

// configure makes the key, the port and the peers of the device what they should be,
// in one request that names the differences alone.
func (r *run) configure(peers []calc.SecurePeer) error {
	key, err := r.cfg.Keys.Current(r.v6, time.Now())
	if err != nil {
		return err
	}
	control, err := r.cfg.Open()
	if err != nil {
		return fmt.Errorf("open the control of WireGuard: %w", err)
	}
	defer control.Close() //nolint:errcheck // nothing is written by it
	have, err := control.Device(r.device)
	if gone(err) {
		// Made anew by the next Apply, with whom to talk to.
		return fmt.Errorf("nobody answers for it (its process has ended, or its socket is gone): it is made anew: %w", firstError(r.cfg.Kernel.DeleteLink(r.link.Index), err))
	}
	if err != nil {
		return fmt.Errorf("read it: %w", err)
	}
	if r.link.Up && have.ListenPort == 0 {
		// Its process could not take the port when it was switched on. Nobody else tells.
		return r.portTaken(errors.Join(syscall.EADDRINUSE, r.cfg.Kernel.SetDown(r.link.Index)))
	}
	r.have = have
	now := time.Now()
	cfg, nudge := r.difference(have, key, peers, now)
	if err := r.write(control, cfg); err != nil {
		return err
	}
	return errors.Join(r.stays, r.nudge(control, nudge))
}

// mayListen reports whether the device can go over to its port. A process closes the
// socket that it has before it opens another: one whose port is taken would have none.
func (r *run) mayListen(have int) bool {
	if have == 0 || !r.link.Up || r.cfg.Listen == nil {
		return true
	}
	if err := r.cfg.Listen(r.port); err != nil {
		r.stays = fmt.Errorf("%w; meanwhile it is %d", r.portTaken(err), have)
		return false
	}
	return true
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *run) write(control Control, cfg wgtypes.Config) error {
	if cfg.PrivateKey == nil && cfg.ListenPort == nil && cfg.FirewallMark == nil && len(cfg.Peers) == 0 {
		return nil
	}
	if err := control.ConfigureDevice(r.device, cfg); err != nil {
		return r.portTaken(fmt.Errorf("configure it: %w", err))
	}
	for _, p := range cfg.Peers {
		if p.Endpoint != nil {
			r.endpoints[overlay.Key(p.PublicKey)] = p.Endpoint.AddrPort()
		}
	}
	return nil
}

// difference is what is to be configured, and the peers that are to be greeted: both
// ends make a session at once when they know each other, so that whoever sent before
// the other knew is heard, and nothing waits for the protocol's next try.
func (r *run) difference(have *wgtypes.Device, key Private, peers []calc.SecurePeer, now time.Time) (cfg wgtypes.Config, nudge []wgtypes.Key) {
	own := key.Public()
	rekeyed := Private(have.PrivateKey) != key
	if rekeyed {
		r.rekeyed = now
		private := wgtypes.Key(key)
		cfg.PrivateKey = &private
		r.did("key %s", own)
	}
	if port := int(r.port); have.ListenPort != port && r.mayListen(have.ListenPort) {
		cfg.ListenPort = &port
		r.did("port %d instead of %d", port, have.ListenPort)
	}
	if mark := kernel.MarkClear; have.FirewallMark != mark {
		cfg.FirewallMark = &mark
		r.did("mark %#x of its packets instead of %#x", mark, have.FirewallMark)
	}
	there := make(map[overlay.Key]wgtypes.Peer, len(have.Peers))
	for _, p := range have.Peers {
		there[overlay.Key(p.PublicKey)] = p
	}
	for _, p := range peers {
		known, old := there[p.End.Secure.Key]
		delete(there, p.End.Secure.Key)
		late := r.greetings.late(p.End.Secure.Key, known.LastHandshakeTime, now)
		if late && old {
			// Made anew it has no handshake under way. It has had none, so nothing is lost.
			r.did("handshake with node %s started over", p.Node)
			cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.End.Secure.Key), Remove: true})
			known, old = wgtypes.Peer{}, false
		} else if !old || rekeyed {
			r.greetings.expect(own, p.End.Secure.Key, now)
		}
		change, differs := r.peer(p, known, old)
		if differs {
			cfg.Peers = append(cfg.Peers, change)
		}
		if !old || rekeyed {
			nudge = append(nudge, change.PublicKey)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(there), func(a, b overlay.Key) int { return strings.Compare(a.String(), b.String()) }) {
		r.did("no peer %s", k)
		delete(r.endpoints, k)
		delete(r.greetings, k)
		// First, for their addresses may be another's now.
		cfg.Peers = slices.Insert(cfg.Peers, 0, wgtypes.PeerConfig{PublicKey: wgtypes.Key(k), Remove: true})
	}
	return cfg, nudge
}

// peer is how one is to be changed, if it is.
func (r *run) peer(p calc.SecurePeer, known wgtypes.Peer, old bool) (change wgtypes.PeerConfig, differs bool) {
	change = wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.End.Secure.Key), UpdateOnly: old}
	endpoint := netip.AddrPortFrom(p.End.Address.Addr(), r.port)
	if r.moved(p.End.Secure.Key, endpoint, known) {
		change.Endpoint = net.UDPAddrFromAddrPort(endpoint)
		differs = true
	}
	missing, extra := allowedDifference(p.Allowed, known.AllowedIPs)
	switch {
	case len(extra) > 0:
		change.ReplaceAllowedIPs, change.AllowedIPs, differs = true, networks(p.Allowed), true
	case len(missing) > 0:
		change.AllowedIPs, differs = networks(missing), true
	}
	keepAlive := r.settings.KeepAlive
	if !r.link.Up {
		keepAlive = greeting
	}
	if known.PersistentKeepaliveInterval != keepAlive {
		change.PersistentKeepaliveInterval, differs = &keepAlive, true
	}
	if differs || !old {
		r.did("peer %s at %s with %d networks", p.Node, endpoint, len(p.Allowed))
	}
	return change, differs || !old
}

// moved reports whether a peer's endpoint is to be set. One that is heard of from
// elsewhere has more addresses than its Node says.
func (r *run) moved(key overlay.Key, want netip.AddrPort, known wgtypes.Peer) bool {
	if known.Endpoint == nil {
		return true
	}
	at := known.Endpoint.AddrPort()
	if netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port()) == want {
		r.endpoints[key] = want
		return false
	}
	return r.endpoints[key] != want || time.Since(known.LastHandshakeTime) > alive
}

func allowedDifference(want []netip.Prefix, have []net.IPNet) (missing, extra []netip.Prefix) {
	there := map[netip.Prefix]bool{}
	for _, n := range have {
		a, _ := netip.AddrFromSlice(n.IP)
		bits, _ := n.Mask.Size()
		there[netip.PrefixFrom(a.Unmap(), bits)] = true
	}
	for _, p := range want {
		if !there[p] {
			missing = append(missing, p)
		}
		delete(there, p)
	}
	return missing, slices.Collect(maps.Keys(there))
}

func networks(prefixes []netip.Prefix) []net.IPNet {
	out := make([]net.IPNet, 0, len(prefixes))
	for _, p := range prefixes {
		out = append(out, net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	return out
}

// isErrno reads the error that a process' socket answers with.
func isErrno(err error, errno syscall.Errno) bool {
	for _, form := range []string{"errno=%d", "errno=-%d"} {
		if strings.HasSuffix(err.Error(), fmt.Sprintf(form, int(errno))) {
			return true
		}
	}
	return false
}
