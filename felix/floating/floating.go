// Package floating leads packets for floating addresses to the pods that have them: an
// address that a pod is reached at besides its own, and does not know of. Connections
// from everywhere are led on, also from the node itself and from the pod to itself; the
// pod sees who asks. What a pod begins by itself keeps its own address.
//
// The rules are the same for every pod, and maps hold the addresses, in the nftables table
// "inet tortie". The routes to floating addresses are those of the dataplane.
package floating

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
)

// Config is what Addresses needs.
type Config struct {
	// NFT is the table; nil for the real one of the network namespace that Apply is
	// called in, through the nft command.
	NFT knftables.Interface
	// Forget ends what the kernel remembers of connections to an address: they would be
	// led for ever where they were led to before. Nil: nothing is forgotten.
	Forget func(netip.Addr) error
	Log    *slog.Logger // nil for no log
}

// Addresses are the floating addresses of this node's pods. Its methods may be called
// from any goroutine; while Apply runs the others wait.
type Addresses struct {
	log    *slog.Logger
	forget func(netip.Addr) error
	rules  *ruleset.Owner

	mu    sync.Mutex
	pods  map[netip.Addr]netip.Addr // by floating address
	stale map[netip.Addr]bool       // led elsewhere since the last Apply
}

// New makes Addresses without any. Nothing is read or written before the first Apply.
func New(cfg Config) *Addresses {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Forget == nil {
		cfg.Forget = func(netip.Addr) error { return nil }
	}
	return &Addresses{
		log: cfg.Log, forget: cfg.Forget, stale: map[netip.Addr]bool{},
		rules: ruleset.New(cfg.NFT, shape(), ", or take the floating addresses from the pods"),
	}
}

// Set makes pods, from floating addresses to pods' own of the same version, the desired
// ones. It is not changed any more.
func (a *Addresses) Set(pods map[netip.Addr]netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, some := range []map[netip.Addr]netip.Addr{a.pods, pods} {
		for external := range some {
			if a.pods[external] != pods[external] {
				a.stale[external] = true
			}
		}
	}
	a.pods = pods
	a.rules.Set(contentsOf(pods))
}

// QueueResync makes the next Apply read the kernel, and mend what differs.
func (a *Addresses) QueueResync() { a.rules.QueueResync() }

// Apply makes the kernel's rules as desired; see [ruleset.Owner.Apply]. ruleset.ErrNoNft
// when there are floating addresses and nft is missing.
func (a *Addresses) Apply(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	out, err := a.rules.Apply(ctx)
	if err != nil {
		return fmt.Errorf("lead floating addresses to pods: %w", err)
	}
	switch {
	case out.Changed:
		a.log.Info("floating addresses changed", "addresses", len(a.pods), "differed", out.Differed)
	case len(out.Differed) > 0 && !out.First:
		a.log.Warn("floating addresses mended: someone had changed their rules", "differed", out.Differed)
	}
	if out.First && len(out.Differed) == 0 {
		clear(a.stale) // an earlier process led them where they lead
	}
	for external := range a.stale {
		if err := a.forget(external); err != nil {
			a.log.Warn("who is connected to a floating address may stay with the pod that had it before", "address", external, "err", err)
		}
	}
	clear(a.stale)
	return nil
}

// Check names what of the rules in the kernel is not as it was made to stand.
func (a *Addresses) Check(ctx context.Context) (differences []string, err error) {
	return a.rules.Check(ctx, "floating addresses")
}

// The names of the maps, less the version.
const (
	leads  = "floating"
	selves = "floating-selves"
)

// shape is our share of the table.
func shape() ruleset.Shape {
	before := base("floating-prerouting", knftables.PreroutingHook, knftables.DNATPriority)
	own := base("floating-output", knftables.OutputHook, knftables.DNATPriority)
	back := base("floating-answers", knftables.PostroutingHook, knftables.SNATPriority)
	var s ruleset.Shape
	for _, v := range []ruleset.Version{ruleset.V4, ruleset.V6} {
		addr := fmt.Sprintf("ipv%d_addr", v)
		s.Sets = append(s.Sets,
			ruleset.Set{Name: v.Name(leads), Map: true, Type: addr + " : " + addr},
			ruleset.Set{Name: v.Name(selves), Map: true, Type: addr + " . " + addr + " : " + addr})
		lead := ruleset.Rule{Text: fmt.Sprintf("dnat %[1]s to %[1]s daddr map @%[2]s", v.Keyword(), v.Name(leads)), Does: "to a pod's floating address"}
		before.Rules, own.Rules = append(before.Rules, lead), append(own.Rules, lead)
		// A pod would not take a packet from itself.
		back.Rules = append(back.Rules, ruleset.Rule{
			Text: fmt.Sprintf("snat %[1]s to %[1]s saddr . %[1]s daddr map @%[2]s", v.Keyword(), v.Name(selves)),
			Does: "a pod that asks itself by its floating address",
		})
	}
	s.Chains = []ruleset.Chain{before, own, back}
	return s
}

func base(name string, hook knftables.BaseChainHook, priority knftables.BaseChainPriority) ruleset.Chain {
	return ruleset.Chain{Name: name, Type: knftables.NATType, Hook: hook, Priority: priority}
}

// contentsOf is nil without addresses. Of a pod's several the lowest is the one that it
// sees itself under.
func contentsOf(pods map[netip.Addr]netip.Addr) ruleset.Contents {
	if len(pods) == 0 {
		return nil
	}
	c, seen := ruleset.Contents{}, map[netip.Addr]bool{}
	for _, external := range slices.SortedFunc(maps.Keys(pods), netip.Addr.Compare) {
		pod, v := pods[external], ruleset.V6
		if external.Is4() {
			v = ruleset.V4
		}
		c[v.Name(leads)] = append(c[v.Name(leads)], fmt.Sprintf("%s : %s", external, pod))
		if !seen[pod] {
			c[v.Name(selves)] = append(c[v.Name(selves)], fmt.Sprintf("%s . %s : %s", pod, pod, external))
		}
		seen[pod] = true
	}
	for _, list := range c {
		slices.Sort(list)
	}
	return c
}
