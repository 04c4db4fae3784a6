// Package peering puts the addresses at which the node is the BGP peer of its pods on its
// ends of those pods' veth pairs.
//
// They are addresses of this host alone: IPv4 of the scope of the host, IPv6 deprecated. So
// they are never the source of what the node sends by itself, and that says whose they
// are: any such address of full length on a pod's device is felix's.
package peering

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"tortie/internal/kernel"
)

// Kernel is what Addresses need of [kernel.Handle].
type Kernel interface {
	Links() ([]kernel.Link, error)
	Addresses(link int) ([]kernel.Address, error)
	Apply(changes ...kernel.Change) []error
	DeleteAddress(link int, prefix netip.Prefix) error
}

// The pause after a failure, and after a device was missing: it comes with its pod.
const retry = time.Second

// Addresses keeps the addresses as wanted.
type Addresses struct {
	kernel Kernel
	log    *slog.Logger
	kick   chan struct{}

	mu     sync.Mutex
	every  time.Duration
	wanted map[string][]netip.Addr // by interface; never changed, only replaced
	failed string                  // the last error, as logged
}

// New makes Addresses that look by themselves every so often.
func New(k Kernel, every time.Duration, log *slog.Logger) *Addresses {
	return &Addresses{kernel: k, log: log, every: every, kick: make(chan struct{}, 1)}
}

// Set says which addresses the node has on which interfaces. The caller leaves wanted alone.
func (a *Addresses) Set(wanted map[string][]netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	quiet := len(wanted) == 0 && a.wanted != nil && len(a.wanted) == 0
	if wanted == nil {
		wanted = map[string][]netip.Addr{}
	}
	a.wanted = wanted
	if quiet {
		return
	}
	// Also where nothing has changed: a pod that was made anew has a new device.
	a.wake()
}

// SetInterval has them look every so often from now on.
func (a *Addresses) SetInterval(every time.Duration) {
	a.mu.Lock()
	changed := every != a.every
	a.every = every
	a.mu.Unlock()
	if changed {
		a.wake()
	}
}

func (a *Addresses) wake() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

func (a *Addresses) interval() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.every
}

// Run makes the kernel so until ctx ends, which changes nothing. Nothing is done before
// the first Set.
func (a *Addresses) Run(ctx context.Context) error {
	again := time.NewTimer(a.interval())
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.kick:
		case <-again.C:
		}
		pause := a.interval()
		if !a.look() {
			pause = min(retry, pause)
		}
		again.Reset(pause)
	}
}

// look makes the kernel as wanted and reports whether it is.
func (a *Addresses) look() bool {
	a.mu.Lock()
	wanted := a.wanted
	a.mu.Unlock()
	if wanted == nil {
		return true
	}
	missing, err := a.apply(wanted)
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != a.failed {
		a.log.Warn("pods can't connect to the node as their BGP peer", "err", err)
	}
	a.failed = text
	return err == nil && !missing
}

// apply reads what there is, and changes what differs. missing: a device is yet to come.
func (a *Addresses) apply(wanted map[string][]netip.Addr) (missing bool, err error) {
	links, err := a.kernel.Links()
	if err != nil {
		return false, fmt.Errorf("peering addresses: %w", err)
	}
	have, err := a.kernel.Addresses(0)
	if err != nil {
		return false, fmt.Errorf("peering addresses: %w", err)
	}
	names, up := map[int]string{}, 0
	for _, l := range links {
		if !strings.HasPrefix(l.Name, kernel.PodLink) {
			continue
		}
		names[l.Index] = l.Name
		if l.Up && wanted[l.Name] != nil {
			up++
		}
	}
	there, err := a.takeAway(have, names, wanted)
	return up < len(wanted), errors.Join(err, a.add(names, wanted, there))
}

// takeAway deletes those that are wanted no more, and returns the rest.
func (a *Addresses) takeAway(have []kernel.Address, names map[int]string, wanted map[string][]netip.Addr) (map[key]bool, error) {
	var errs []error
	there := map[key]bool{}
	for _, h := range have {
		name, pod := names[h.Link]
		switch {
		case !pod || !h.Prefix.IsSingleIP() || !unchosen(h):
		case slices.Contains(wanted[name], h.Prefix.Addr()):
			there[key{h.Link, h.Prefix.Addr()}] = true
		default:
			errs = append(errs, a.kernel.DeleteAddress(h.Link, h.Prefix))
		}
	}
	return there, errors.Join(errs...)
}

func (a *Addresses) add(names map[int]string, wanted map[string][]netip.Addr, there map[key]bool) error {
	var errs []error
	for _, index := range slices.Sorted(maps.Keys(names)) {
		for _, addr := range wanted[names[index]] {
			if !there[key{index, addr}] {
				errs = append(errs, a.kernel.Apply(kernel.LinkAddress{Link: index, Prefix: netip.PrefixFrom(addr, addr.BitLen()), Deprecated: true})...)
			}
		}
	}
	return errors.Join(errs...)
}

type key struct {
	link int
	addr netip.Addr
}

// unchosen: the kernel never takes the address for the source of packets by itself.
func unchosen(a kernel.Address) bool {
	if a.Prefix.Addr().Is4() {
		return a.Scope == kernel.ScopeHost
	}
	return a.Deprecated
}
