package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tortie/felix/calc"
	"tortie/felix/config"
	"tortie/internal/kernel"
)

// defaultMTU is what a pod gets while the node's own device is not known.
const defaultMTU = 1500

// underlayRefresh is how often the devices are looked at again.
const underlayRefresh = 30 * time.Second

// links is what underlay asks of the kernel; *kernel.Handle has it.
type links interface {
	Links() ([]kernel.Link, error)
	Addresses(link int) ([]kernel.Address, error)
}

// What VXLAN adds to a packet: the outer headers of IP and UDP, its own, and the inner
// one of Ethernet.
const (
	overhead4 = 50
	overhead6 = 70
)

// underlay knows the MTU that pods may use: the least of the devices that carry
// the node's own addresses, less what the overlays in use add.
type underlay struct {
	kernel links
	log    *slog.Logger
	mtu    atomic.Int64 // of the devices
	// used: which overlays pods' packets may meet.
	used4, used6 atomic.Bool

	vxlan atomic.Pointer[config.VXLAN]

	mu    sync.Mutex
	addrs []netip.Prefix
}

func (u *underlay) configure(c config.VXLAN) { u.vxlan.Store(&c) }

// configured are the MTUs of the devices that the operator has chosen; 0 for none.
func (u *underlay) configured() (mtu4, mtu6 int) {
	if c := u.vxlan.Load(); c != nil {
		return c.MTU4, c.MTU6
	}
	return 0, 0
}

// MTU is the one for pods.
func (u *underlay) MTU() int {
	mtu := u.devices()
	if u.used4.Load() {
		mtu = min(mtu, u.tunnelMTU(false))
	}
	if u.used6.Load() {
		mtu = min(mtu, u.tunnelMTU(true))
	}
	return mtu
}

func (u *underlay) devices() int {
	if mtu := u.mtu.Load(); mtu != 0 {
		return int(mtu)
	}
	return defaultMTU
}

// tunnelMTU is that of a VXLAN device: as configured, else what the underlay lets
// through whole.
func (u *underlay) tunnelMTU(v6 bool) int {
	mtu4, mtu6 := u.configured()
	given, fits := mtu4, u.devices()-overhead4
	if v6 {
		given, fits = mtu6, u.devices()-overhead6
	}
	if given != 0 {
		return given
	}
	return fits
}

// set tells the node's addresses as the datastore has them, and from which pools it
// has tunnels.
func (u *underlay) set(addrs []netip.Prefix, tunnels []calc.TunnelPool) {
	before := u.MTU()
	u.used4.Store(slices.ContainsFunc(tunnels, func(p calc.TunnelPool) bool { return p.Prefix.Addr().Is4() }))
	u.used6.Store(slices.ContainsFunc(tunnels, func(p calc.TunnelPool) bool { return p.Prefix.Addr().Is6() }))
	u.mu.Lock()
	same := slices.Equal(u.addrs, addrs)
	u.addrs = addrs
	u.mu.Unlock()
	if !same {
		u.refresh()
	}
	if mtu := u.MTU(); same && mtu != before {
		u.log.Info("MTU of new pods", "mtu", mtu)
	}
}

func (u *underlay) refresh() {
	u.mu.Lock()
	defer u.mu.Unlock()
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
	if mtu := lowestMTU(all, held, u.addrs); mtu != 0 && int64(mtu) != u.mtu.Swap(int64(mtu)) {
		u.log.Info("MTU of new pods", "mtu", u.MTU())
		mtu4, mtu6 := u.configured()
		for name, excess := range map[string]int{"vxlanMTU": mtu4 - mtu + overhead4, "vxlanMTUV6": mtu6 - mtu + overhead6} {
			if excess > 0 {
				u.log.Warn("the MTU of VXLAN is too large for the node's device: full packets of pods are fragmented or lost; leave it out, or lower it",
					"parameter", name, "mtu-of-device", mtu, "too-large-by", excess)
			}
		}
	}
}

// lowestMTU is that of the devices which carry the node's addresses; 0 when none
// does.
func lowestMTU(all []kernel.Link, held []kernel.Address, node []netip.Prefix) int {
	lowest := 0
	for _, a := range held {
		if !slices.ContainsFunc(node, func(p netip.Prefix) bool { return p.Addr() == a.Prefix.Addr() }) {
			continue
		}
		for _, l := range all {
			if l.Index == a.Link && (lowest == 0 || l.MTU < lowest) {
				lowest = l.MTU
			}
		}
	}
	return lowest
}

// run follows changes of the devices until ctx ends.
func (u *underlay) run(ctx context.Context) error {
	ticker := time.NewTicker(underlayRefresh) // the edge: run is the ticking alone
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			u.refresh()
		case <-ctx.Done():
			return nil
		}
	}
}
