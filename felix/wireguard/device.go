package wireguard

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"tortie/felix/calc"
	"tortie/felix/tunneladdr"
	"tortie/internal/kernel"
	"tortie/internal/overlay"
)

// run is one look at one device.
type run struct {
	cfg       Config
	settings  Settings
	v6        bool
	device    string
	port      uint16
	sibling   func() (name string, port uint16)
	endpoints map[overlay.Key]netip.AddrPort
	greetings greetings
	link      kernel.Link
	have      *wgtypes.Device // as it was before this look; nil if it was not read
	stays     error           // why the port is not the one that is configured
	rekeyed   time.Time       // zero unless this look has changed the key
	done      []string        // what was not as it should be
}

func (r *run) did(format string, args ...any) { r.done = append(r.done, fmt.Sprintf(format, args...)) }

// Ours reports whether a link may be a device of felix': of the kernel's WireGuard, or
// of a process that stands in.
func Ours(l kernel.Link) bool { return l.Kind == "wireguard" || l.Kind == "tun" }

// remove takes the device away when it is one of WireGuard: anything else is a
// stranger's. A process that stands in ends with it.
func (r *run) remove(why string) error {
	link, err := r.cfg.Kernel.LinkByName(r.device)
	if errors.Is(err, kernel.ErrNotFound) || err == nil && !Ours(link) {
		return nil
	}
	if err == nil {
		err = r.cfg.Kernel.DeleteLink(link.Index)
	}
	if err != nil {
		return fmt.Errorf("remove WireGuard device %s: %w", r.device, err)
	}
	clear(r.endpoints)
	clear(r.greetings)
	r.cfg.Log.Info("a WireGuard device was removed", "iface", r.device, "why", why)
	return nil
}

// make returns the device's index once packets can go through it, whatever becomes of
// the rest: without it all routes into it are withdrawn.
func (r *run) make(tunnel *calc.SecureTunnel) (int, error) {
	if err := r.ensureDevice(); err != nil {
		return 0, err
	}
	err := r.ensureSysctls()
	there, addressErr := tunneladdr.Ensure(r.cfg.Kernel, r.link, tunnel.Here.Secure.Tunnel, r.did)
	if err = errors.Join(err, addressErr); !there {
		return 0, err
	}
	// The peers' keys come before the device is up: what it can't encrypt it drops.
	if configErr := r.configure(tunnel.Peers); configErr != nil && !r.link.Up {
		return 0, errors.Join(err, configErr)
	} else if configErr != nil {
		err = errors.Join(err, configErr)
	}
	if !r.link.Up {
		r.did("switched on")
		if upErr := r.portTaken(r.cfg.Kernel.SetUp(r.link.Index)); upErr != nil {
			return 0, errors.Join(err, upErr)
		}
	}
	return r.link.Index, err
}

func (r *run) ensureDevice() (err error) {
	k, mtu := r.cfg.Kernel, r.cfg.MTU(r.v6)
	r.link, err = k.LinkByName(r.device)
	switch {
	case errors.Is(err, kernel.ErrNotFound):
		if err := r.create(mtu); err != nil {
			return err
		}
	case err != nil:
		return err
	case !Ours(r.link):
		return fmt.Errorf("a device of that name is there that is not felix' (%s): set another %s in the FelixConfiguration", or(r.link.Kind, "hardware"), nameField(r.v6))
	}
	if r.link.MTU != mtu {
		r.did("MTU %d instead of %d", mtu, r.link.MTU)
		return k.SetMTU(r.link.Index, mtu)
	}
	return nil
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// create makes the device in the kernel, else in a process.
func (r *run) create(mtu int) (err error) {
	if err := r.cfg.Keys.Named(r.device); err != nil {
		return err
	}
	clear(r.endpoints)
	clear(r.greetings)
	r.did("made with MTU %d", mtu)
	r.link, err = r.cfg.Kernel.CreateDevice(r.device, "wireguard")
	if !errors.Is(err, kernel.ErrNotSupported) {
		return err
	}
	if processErr := r.cfg.Userspace(r.device, mtu); processErr != nil {
		return fmt.Errorf("the kernel has no WireGuard (CONFIG_WIREGUARD; modprobe wireguard), and what stands in for it needs /dev/net/tun (CONFIG_TUN; modprobe tun): %w", processErr)
	}
	r.link, err = r.cfg.Kernel.LinkByName(r.device)
	return err
}

// ensureSysctls: the device forwards, and takes packets of nodes whose own addresses
// lead out of another device, whatever is set for all of them.
func (r *run) ensureSysctls() error {
	if r.v6 {
		return nil
	}
	old, err := r.cfg.Kernel.SwapSysctls([]kernel.Setting{
		{Name: "ipv4/conf/" + r.device + "/forwarding", Value: "1"},
		{Name: "ipv4/conf/" + r.device + "/rp_filter", Value: "2"},
	})
	for _, s := range old {
		r.did("%s", s.Name)
	}
	return err
}

// portTaken says what to do when the port is another's.
func (r *run) portTaken(err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) && (err == nil || !isErrno(err, syscall.EADDRINUSE)) {
		return err
	}
	field := "wireguardListeningPort"
	if r.v6 {
		field += "V6"
	}
	if name, port := r.sibling(); port == r.port {
		return fmt.Errorf("UDP port %d is that of felix' own device %s: give that one another first, or set another %s in the FelixConfiguration default: %w", port, name, field, err)
	}
	return fmt.Errorf("UDP port %d is taken by another program (ss -ulpn): end that, or set %s in the FelixConfiguration default: %w", r.port, field, err)
}

// gone reports whether there is nobody who would configure the device.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// CanListen is the error of listening at a UDP port of the calling thread's namespace, on
// all addresses.
func CanListen(port uint16) error {
	c, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
	if err != nil {
		return err
	}
	return c.Close()
}
