package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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

// underlay knows the MTU that pods may use: the least of the devices that carry
// the node's own addresses.
type underlay struct {
	kernel links
	log    *slog.Logger
	mtu    atomic.Int64

	mu    sync.Mutex
	addrs []netip.Prefix
}

// MTU is the one for pods.
func (u *underlay) MTU() int {
	if mtu := u.mtu.Load(); mtu != 0 {
		return int(mtu)
	}
	return defaultMTU
}

// setAddrs tells the node's addresses as the datastore has them.
func (u *underlay) setAddrs(addrs []netip.Prefix) {
	u.mu.Lock()
	same := slices.Equal(u.addrs, addrs)
	u.addrs = addrs
	u.mu.Unlock()
	if !same {
		u.refresh()
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
		u.log.Info("MTU of new pods", "mtu", mtu)
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
